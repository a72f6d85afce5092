/**
 * Rounding f32 values to the dtypes a tensor can be stored in, round-to-nearest-even as the hardware does.
 *
 * An underflow keeps its sign: what is too small to be negative is −0.
 */
import type { DType } from "./tensor-type.ts";

/** The f32 value of the bf16 nearest to x; NaN stays NaN. */
export function roundBf16(x: number): number {
  return roundAllBf16(Float32Array.of(x))[0] as number;
}

/** In place, on the bits: adding just under half of a bf16's last place, or half when that place is odd, carries where it must. */
function roundAllBf16(values: Float32Array): Float32Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < words.length; i++) {
    const bits = words[i] as number;
    if ((bits & 0x7fffffff) > 0x7f800000) values[i] = Number.NaN;
    else words[i] = (bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000;
  }
  return values;
}

/** The f32 value of the f16 nearest to x: 11 significant bits, subnormals below 2⁻¹⁴, overflow to infinity. */
export function roundF16(x: number): number {
  if (!Number.isFinite(x) || x === 0) return x;
  const size = Math.abs(x);
  const exponent = Math.max(-14, Math.floor(Math.log2(size)));
  const ulp = 2 ** (exponent - 10);
  const floor = Math.floor(size / ulp);
  const rest = size / ulp - floor;
  const rounded = (rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor) * ulp;
  return Math.sign(x) * (rounded > 65504 ? Number.POSITIVE_INFINITY : rounded);
}

/**
 * The f32 value of the e4m3 nearest to x: 4 significant bits, subnormals below 2⁻⁶. What is too large becomes ±448, the largest, as a cache
 * stores it: e4m3 has no infinity (OCP 8-bit floating point specification, 1.0).
 */
export function roundFp8(x: number): number {
  if (Number.isNaN(x) || x === 0) return x;
  const size = Math.min(Math.abs(x), 448);
  const ulp = 2 ** (Math.max(-6, Math.floor(Math.log2(size))) - 3);
  const floor = Math.floor(size / ulp);
  const rest = size / ulp - floor;
  const rounded = (rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor) * ulp;
  return Math.sign(x) * rounded;
}

/** `values` as they read back after being stored in `dtype`; f32 passes through as the same array. */
export function roundTo(dtype: DType, values: Float32Array): Float32Array {
  if (dtype === "bf16") return roundAllBf16(values.slice());
  if (dtype === "f16") return values.map(roundF16);
  if (dtype === "fp8_e4m3") return values.map(roundFp8);
  return values;
}
