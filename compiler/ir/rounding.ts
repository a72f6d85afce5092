/**
 * Rounding f32 values to the dtypes a tensor can be stored in, round-to-nearest-even as the hardware does.
 */
import type { DType } from "./tensor-type.ts";

const word = new DataView(new ArrayBuffer(4));

/** The f32 value of the bf16 nearest to x; NaN stays NaN. */
export function roundBf16(x: number): number {
  word.setFloat32(0, x);
  const bits = word.getUint32(0);
  if ((bits & 0x7fffffff) > 0x7f800000) return Number.NaN;
  word.setUint32(0, ((bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000) >>> 0);
  return word.getFloat32(0);
}

/** The f32 value of the f16 nearest to x: 11 significant bits, subnormals below 2⁻¹⁴, overflow to infinity. */
export function roundF16(x: number): number {
  if (!Number.isFinite(x) || x === 0) return x;
  const exponent = Math.max(-14, Math.floor(Math.log2(Math.abs(x))));
  const ulp = 2 ** (exponent - 10);
  const scaled = x / ulp;
  const floor = Math.floor(scaled);
  const rest = scaled - floor;
  const rounded = (rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor) * ulp;
  return Math.abs(rounded) > 65504 ? Math.sign(x) * Number.POSITIVE_INFINITY : rounded;
}

/** `values` as they read back after being stored in `dtype`; f32 passes through as the same array. */
export function roundTo(dtype: DType, values: Float32Array): Float32Array {
  if (dtype === "bf16") return values.map(roundBf16);
  if (dtype === "f16") return values.map(roundF16);
  return values;
}
