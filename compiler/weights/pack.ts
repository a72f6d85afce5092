/**
 * Writes weights.bin: streams each tensor from its sources through windows of a few megabytes, converting and laying out on the way.
 *
 * Memory does not depend on the model: two windows being read, two being written, one between. Reading, packing with hashing, and
 * writing overlap. The layouts are those of `panel.ts` and `layout.ts`.
 */
import { createHash } from "node:crypto";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { invariant } from "../errors.ts";
import { dtypeBytes } from "../ir/tensor-type.ts";
import { type Converter, converter } from "./convert.ts";
import { checkSources, PAGE_BYTES, type PlannedTensor, type WeightsPlan } from "./layout.ts";
import { LANES, packPanel, panelBytes } from "./panel.ts";
import { elementsOf, type WeightDType, type WeightInfo, type WeightSource } from "./source.ts";

/** Output bytes of a window; a single panel may be larger. */
const WINDOW_BYTES = 4 * 2 ** 20;

/** Where packed bytes go, in order. A `FileHandle` is one. */
export interface PackSink {
  /** Writes all of `bytes`, which stay untouched until the promise settles. */
  write(bytes: Uint8Array): Promise<void>;
}

/** `done` and `total` bytes of weights.bin. */
export type PackProgress = (done: number, total: number) => void;

export interface PackedWeights {
  readonly bytes: number;
  readonly sha256: string;
}

/**
 * Packs `plan` into `file`: under a temporary name beside it, synced, then renamed, so that `file` is whole or absent.
 * Throws `CompileError` for a source that lacks a tensor; errors of the file system, a full disk's among them, as they come.
 */
export async function packWeights(
  plan: WeightsPlan,
  source: WeightSource,
  file: string,
  onProgress: PackProgress = () => {},
): Promise<PackedWeights> {
  const partial = `${file}.partial`;
  const handle = await open(partial, "w");
  try {
    let result: PackedWeights;
    try {
      result = await streamWeights(plan, source, { write: (bytes) => writeAll(handle, bytes) }, onProgress);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(partial, file);
    return result;
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
}

async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) done += (await handle.write(bytes, done, bytes.length - done)).bytesWritten;
}

/** Sends the bytes of weights.bin to `sink` in order; the pieces are whole pages, except those within a tensor. */
export async function streamWeights(
  plan: WeightsPlan,
  source: WeightSource,
  sink: PackSink,
  onProgress: PackProgress = () => {},
): Promise<PackedWeights> {
  checkSources(plan, source, "weights");
  const windows = plan.tensors.flatMap((tensor) => windowsOf(tensor, source));
  const readers = [new WindowReader(source), new WindowReader(source)] as const;
  const outputs = [new Scratch(), new Scratch()] as const;
  const hash = createHash("sha256");
  let done = 0;
  let writing = Promise.resolve();
  let reading = handled(readers[0].read(windows[0]));
  try {
    for (const [i, window] of windows.entries()) {
      const rows = await reading;
      // Window i + 1 is read and window i − 1 is written while this thread packs and hashes window i.
      reading = handled(readers[(i + 1) % 2 === 0 ? 0 : 1].read(windows[i + 1]));
      const out = outputs[i % 2 === 0 ? 0 : 1].take(window.bytes);
      pack(window, rows, out);
      hash.update(out);
      await writing;
      writing = handled(sink.write(out));
      done += out.length;
      onProgress(done, plan.bytes);
    }
    await writing;
  } finally {
    // Also after an error: nobody may read or write a file that is being closed.
    await Promise.allSettled([reading, writing]);
  }
  invariant(done === plan.bytes, `packed ${done} bytes of ${plan.bytes}`);
  return { bytes: done, sha256: hash.digest("hex") };
}

/** The same promise; its failure is seen when it is awaited, not before. */
function handled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

/** A run of consecutive source elements, all of one tensor. */
interface Piece {
  readonly name: string;
  readonly info: WeightInfo;
  readonly begin: number;
  readonly count: number;
}

/** A stretch of output that is made at once from `pieces` read one after another. */
interface Window {
  readonly dtype: WeightDType;
  readonly pieces: readonly Piece[];
  /** For panels: row length, and where the 16 rows of each panel are. */
  readonly panels: { readonly k: number; readonly ways: number; readonly waysRows: number; readonly perWay: number } | null;
  /** Output bytes, zeros up to the next page included when the tensor ends here. */
  readonly bytes: number;
}

