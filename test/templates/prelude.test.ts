/** The device vocabulary says the same on every instruction set: conversions bit for bit, exponentials within a few ulp. */
import { describe, expect, it } from "vitest";
import { fromBits, toBits } from "../support/kernel-layouts.ts";
import { plainRunners, type Runner, runJobs } from "../support/kernel-process.ts";
import { randomSource } from "../support/kernel-specs.ts";

const seed = Math.floor(Math.random() * 2 ** 31);
console.log(`seed ${seed}`);

const source = (prelude: string) => `#include "${prelude}"
using namespace ingot;
INGOT_KERNEL void vocabulary(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const float* x = (const float*)launch->args[0];
  bf16* narrow_bf16 = (bf16*)launch->args[1];
  f16* narrow_f16 = (f16*)launch->args[2];
  float* wide_bf16 = (float*)launch->args[3];
  float* wide_f16 = (float*)launch->args[4];
  float* exponential = (float*)launch->args[5];
  float* folded = (float*)launch->args[6];
  uint16_t* scalar = (uint16_t*)launch->args[7];
  float* functions = (float*)launch->args[8];  // per sixteen values sigmoid, silu, gelu_tanh, tanh
  float* extremes = (float*)launch->args[9];   // per sixteen values minimum and maximum with the sixteen before
  for (int64_t i = begin; i < end; ++i) {
    const f32x16 v = load(x + 16 * i);
    store(narrow_bf16 + 16 * i, v);
    store(narrow_f16 + 16 * i, v);
    store(wide_bf16 + 16 * i, load(narrow_bf16 + 16 * i));
    store(wide_f16 + 16 * i, load(narrow_f16 + 16 * i));
    store(exponential + 16 * i, exp(v));
    store(functions + 64 * i, sigmoid(v));
    store(functions + 64 * i + 16, silu(v));
    store(functions + 64 * i + 32, gelu_tanh(v));
    store(functions + 64 * i + 48, tanh(v));
    const f32x16 before = load(x + 16 * (i == 0 ? i : i - 1));
    store(extremes + 32 * i, minimum(v, before));
    store(extremes + 32 * i + 16, maximum(v, before));
    folded[2 * i] = reduce_add(v);
    folded[2 * i + 1] = reduce_max(v);
    for (int64_t j = 16 * i; j < 16 * i + 16; ++j) {
      bf16 b;
      f16 h;
      narrow(x[j], &b);
      narrow(x[j], &h);
      scalar[2 * j] = b.bits;
      scalar[2 * j + 1] = h.bits;
    }
  }
}
`;

const random = randomSource(seed);
const count = 1 << 16;
const bits = Uint32Array.from({ length: count }, (_, i) => {
  // Every exponent of both signs; ties, near ties, subnormals of the narrow formats; then what chance brings.
  const exponent = (i >> 3) & 0xff;
  const tie = [0x8000, 0x7fff, 0x8001, 0x18000, 0x1000, 0x0fff, 0x3000, 0][i & 7] as number;
  return i < count / 2
    ? ((i & 0x800 ? 0x80000000 : 0) | (exponent << 23) | (tie + (random.below(64) << 17))) >>> 0
    : Math.floor(random.uniform() * 2 ** 32);
});
const values = new Float32Array(bits.buffer);

function run(runner: Runner) {
  const poison = (bytes: number) => new Uint8Array(bytes).fill(0xff);
  const args = [
    new Uint8Array(bits.buffer),
    poison(2 * count),
    poison(2 * count),
    poison(4 * count),
    poison(4 * count),
    poison(4 * count),
    poison(count / 2),
    poison(4 * count),
    poison(16 * count),
    poison(8 * count),
  ];
  const kernel = { name: "vocabulary", source: source(runner.dialect.prelude), scratchBytes: 0 };
  const [after = []] = runJobs(runner, kernel, [{ dims: [1, 1, 1, 1], ranges: [[0, count / 16]], args }]);
  const half = (i: number) => new Uint16Array(after[i]!.buffer);
  const full = (i: number) => new Float32Array(after[i]!.buffer);
  return {
    bf16: half(1),
    f16: half(2),
    wideBf16: full(3),
    wideF16: full(4),
    exp: full(5),
    folded: full(6),
    scalar: half(7),
    functions: full(8),
    extremes: full(9),
  };
}

/** 2u of GELU's formula. */
const twoU = (x: number) => 2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3);

const isNanBits = (dtype: "bf16" | "f16", b: number) => Number.isNaN(fromBits(dtype, b));

