/**
 * Converts arrays of weights between f32, f16 and bf16, little-endian, rounding to nearest even as the hardware does.
 *
 * Works on bits: a NaN stays a (quiet) NaN, f16 overflows to infinity. The executable definition is `compiler/ir/rounding.ts`.
 */
import { dtypeBytes } from "../ir/tensor-type.ts";
import type { WeightDType } from "./source.ts";

/** Converts `count` elements of `from` into `to`; both start at a multiple of their element's bytes in their buffers. */
export type Converter = (from: Uint8Array, to: Uint8Array, count: number) => void;

/** The conversion from one dtype to another. Making one from a 16-bit dtype fills a table of 65,536 entries: keep it. */
export function converter(from: WeightDType, to: WeightDType): Converter {
  if (from === to) {
    const bytes = dtypeBytes[from];
    return (source, target, count) => target.set(source.subarray(0, count * bytes));
  }
  if (from === "f32") {
    const round = to === "bf16" ? bf16Bits : f16Bits;
    return (source, target, count) => {
      const x = words(source, count);
      const y = halves(target, count);
      for (let i = 0; i < count; i++) y[i] = round(x[i] as number);
    };
  }
  const widen = from === "bf16" ? (bits: number) => (bits << 16) >>> 0 : f32BitsOfF16;
  if (to === "f32") {
    const table = new Uint32Array(65536).map((_, bits) => widen(bits));
    return (source, target, count) => {
      const x = halves(source, count);
      const y = words(target, count);
      for (let i = 0; i < count; i++) y[i] = table[x[i] as number] as number;
    };
  }
  const round = to === "bf16" ? bf16Bits : f16Bits;
  const table = new Uint16Array(65536).map((_, bits) => round(widen(bits)));
  return (source, target, count) => {
    const x = halves(source, count);
    const y = halves(target, count);
    for (let i = 0; i < count; i++) y[i] = table[x[i] as number] as number;
  };
}

const words = (bytes: Uint8Array, count: number) => new Uint32Array(bytes.buffer, bytes.byteOffset, count);
const halves = (bytes: Uint8Array, count: number) => new Uint16Array(bytes.buffer, bytes.byteOffset, count);

/** bf16 nearest to the f32 with these bits. */
function bf16Bits(bits: number): number {
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40; // quiet, so that a NaN with a low payload stays one
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** f16 nearest to the f32 with these bits. */
function f16Bits(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return sign | 0x7e00;
  if (rest >= 0x47800000) return sign | 0x7c00; // 2¹⁶ and more
  if (rest >= 0x38800000) {
    // Normal: rebias the exponent from 127 to 15; a carry out of the mantissa rightly raises it, to infinity at the top.
    return sign | ((rest - 0x38000000 + 0xfff + ((rest >>> 13) & 1)) >>> 13);
  }
  if (rest < 0x33000000) return sign; // below half of 2⁻²⁴
  const shift = 126 - (rest >>> 23); // subnormal: units of 2⁻²⁴
  const mantissa = (rest & 0x7fffff) | 0x800000;
  const floor = mantissa >>> shift;
  const remainder = mantissa & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  return sign | (remainder > half || (remainder === half && (floor & 1) === 1) ? floor + 1 : floor);
}

/** f32 with the value of the f16 with these bits. */
function f32BitsOfF16(bits: number): number {
  const sign = (bits & 0x8000) << 16;
  const exponent = (bits >>> 10) & 0x1f;
  const mantissa = bits & 0x3ff;
  if (exponent === 0x1f) return (sign | 0x7f800000 | (mantissa << 13) | (mantissa ? 0x400000 : 0)) >>> 0;
  if (exponent !== 0) return (sign | ((exponent + 112) << 23) | (mantissa << 13)) >>> 0;
  if (mantissa === 0) return sign >>> 0;
  const shift = Math.clz32(mantissa) - 21; // brings the leading one to bit 10
  return (sign | ((113 - shift) << 23) | (((mantissa << shift) & 0x3ff) << 13)) >>> 0;
}