/** Cuts a tensor into windows, in the order of its output. */
function windowsOf(tensor: PlannedTensor, source: WeightSource): Window[] {
  const { entry, request } = tensor;
  const { dtype } = request;
  const size = dtypeBytes[dtype];
  const windows: Window[] = [];
  const padded = (end: number, bytes: number) =>
    end === entry.bytes ? bytes + ((PAGE_BYTES - (end % PAGE_BYTES)) % PAGE_BYTES) : bytes;
  const parts = partsOf(tensor, source);
  if (entry.layout === "rows") {
    const total = entry.bytes / size;
    const most = WINDOW_BYTES / size;
    for (let begin = 0; begin < total; begin += most) {
      const count = Math.min(most, total - begin);
      const bytes = padded((begin + count) * size, count * size);
      windows.push({ dtype, pieces: slice(parts, begin, count), panels: null, bytes });
    }
    return windows;
  }
  const [rows, k] = entry.shape as readonly [number, number];
  const { ways } = request;
  const n = rows / ways;
  const group = ways * panelBytes(dtype, k);
  const numGroups = Math.ceil(n / LANES);
  const most = Math.max(1, Math.floor(WINDOW_BYTES / group));
  for (let first = 0; first < numGroups; first += most) {
    const perWay = Math.min(most, numGroups - first);
    const waysRows = Math.min(n - first * LANES, perWay * LANES);
    const pieces = Array.from({ length: ways }, (_, way) => slice(parts, (way * n + first * LANES) * k, waysRows * k)).flat();
    const bytes = padded((first + perWay) * group, perWay * group);
    windows.push({ dtype, pieces, panels: { k, ways, waysRows, perWay }, bytes });
  }
  return windows;
}

function partsOf({ request }: PlannedTensor, source: WeightSource): Piece[] {
  return request.sources.map(({ name, shape }) => {
    const info = source.find(name);
    invariant(info, `${name} was checked`);
    return { name, info, begin: 0, count: elementsOf(shape) };
  });
}

/** Elements `begin … begin + count − 1` of the joined parts. */
function slice(parts: readonly Piece[], begin: number, count: number): Piece[] {
  const pieces: Piece[] = [];
  let start = 0;
  for (const part of parts) {
    const from = Math.max(begin, start);
    const to = Math.min(begin + count, start + part.count);
    if (from < to) pieces.push({ ...part, begin: from - start, count: to - from });
    start += part.count;
  }
  return pieces;
}

/** Memory that is kept and grows to the largest window asked for. */
class Scratch {
  private buffer = new ArrayBuffer(0);

  take(bytes: number): Uint8Array {
    if (this.buffer.byteLength < bytes) this.buffer = new ArrayBuffer(Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES);
    return new Uint8Array(this.buffer, 0, bytes);
  }
}

/** Reads a window's elements in the window's dtype, into memory of its own. */
class WindowReader {
  private readonly converted = new Scratch();
  private readonly stored = new Scratch();
  private readonly converters = new Map<string, Converter>();

  constructor(private readonly source: WeightSource) {}

  /** Row-major elements of `window`, piece after piece; for panels each way is padded with zero rows to a multiple of 16. Nothing for no window. */
  async read(window: Window | undefined): Promise<Uint8Array> {
    if (!window) return new Uint8Array();
    const { dtype, pieces, panels } = window;
    const size = dtypeBytes[dtype];
    const count = panels ? panels.ways * panels.perWay * LANES * panels.k : pieces.reduce((sum, p) => sum + p.count, 0);
    const rows = this.converted.take(count * size);
    const wayElements = panels ? panels.waysRows * panels.k : count;
    const wayStride = panels ? panels.perWay * LANES * panels.k : count;
    let done = 0;
    for (const piece of pieces) {
      const way = Math.floor(done / wayElements);
      const at = (way * wayStride + (done - way * wayElements)) * size;
      await this.readPiece(piece, dtype, rows.subarray(at, at + piece.count * size));
      done += piece.count;
    }
    for (let way = 0; way * wayStride < count; way++) {
      rows.fill(0, (way * wayStride + wayElements) * size, (way + 1) * wayStride * size);
    }
    return rows;
  }

  private async readPiece({ name, info, begin, count }: Piece, dtype: WeightDType, into: Uint8Array): Promise<void> {
    if (info.dtype === dtype) return this.source.read(name, begin, into);
    const key = `${info.dtype} ${dtype}`;
    const convert = this.converters.get(key) ?? converter(info.dtype, dtype);
    this.converters.set(key, convert);
    const stored = this.stored.take(count * dtypeBytes[info.dtype]);
    await this.source.read(name, begin, stored);
    convert(stored, into, count);
  }
}

/** Lays out `rows` as the window's output, zeros to its end. */
function pack({ dtype, panels }: Window, rows: Uint8Array, out: Uint8Array): void {
  if (!panels) {
    out.set(rows);
    out.fill(0, rows.length);
    return;
  }
  const { k, ways, perWay } = panels;
  const panel = panelBytes(dtype, k);
  const rowsBytes = LANES * k * dtypeBytes[dtype];
  for (let p = 0; p < perWay * ways; p++) {
    const way = p % ways;
    packPanel(dtype, k, rows, (way * perWay + Math.floor(p / ways)) * rowsBytes, out, p * panel);
  }
  out.fill(0, perWay * ways * panel);
}
