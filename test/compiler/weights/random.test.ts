import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { RandomWeights } from "../../../compiler/weights/random.ts";
import { weightValues } from "../../support/weight-values.ts";

const shapes = new Map<string, readonly number[]>([
  ["m.q_proj.weight", [300, 400]],
  ["m.k_proj.weight", [300, 400]],
  ["m.q_norm.weight", [4096]],
  ["m.q_proj.bias", [4096]],
]);
const make = (seed = 1, dtype: "f32" | "bf16" = "f32") => new RandomWeights(seed, dtype, shapes);
const values = (weights: RandomWeights, name: string) => weightValues(weights, name);

function moments(x: Float32Array): { mean: number; deviation: number } {
  const mean = x.reduce((a, b) => a + b, 0) / x.length;
  return { mean, deviation: Math.sqrt(x.reduce((a, b) => a + (b - mean) ** 2, 0) / x.length) };
}

describe("random weights", () => {
  it("are normal with deviation 0.02, around 1 for gains", async () => {
    for (const [name, mean] of [
      ["m.q_proj.weight", 0],
      ["m.q_norm.weight", 1],
      ["m.q_proj.bias", 0],
    ] as const) {
      const found = moments(await values(make(), name));
      expect(Math.abs(found.mean - mean)).toBeLessThan(0.0015);
      expect(Math.abs(found.deviation - 0.02)).toBeLessThan(0.001);
    }
    const x = (await values(make(), "m.q_proj.weight")).map((v) => v / 0.02);
    // Shares within one and two deviations, and the largest of 120,000.
    expect(x.filter((v) => Math.abs(v) < 1).length / x.length).toBeCloseTo(0.6827, 2);
    expect(x.filter((v) => Math.abs(v) < 2).length / x.length).toBeCloseTo(0.9545, 2);
    expect(Math.max(...x)).toBeGreaterThan(3.5);
  });

  it("do not repeat between neighbours, tensors or seeds", async () => {
    const x = await values(make(), "m.q_proj.weight");
    const correlation = (y: Float32Array, shift: number) => {
      let sum = 0;
      for (let i = 0; i + shift < x.length; i++) sum += ((x[i] as number) * (y[i + shift] as number)) / 0.0004;
      return Math.abs(sum / x.length);
    };
    for (const shift of [1, 2, 3, 64, 400, 32768]) expect(correlation(x, shift)).toBeLessThan(0.015);
    expect(correlation(await values(make(), "m.k_proj.weight"), 0)).toBeLessThan(0.015);
    expect(correlation(await values(make(2), "m.q_proj.weight"), 0)).toBeLessThan(0.015);
  });

  it.each(["f32", "bf16"] as const)("in %s are the same whichever piece is read", async (dtype) => {
    const weights = make(5, dtype);
    const size = dtype === "f32" ? 4 : 2;
    const whole = new Uint8Array(1000 * size);
    await weights.read("m.q_proj.weight", 0, whole);
    for (const [begin, count] of [
      [0, 1],
      [1, 1],
      [1, 2],
      [7, 100],
      [8, 99],
      [999, 1],
      [3, 0],
    ] as const) {
      const piece = new Uint8Array(count * size);
      await weights.read("m.q_proj.weight", begin, piece);
      expect(Buffer.compare(piece, whole.subarray(begin * size, (begin + count) * size))).toBe(0);
    }
  });

  it("are the same bytes on every machine", async () => {
    const bytes = new Uint8Array(300 * 400 * 2);
    await make(1, "bf16").read("m.q_proj.weight", 0, bytes);
    expect(createHash("sha256").update(bytes).digest("hex")).toMatchInlineSnapshot(
      `"8afd38932b02705212154e7fb142ca6106f3d80693bb0de7b972f07bf34ecd49"`,
    );
  });

  it("refuse a seed that is no whole number", () => {
    expect(() => new RandomWeights(-1, "f32", shapes)).toThrow("the seed is -1; expected a whole number from 0");
  });
});
