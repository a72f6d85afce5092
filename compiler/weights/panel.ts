/**
 * The `panel16` layout of a linear's weight: panels of 16 output columns, inside a panel k by k, so that a kernel reads one
 * straight stream.
 *
 *   w (ways · n, K) → panel (col / 16) · ways + way holds rows 16 · (col / 16) … + 15 of that way, zeros beyond n
 *   f32, f16: [K][16]     bf16: [Kp / 2][16][2], Kp = K padded to 32 with zeros (32 k = 1024 bytes = one AMX B tile)
 *   stack (E, ways · n, K) → the panels of matrix 0, then those of 1, …: matrix e begins at byte e · panel16Bytes(dtype, ways, n, K)
 *
 * A panel is built from 16 row-major rows; who reads the rows and who writes the panels is `pack.ts`.
 */
import { dtypeBytes } from "../ir/tensor-type.ts";
import type { WeightDType } from "./source.ts";

/** Output columns of a panel. */
export const LANES = 16;
/** bf16 panels are padded to this many k. */
const BF16_K = 32;

/** K with its padding. */
export const paddedK = (dtype: WeightDType, k: number): number => (dtype === "bf16" ? Math.ceil(k / BF16_K) * BF16_K : k);

/** Bytes of one panel. */
export const panelBytes = (dtype: WeightDType, k: number): number => paddedK(dtype, k) * LANES * dtypeBytes[dtype];

/** Bytes of a (ways · n, K) weight in panels: of one, where it is a stack. */
export const panel16Bytes = (dtype: WeightDType, ways: number, n: number, k: number): number =>
  ways * Math.ceil(n / LANES) * panelBytes(dtype, k);

/**
 * Writes one panel at `to[toByte]` from 16 rows of `k` elements at `from[fromByte]`, row after row.
 * Both offsets are multiples of 4 within buffers that start at one.
 */
export function packPanel(
  dtype: WeightDType,
  k: number,
  from: Uint8Array,
  fromByte: number,
  to: Uint8Array,
  toByte: number,
): void {
  if (dtype === "f32") {
    transpose(words(from, fromByte, LANES * k), k, words(to, toByte, LANES * k));
  } else if (k % 2 === 1) {
    packOddK(dtype, k, halves(from, fromByte, LANES * k), halves(to, toByte, LANES * paddedK(dtype, k)));
  } else if (dtype === "bf16") {
    // A pair of neighbours in k is one word, and stays one.
    const padded = words(to, toByte, (LANES * paddedK(dtype, k)) / 2);
    transpose(words(from, fromByte, (LANES * k) / 2), k / 2, padded);
    padded.fill(0, (LANES * k) / 2);
  } else {
    transposeHalves(words(from, fromByte, (LANES * k) / 2), k / 2, words(to, toByte, (LANES * k) / 2));
  }
}

/** Reads one panel back into 16 rows of `k` elements: the inverse of `packPanel`, element by element. */
export function unpackPanel(
  dtype: WeightDType,
  k: number,
  from: Uint8Array,
  fromByte: number,
  to: Uint8Array,
  toByte: number,
): void {
  const size = dtypeBytes[dtype];
  const pair = dtype === "bf16" ? 2 : 1;
  for (let lane = 0; lane < LANES; lane++) {
    for (let i = 0; i < k; i++) {
      const element = (Math.floor(i / pair) * LANES + lane) * pair + (i % pair);
      for (let byte = 0; byte < size; byte++) {
        to[toByte + (lane * k + i) * size + byte] = from[fromByte + element * size + byte] as number;
      }
    }
  }
}

const words = (bytes: Uint8Array, at: number, count: number) => new Uint32Array(bytes.buffer, bytes.byteOffset + at, count);
const halves = (bytes: Uint8Array, at: number, count: number) => new Uint16Array(bytes.buffer, bytes.byteOffset + at, count);

/** y[i][lane] = x[lane][i]; 16 read streams and one write stream, unrolled: about 6 GB/s. */
function transpose(x: Uint32Array, k: number, y: Uint32Array): void {
  const [x1, x2, x3, x4, x5, x6, x7, x8] = [k, 2 * k, 3 * k, 4 * k, 5 * k, 6 * k, 7 * k, 8 * k] as const;
  for (let i = 0, j = x8, o = 0; i < k; i++, j++, o += 16) {
    y[o] = x[i] as number;
    y[o + 1] = x[i + x1] as number;
    y[o + 2] = x[i + x2] as number;
    y[o + 3] = x[i + x3] as number;
    y[o + 4] = x[i + x4] as number;
    y[o + 5] = x[i + x5] as number;
    y[o + 6] = x[i + x6] as number;
    y[o + 7] = x[i + x7] as number;
    y[o + 8] = x[j] as number;
    y[o + 9] = x[j + x1] as number;
    y[o + 10] = x[j + x2] as number;
    y[o + 11] = x[j + x3] as number;
    y[o + 12] = x[j + x4] as number;
    y[o + 13] = x[j + x5] as number;
    y[o + 14] = x[j + x6] as number;
    y[o + 15] = x[j + x7] as number;
  }
}

/** The same for 16-bit elements, two k and two lanes at a time: words (x, x') of lanes l and l + 1 become two words of neighbours in lane. */
function transposeHalves(x: Uint32Array, pairs: number, y: Uint32Array): void {
  for (let i = 0, o = 0; i < pairs; i++, o += 16) {
    for (let lane = 0, at = i; lane < 8; lane++, at += 2 * pairs) {
      const a = x[at] as number;
      const b = x[at + pairs] as number;
      y[o + lane] = (a & 0xffff) | (b << 16);
      y[o + 8 + lane] = (a >>> 16) | (b & 0xffff0000);
    }
  }
}

/** Rows of an odd number of 16-bit elements do not start on words; no published model has them, so speed does not matter. */
function packOddK(dtype: WeightDType, k: number, x: Uint16Array, y: Uint16Array): void {
  const pair = dtype === "bf16" ? 2 : 1;
  y.fill(0);
  for (let lane = 0; lane < LANES; lane++) {
    for (let i = 0; i < k; i++) y[(Math.floor(i / pair) * LANES + lane) * pair + (i % pair)] = x[lane * k + i] as number;
  }
}