describe.each(plainRunners())("the vocabulary on $name", (runner) => {
  const got = run(runner);

  it("narrows as round-to-nearest-even says, by lanes and one by one", () => {
    const wrong: string[] = [];
    for (const [dtype, lanes, offset] of [
      ["bf16", got.bf16, 0],
      ["f16", got.f16, 1],
    ] as const) {
      for (let i = 0; i < count; i++) {
        const want = toBits(dtype, values[i]!);
        for (const have of [lanes[i]!, got.scalar[2 * i + offset]!]) {
          if (isNanBits(dtype, want) ? !isNanBits(dtype, have) : have !== want)
            wrong.push(`${dtype} ${bits[i]!.toString(16)}: ${have.toString(16)}, not ${want.toString(16)}`);
        }
      }
    }
    expect(wrong.slice(0, 5)).toEqual([]);
  });

  it("widens exactly", () => {
    for (const [dtype, narrow, wide] of [
      ["bf16", got.bf16, got.wideBf16],
      ["f16", got.f16, got.wideF16],
    ] as const) {
      const wrong = Array.from(narrow.keys()).filter((i) => !Object.is(fromBits(dtype, narrow[i]!), wide[i]));
      expect(wrong.map((i) => narrow[i]!.toString(16)).slice(0, 5), dtype).toEqual([]);
    }
  });

  it("has exponentials within 2 ulp where e^x is normal, 1 at 0, NaN at NaN", () => {
    let worst = 0;
    for (let i = 0; i < count; i++) {
      const x = values[i]!;
      if (Number.isNaN(x)) expect(got.exp[i]).toBeNaN();
      if (!(x > -87.2 && x < 88.2)) continue;
      const want = Math.exp(x);
      worst = Math.max(worst, Math.abs(got.exp[i]! - want) / 2 ** (Math.floor(Math.log2(want)) - 23));
      if (x === 0) expect(got.exp[i]).toBe(1);
    }
    expect(worst).toBeLessThan(2);
  });

  it.each([
    ["sigmoid", (x: number) => 1 / (1 + Math.exp(-x)), () => 4],
    ["silu", (x: number) => x / (1 + Math.exp(-x)), () => 4],
    ["gelu_tanh", (x: number) => x / (1 + Math.exp(-twoU(x))), (x: number) => 4 + 3 * Math.abs(twoU(x))],
    ["tanh", Math.tanh, () => 4],
  ] as const)("has %s over all of f32, but for results that are nearly zero", (name, f, ulps) => {
    const row = ["sigmoid", "silu", "gelu_tanh", "tanh"].indexOf(name);
    let worst = 0;
    for (let i = 0; i < count; i++) {
      const x = values[i]!;
      const have = got.functions[64 * Math.floor(i / 16) + 16 * row + (i % 16)]!;
      const want = f(x);
      if (Number.isNaN(want) || !Number.isFinite(want)) {
        expect(have, `${name}(${x})`).toBe(want);
        continue;
      }
      const ulp = 2 ** (Math.max(-126, Math.floor(Math.log2(Math.abs(want)))) - 23);
      const error = Math.max(0, Math.abs(have - want) - 1e-36) / ulp / ulps(x);
      if (!(error <= worst)) worst = error;
      if (x === 0) expect(Object.is(have, name === "sigmoid" ? 0.5 : x)).toBe(true);
    }
    expect(worst).toBeLessThan(1);
  });

  it("has minima and maxima that are NaN where either number is", () => {
    const wrong: string[] = [];
    for (let i = 16; i < count; i++) {
      const [a, b] = [values[i]!, values[i - 16]!];
      const [min, max] = [0, 16].map((at) => got.extremes[32 * Math.floor(i / 16) + at + (i % 16)]!) as [number, number];
      // Equal numbers: of two zeros either.
      const same = (have: number, want: number) => have === want || (Number.isNaN(have) && Number.isNaN(want));
      if (!same(min, Math.min(a, b)) || !same(max, Math.max(a, b))) wrong.push(`${a}, ${b}: ${min}, ${max}`);
    }
    expect(wrong.slice(0, 5)).toEqual([]);
  });

  it("folds lanes in the same order everywhere", () => {
    for (let i = 0; i < count / 16; i++) {
      let lanes = [...values.subarray(16 * i, 16 * i + 16)];
      if (lanes.some(Number.isNaN)) continue;
      expect(got.folded[2 * i + 1]).toBe(Math.max(...lanes));
      while (lanes.length > 1)
        lanes = lanes.slice(0, lanes.length / 2).map((x, j) => Math.fround(x + lanes[j + lanes.length / 2]!));
      expect(Object.is(got.folded[2 * i], lanes[0])).toBe(true);
    }
  });
});
