/**
 * Reads rows of a checkpoint into memory, as `rows.ts` describes them: in the dtype asked for, wherever their elements lie.
 *
 * Rows that follow each other are read where they are wanted. Others are picked out of the range that they lie in: some rows at a
 * time, or, where the elements of all rows interleave (a transposed matrix), out of the whole matrix, which is kept for who comes next.
 */
import { invariant } from "../errors.ts";
import { dtypeBytes } from "../ir/tensor-type.ts";
import { type Converter, converter } from "./convert.ts";
import { isContiguous, type RowSegment } from "./rows.ts";
import { elementsOf, type WeightDType, type WeightSource } from "./source.ts";

/** Memory comes in multiples of this. */
const GRAIN_BYTES = 4096;
/** Largest range that rows are picked out of, unless they interleave. */
const RANGE_BYTES = 16 * 2 ** 20;
/** Columns copied at a time: each is a stream of its own through the source. */
const TILE = 32;

/** Rows of `k` elements in one stretch of memory: parts begin at rows of their own, what lies between and behind them is zero. */
export interface RowBlock {
  readonly dtype: WeightDType;
  readonly k: number;
  readonly numRows: number;
  readonly parts: readonly { readonly row: number; readonly segments: readonly RowSegment[] }[];
}

/** Memory that is kept and grows to the largest piece asked for. */
export class Scratch {
  private buffer = new ArrayBuffer(0);

  take(bytes: number): Uint8Array {
    if (this.buffer.byteLength < bytes) this.buffer = new ArrayBuffer(Math.ceil(bytes / GRAIN_BYTES) * GRAIN_BYTES);
    return new Uint8Array(this.buffer, 0, bytes);
  }
}

/** Reads one block at a time; a block stays as it is while the next one is read, no longer. */
export class RowReader {
  private readonly blocks = [new Scratch(), new Scratch()] as const;
  private turn: 0 | 1 = 0;
  /** Elements in the dtype they are stored in. */
  private readonly stored = new Scratch();
  private readonly rangeMemory = new Scratch();
  private range: { readonly key: string; readonly bytes: Uint8Array } | null = null;
  private readonly converters = new Map<string, Converter>();

  constructor(private readonly source: WeightSource) {}

  /** The rows of `block`, row-major; nothing for no block. */
  async read(block: RowBlock | undefined): Promise<Uint8Array> {
    if (!block) return new Uint8Array();
    const rowBytes = block.k * dtypeBytes[block.dtype];
    this.turn = this.turn === 0 ? 1 : 0;
    const out = this.blocks[this.turn].take(block.numRows * rowBytes);
    let done = 0;
    for (const { row, segments } of block.parts) {
      out.fill(0, done, row * rowBytes);
      done = row * rowBytes;
      for (const segment of segments) {
        const bytes = segment.rows * rowBytes;
        await this.readSegment(segment, block, out.subarray(done, done + bytes));
        done += bytes;
      }
    }
    out.fill(0, done);
    return out;
  }

  private async readSegment(s: RowSegment, { dtype, k }: RowBlock, into: Uint8Array): Promise<void> {
    const { name } = s.source;
    const from = this.source.find(name)?.dtype;
    invariant(from, `${name} was checked`);
    const stored = from === dtype ? into : this.stored.take(s.rows * k * dtypeBytes[from]);
    if (isContiguous(s, k)) await this.source.read(name, s.offset, stored);
    else await this.pick(s, k, dtypeBytes[from], stored);
    if (from !== dtype) this.converter(from, dtype)(stored, into, s.rows * k);
    if (s.plus === null) return;
    const values = new Float32Array(into.buffer, into.byteOffset, s.rows * k);
    for (let i = 0; i < values.length; i++) values[i]! += s.plus;
  }

  /** Elements of `size` bytes out of the range that they lie in. */
  private async pick(s: RowSegment, k: number, size: number, into: Uint8Array): Promise<void> {
    const { name, shape } = s.source;
    const { rowStride, elementStride } = s;
    const span = (k - 1) * elementStride + 1;
    const interleave = rowStride < span;
    const step = interleave ? s.rows : Math.max(1, Math.floor(RANGE_BYTES / size / rowStride));
    for (let first = 0; first < s.rows; first += step) {
      const rows = Math.min(step, s.rows - first);
      let begin = s.offset + first * rowStride;
      let end = begin + (rows - 1) * rowStride + span;
      const start = begin;
      if (interleave) {
        // Whole rows of the source: the other rows of this matrix are in the same range.
        begin -= begin % elementStride;
        end = Math.min(Math.ceil(end / elementStride) * elementStride, elementsOf(shape));
      }
      const range = await this.readRange(name, begin, (end - begin) * size);
      copyStrided(range, into.subarray(first * k * size), size, start - begin, rows, k, s);
    }
  }

  private async readRange(name: string, begin: number, bytes: number): Promise<Uint8Array> {
    const key = `${begin} ${bytes} ${name}`;
    if (this.range?.key === key) return this.range.bytes;
    this.range = null;
    const range = this.rangeMemory.take(bytes);
    await this.source.read(name, begin, range);
    this.range = { key, bytes: range };
    return range;
  }

  private converter(from: WeightDType, to: WeightDType): Converter {
    const key = `${from} ${to}`;
    const convert = this.converters.get(key) ?? converter(from, to);
    this.converters.set(key, convert);
    return convert;
  }
}

/** to[r · k + c] = from[start + r · rowStride + c · elementStride] */
function copyStrided(
  from: Uint8Array,
  to: Uint8Array,
  size: number,
  start: number,
  rows: number,
  k: number,
  { rowStride, elementStride }: RowSegment,
): void {
  const elements = ({ buffer, byteOffset }: Uint8Array, count: number) =>
    size === 4 ? new Uint32Array(buffer, byteOffset, count) : new Uint16Array(buffer, byteOffset, count);
  const x = elements(from, from.length / size);
  const y = elements(to, rows * k);
  for (let first = 0; first < k; first += TILE) {
    const last = Math.min(k, first + TILE);
    for (let r = 0; r < rows; r++) {
      for (let c = first, at = start + r * rowStride + first * elementStride; c < last; c++, at += elementStride) {
        y[r * k + c] = x[at] as number;
      }
    }
  }
}
