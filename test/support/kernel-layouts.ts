/**
 * Packs f32 arrays into the memory layouts kernels read, and back: written from the layouts' description, apart from the packer.
 */
import { roundFp8 } from "../../compiler/ir/rounding.ts";
import { type DType, dtypeBytes } from "../../compiler/ir/tensor-type.ts";

/** Bits of one number in a storage dtype, round to nearest even. */
export function toBits(dtype: DType, x: number): number {
  if (dtype === "i32") return x >>> 0;
  if (dtype === "f32") return new Uint32Array(Float32Array.of(x).buffer)[0]!;
  const bits = new Uint32Array(Float32Array.of(x).buffer)[0]!;
  if (dtype === "bf16") {
    if (Number.isNaN(x)) return 0x7fc0;
    return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
  }
  if (dtype === "f16") {
    if (Number.isNaN(x)) return 0x7e00;
    const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0;
    const a = Math.abs(x);
    if (a >= 65520) return sign | 0x7c00;
    // A multiple of the ulp, rounded half to even; carries run into the exponent as they should.
    const exponent = a < 2 ** -14 ? -14 : Math.floor(Math.log2(a));
    const scaled = a / 2 ** (exponent - 10);
    const floor = Math.floor(scaled);
    const rest = scaled - floor;
    const rounded = rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
    return sign | (rounded + (exponent + 14) * 1024);
  }
  if (dtype === "fp8_e4m3") return fp8Codes.findIndex((code) => Object.is(code, roundFp8(x)));
  throw new Error(`no storage of ${dtype} here`);
}

/** The number of each e4m3 code: sign, four bits of exponent, three of fraction; NaN where all but the sign are ones. */
const fp8Codes = Array.from({ length: 256 }, (_, code) => {
  const [sign, exponent, fraction] = [code & 128 ? -1 : 1, (code >> 3) & 15, code & 7];
  if ((code & 127) === 127) return Number.NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -9 : (8 + fraction) * 2 ** (exponent - 10));
});

/** The number whose storage bits are given. */
export function fromBits(dtype: DType, bits: number): number {
  if (dtype === "fp8_e4m3") return fp8Codes[bits] as number;
  if (dtype === "i32") return bits | 0;
  if (dtype === "f16") {
    const [sign, exponent, mantissa] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
    if (exponent === 31) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
    return sign * (exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25));
  }
  return new Float32Array(Uint32Array.of(dtype === "bf16" ? (bits << 16) >>> 0 : bits).buffer)[0]!;
}

/** Where element (row, col) stands, in elements; −1 marks padding when walking a layout backwards. */
export type Place = (row: number, col: number) => number;

export const rowsPlace =
  (cols: number): Place =>
  (row, col) =>
    row * cols + col;

export const tilePlace =
  (cols: number): Place =>
  (row, col) =>
    (Math.floor(row / 16) * Math.ceil(cols / 32) + Math.floor(col / 32)) * 512 + (row % 16) * 32 + (col % 32);

/** Row = output column, col = k; `ways` weight matrices of `n` rows each stand one after the other in the source. */
export function panelPlace(dtype: DType, n: number, k: number, ways: number): Place {
  const paddedK = dtype === "bf16" ? Math.ceil(k / 32) * 32 : k;
  return (row, col) => {
    const way = Math.floor(row / n);
    const panel = Math.floor((row % n) / 16) * ways + way;
    const lane = (row % n) % 16;
    const inside = dtype === "bf16" ? Math.floor(col / 2) * 32 + lane * 2 + (col % 2) : col * 16 + lane;
    return panel * paddedK * 16 + inside;
  };
}

export const panelElements = (dtype: DType, n: number, k: number, ways: number): number =>
  Math.ceil(n / 16) * 16 * ways * (dtype === "bf16" ? Math.ceil(k / 32) * 32 : k);

/** Memory of `elements` numbers, `fill` bits where no element stands. */
export function packElements(
  dtype: DType,
  data: Float32Array,
  [rows, cols]: readonly [number, number],
  elements: number,
  place: Place,
  fill = 0,
): Uint8Array {
  const bytes = new Uint8Array(elements * dtypeBytes[dtype]);
  const words = wordsOf(dtype, bytes);
  words.fill(fill);
  for (let row = 0; row < rows; row++)
    for (let col = 0; col < cols; col++) words[place(row, col)] = toBits(dtype, data[row * cols + col]!);
  return bytes;
}

const wordsOf = (dtype: DType, { buffer }: Uint8Array): Uint8Array | Uint16Array | Uint32Array =>
  dtypeBytes[dtype] === 4 ? new Uint32Array(buffer) : dtypeBytes[dtype] === 2 ? new Uint16Array(buffer) : new Uint8Array(buffer);

/** The numbers of a packed region. */
export function unpackElements(
  dtype: DType,
  bytes: Uint8Array,
  [rows, cols]: readonly [number, number],
  place: Place,
): Float32Array {
  const aligned = new Uint8Array(bytes);
  const words = wordsOf(dtype, aligned);
  const data = new Float32Array(rows * cols);
  for (let row = 0; row < rows; row++)
    for (let col = 0; col < cols; col++) data[row * cols + col] = fromBits(dtype, words[place(row, col)]!);
  return data;
}
