import { describe, expect, it } from "vitest";
import { roundBf16, roundF16 } from "../../../compiler/ir/rounding.ts";
import { converter } from "../../../compiler/weights/convert.ts";
import type { WeightDType } from "../../../compiler/weights/source.ts";
import { Mutator } from "../../runtime/json-mutations.ts";

const BYTES = { f32: 4, f16: 2, bf16: 2 } as const;

function convert(from: WeightDType, to: WeightDType, source: Uint8Array): Uint8Array {
  const count = source.length / BYTES[from];
  const target = new Uint8Array(count * BYTES[to]);
  converter(from, to)(source, target, count);
  return target;
}
const bytesOf = (array: Float32Array | Uint16Array | Uint32Array) => new Uint8Array(array.buffer);
const floats = (bytes: Uint8Array) => new Float32Array(bytes.buffer);
const everyHalf = Uint16Array.from({ length: 65536 }, (_, i) => i);

/** Values around every boundary of both formats, ties among them, and random bits. */
function interesting(): Float32Array {
  const mutator = new Mutator(7);
  const bits: number[] = [];
  for (const base of [
    0, 0x33000000, 0x33800000, 0x387fc000, 0x38800000, 0x3f800000, 0x477fe000, 0x477ff000, 0x47800000, 0x7f7fffff, 0x7f800000,
  ]) {
    for (let d = -3; d <= 3; d++) bits.push(base + d, (base + d) | 0x80000000);
    for (const d of [0x1000, 0x2000, 0x3000, 0x8000, 0x18000]) bits.push(base + d, base + d - 1, base + d + 1);
  }
  for (let i = 0; i < 200_000; i++) bits.push(mutator.integer(0, 2 ** 32 - 1));
  for (let i = 0; i < 200_000; i++) bits.push(mutator.integer(0x32000000, 0x48000000));
  return new Float32Array(Uint32Array.from(bits, (b) => b >>> 0).buffer);
}

describe("a conversion of weights", () => {
  it.each([
    ["bf16", roundBf16],
    ["f16", roundF16],
  ] as const)("to %s rounds as the interpreter does", (dtype, round) => {
    const values = interesting();
    const found = floats(convert(dtype, "f32", convert("f32", dtype, bytesOf(values))));
    for (const [i, x] of values.entries()) {
      const wanted = round(x);
      // Bit for bit: the sign of a zero that underflow made counts.
      if (!Object.is(found[i], wanted)) expect([x, found[i]]).toEqual([x, wanted]);
    }
  });

  it.each(["bf16", "f16"] as const)("from %s to f32 and back keeps every bit pattern but a NaN's payload", (dtype) => {
    const back = new Uint16Array(convert("f32", dtype, convert(dtype, "f32", bytesOf(everyHalf))).buffer);
    const wide = floats(convert(dtype, "f32", bytesOf(everyHalf)));
    for (const bits of everyHalf) {
      if (Number.isNaN(wide[bits])) expect(back[bits]! & 0x7fff).toBeGreaterThan(dtype === "f16" ? 0x7c00 : 0x7f80);
      else if (back[bits] !== bits) expect(back[bits]).toBe(bits);
    }
  });

  it("from f16 to f32 gives the value of the standard", () => {
    const wide = floats(
      convert("f16", "f32", bytesOf(Uint16Array.from([0x0001, 0x03ff, 0x0400, 0x3c00, 0x7bff, 0x7c00, 0xfc00, 0x8000]))),
    );
    expect([...wide]).toEqual([2 ** -24, 1023 * 2 ** -24, 2 ** -14, 1, 65504, Infinity, -Infinity, -0]);
  });

  it("between the 16-bit dtypes goes through f32", () => {
    for (const [from, to] of [
      ["bf16", "f16"],
      ["f16", "bf16"],
    ] as const) {
      const direct = convert(from, to, bytesOf(everyHalf));
      expect(Buffer.compare(direct, convert("f32", to, convert(from, "f32", bytesOf(everyHalf))))).toBe(0);
    }
  });
});
