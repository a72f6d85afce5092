/**
 * Writes weights.bin: streams each tensor from its sources through windows of a few megabytes, converting and laying out on the way.
 *
 * Memory does not depend on the model but for its largest transposed matrix (`row-reader.ts`): two windows of rows, two of output.
 * Reading, packing with hashing, and writing overlap. The layouts are those of `panel.ts` and `layout.ts`.
 */
import { createHash } from "node:crypto";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { PAGE_BYTES } from "../../runtime/manifest.ts";
import { invariant } from "../errors.ts";
import { dtypeBytes } from "../ir/tensor-type.ts";
import { checkSources } from "./check-sources.ts";
import { type PlannedTensor, panelMatrices, type WeightsPlan } from "./layout.ts";
import { LANES, packPanel, panelBytes } from "./panel.ts";
import { type RowBlock, RowReader, Scratch } from "./row-reader.ts";
import { rowLength, Segments } from "./rows.ts";
import type { WeightSource } from "./source.ts";

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
  const windows = plan.tensors.flatMap(windowsOf);
  const reader = new RowReader(source);
  const outputs = [new Scratch(), new Scratch()] as const;
  const hash = createHash("sha256");
  let done = 0;
  let writing = Promise.resolve();
  let reading = handled(reader.read(windows[0]));
  try {
    for (const [i, window] of windows.entries()) {
      const rows = await reading;
      // Window i + 1 is read and window i − 1 is written while this thread packs and hashes window i.
      reading = handled(reader.read(windows[i + 1]));
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

/** A stretch of output that is made at once from rows read one after another. */
interface Window extends RowBlock {
  /** For panels: rows of each way are padded to `perWay` panels. */
  readonly panels: { readonly ways: number; readonly perWay: number } | null;
  /** Output bytes, zeros up to the next page included when the tensor ends here. */
  readonly bytes: number;
}

/** Cuts a tensor into windows, in the order of its output. */
function windowsOf({ entry, request }: PlannedTensor): Window[] {
  const { dtype, rows, ways } = request;
  const k = rowLength(rows.shape);
  const segments = new Segments(k, rows.segments);
  const windows: Window[] = [];
  let end = 0;
  const push = (parts: RowBlock["parts"], numRows: number, panels: Window["panels"], bytes: number) => {
    end += bytes;
    const padding = end === entry.bytes ? (PAGE_BYTES - (end % PAGE_BYTES)) % PAGE_BYTES : 0;
    windows.push({ dtype, k, parts, numRows, panels, bytes: bytes + padding });
  };
  if (entry.layout === "rows") {
    const rowBytes = k * dtypeBytes[dtype];
    const most = Math.max(1, Math.floor(WINDOW_BYTES / rowBytes));
    const total = entry.bytes / rowBytes;
    for (let begin = 0; begin < total; begin += most) {
      const count = Math.min(most, total - begin);
      push([{ row: 0, segments: segments.take(begin, count) }], count, null, count * rowBytes);
    }
    return windows;
  }
  const { count, n } = panelMatrices(request);
  const group = ways * panelBytes(dtype, k);
  const numGroups = Math.ceil(n / LANES);
  const most = Math.max(1, Math.floor(WINDOW_BYTES / group));
  for (let matrix = 0; matrix < count; matrix++) {
    for (let first = 0; first < numGroups; first += most) {
      const perWay = Math.min(most, numGroups - first);
      const waysRows = Math.min(n - first * LANES, perWay * LANES);
      const parts = Array.from({ length: ways }, (_, way) => ({
        row: way * perWay * LANES,
        segments: segments.take((matrix * ways + way) * n + first * LANES, waysRows),
      }));
      push(parts, ways * perWay * LANES, { ways, perWay }, perWay * group);
    }
  }
  return windows;
}

/** Lays out `rows` as the window's output, zeros to its end. */
function pack({ dtype, k, panels }: Window, rows: Uint8Array, out: Uint8Array): void {
  if (!panels) {
    out.set(rows);
    out.fill(0, rows.length);
    return;
  }
  const { ways, perWay } = panels;
  const panel = panelBytes(dtype, k);
  const rowsBytes = LANES * k * dtypeBytes[dtype];
  for (let p = 0; p < perWay * ways; p++) {
    const way = p % ways;
    packPanel(dtype, k, rows, (way * perWay + Math.floor(p / ways)) * rowsBytes, out, p * panel);
  }
  out.fill(0, perWay * ways * panel);
}
