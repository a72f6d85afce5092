/**
 * Turns a region of the arena into rows of Float32: what a tap reads back, whatever layout the kernels keep it in.
 *
 * For looking at activations (`verify`, `forward`), not for the hot path.
 */
import { InternalError } from "./errors.ts";
import type { BufferEntry } from "./manifest.ts";

const ELEMENT_BYTES = { f32: 4, f16: 2, bf16: 2, fp8_e4m3: 1, i32: 4, u8: 1 } as const;
const TILE_ROWS = 16;
const TILE_COLS = 32;

/** Bytes from a buffer's start that hold its first `rows` rows. */
export function tapBytes(buffer: BufferEntry, rows: number): number {
  const size = ELEMENT_BYTES[buffer.dtype];
  if (buffer.layout === "rows") return rows * buffer.cols * size;
  return Math.ceil(rows / TILE_ROWS) * Math.ceil(buffer.cols / TILE_COLS) * TILE_ROWS * TILE_COLS * size;
}

/** The first `rows` rows of a copied buffer, (rows, cols) row-major. */
export function tapRows(buffer: BufferEntry, rows: number, bytes: Uint8Array): Float32Array {
  const { cols, layout } = buffer;
  const at = elementReader(buffer, bytes);
  const out = new Float32Array(rows * cols);
  const tilesPerRow = Math.ceil(cols / TILE_COLS);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < cols; c++) {
      const tile = Math.floor(r / TILE_ROWS) * tilesPerRow + Math.floor(c / TILE_COLS);
      const tiled = (tile * TILE_ROWS + (r % TILE_ROWS)) * TILE_COLS + (c % TILE_COLS);
      out[r * cols + c] = at(layout === "rows" ? r * cols + c : tiled);
    }
  }
  return out;
}

function elementReader({ name, dtype }: BufferEntry, bytes: Uint8Array): (index: number) => number {
  const { buffer, byteOffset } = bytes;
  switch (dtype) {
    case "f32": {
      const data = new Float32Array(buffer, byteOffset);
      return (i) => data[i]!;
    }
    case "bf16": {
      const data = new Uint16Array(buffer, byteOffset);
      const bits = new Uint32Array(1); // a bf16 is the upper half of the f32 of the same value
      const value = new Float32Array(bits.buffer);
      return (i) => {
        bits[0] = data[i]! << 16;
        return value[0]!;
      };
    }
    case "f16": {
      const data = new Uint16Array(buffer, byteOffset);
      return (i) => halfToNumber(data[i]!);
    }
    default:
      throw new InternalError(`buffer ${name} of ${dtype} is not an activation`);
  }
}

/** IEEE 754 binary16. */
function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
