/** The kernels of an expert layer as CUDA text on the emulator, under its checker, against their specs' meaning. */
import { describe, expect, it } from "vitest";
import { cudaDialects } from "../../../compiler/codegen/cuda/dialect.ts";
import { roundTo } from "../../../compiler/ir/rounding.ts";
import { type DType, timesDim } from "../../../compiler/ir/tensor-type.ts";
import { expertsOf } from "../../../compiler/kernels/expert-plan.ts";
import { interpretKernel } from "../../../compiler/kernels/interpret.ts";
import type { GroupedLinearKernel } from "../../../compiler/kernels/spec.ts";
import { scheduleCudaKernel } from "../../../compiler/schedule/cuda.ts";
import { relativeError } from "../../support/closeness.ts";
import { type CudaRunOptions, runCudaKernel } from "../../support/cuda-kernel.ts";
import {
  type ExpertLayer,
  expertEnvironment,
  groupedLinearSpec,
  ownRows,
  routeSpec,
  sigmoidSteps,
  softmaxSteps,
  sortSlotsSpec,
} from "../../support/expert-specs.ts";
import { acc, add, copyEnvironment, operand, randomEnvironment, randomSource } from "../../support/kernel-specs.ts";

const seed = Math.floor(Math.random() * 2 ** 31);
console.log(`seed ${seed}`);

const layer = (dtype: DType, sizes: Partial<ExpertLayer> = {}): ExpertLayer => ({
  experts: 6,
  perToken: 2,
  hidden: 72,
  inner: 48,
  weights: dtype,
  x: dtype,
  ...sizes,
});

/** Worst relative error of a first linear, or of a last one, whose rows go back to their slots. */
function worst(spec: GroupedLinearKernel, l: ExpertLayer, batches: readonly number[], options: CudaRunOptions): number {
  const random = randomSource(seed);
  const envs = batches.map((tokens) => {
    const env = expertEnvironment(l, tokens, random, 3);
    if (!spec.gathers) {
      const values = Float32Array.from({ length: (spec.x.rows as number) * spec.k }, () => random.normal());
      env.buffers.set(spec.x.name, roundTo(l.x, values));
    }
    return env;
  });
  const { results } = runCudaKernel(spec, envs, { checked: true, ...options });
  const errors = envs.map((env, i) => {
    const reference = copyEnvironment(env);
    interpretKernel(spec, reference);
    const [found, expected] = [results[i]!.out, reference.buffers.get(spec.out.name)!];
    return spec.scatters
      ? relativeError(found, expected)
      : relativeError(ownRows(env, found, spec.n), ownRows(env, expected, spec.n));
  });
  return errors.some(Number.isNaN) ? Number.NaN : Math.max(...errors);
}

const scattered = (l: ExpertLayer): GroupedLinearKernel => {
  const spec = groupedLinearSpec(l, { ways: 1, epilogue: add(acc, operand(0)), bias: true, gathers: false });
  return { ...spec, scatters: true, out: { ...spec.out, dtype: "f32", rows: timesDim(spec.tokens, l.perToken) } };
};

describe("expert layers on CUDA", () => {
  it("plan rows sorted by expert and token, experts on multiples of 16 rows", () => {
    const l = layer("f32", { experts: 37, perToken: 3 });
    const random = randomSource(seed);
    const envs = [1, 2, 40].map((tokens) => expertEnvironment(l, tokens, random));
    const { results } = runCudaKernel(sortSlotsSpec(l), envs, { checked: true });
    envs.forEach((env, i) => {
      const [expected, found] = [env.buffers.get("plan")!, results[i]!.out];
      expect(expertsOf(found)).toEqual(expertsOf(expected));
      const slots = (of: Float32Array) => ownRows(env, of.subarray(1 + 3 * l.experts), 1);
      expect([...slots(found)]).toEqual([...slots(expected)]);
    });
  });

  it.each([
    ["bf16", 2],
    ["bf16", 64],
    ["f16", 4096],
    ["f32", 4096],
  ] as const)("gate %s experts and scatter their rows, in steps of up to %i tokens", (dtype, maxTokens) => {
    const l = layer(dtype);
    const batches = maxTokens === 2 ? [1, 2] : [1, 9, 40];
    const rounding = { bf16: 3e-3, f16: 5e-4, f32: 2e-6 }[dtype];
    expect(worst(groupedLinearSpec(l), l, batches, { maxTokens, padding: 1 })).toBeLessThan(rounding);
    expect(worst(scattered(l), l, batches, { maxTokens })).toBeLessThan(3e-6);
  });

  it.each(["reverse", "random", "greedy"] as const)("take hundreds of rows of one expert, threads in %s order", (order) => {
    const l = layer("bf16", { experts: 12 });
    expect(worst(groupedLinearSpec(l), l, [150], { order, checked: false })).toBeLessThan(3e-3);
  });
});

describe("sorting of slots on CUDA", () => {
  /** Sorts tokens that chose as `chosen` says, in one launch a batch; each plan as the spec's meaning has it. */
  function sorts(experts: number, perToken: number, batches: readonly (readonly number[])[], options: CudaRunOptions): void {
    const spec = sortSlotsSpec(layer("f32", { experts, perToken }));
    const envs = batches.map((ids) => {
      const env = randomEnvironment(spec, randomSource(seed), { rows: ids.length / perToken });
      env.buffers.set("ids", Float32Array.from(ids));
      return env;
    });
    const { results } = runCudaKernel(spec, envs, options);
    envs.forEach((env, i) => {
      const reference = copyEnvironment(env);
      interpretKernel(spec, reference);
      const [expected, found] = [reference.buffers.get("plan")!, results[i]!.out];
      expect(expertsOf(found)).toEqual(expertsOf(expected));
      const slots = (of: Float32Array) => ownRows(reference, of.subarray(1 + 3 * experts), 1);
      expect([...slots(found)]).toEqual([...slots(expected)]);
    });
  }
  const random = randomSource(seed);
  const below = (n: number) => Math.min(n - 1, Math.floor(random.uniform() * n));
  const drawn = (slots: number, experts: number) => Array.from({ length: slots }, () => below(experts));

  it.each(["forward", "reverse", "random", "greedy"] as const)("is by expert and then by slot, threads in %s order", (order) => {
    const options = { order, checked: true };
    sorts(128, 8, [drawn(8, 128), drawn(8 * 13, 128), drawn(8 * 150, 128)], options);
    sorts(128, 8, [drawn(8 * 40, 1), drawn(8 * 40, 2).map((e) => 126 + e), []], options);
    sorts(7, 3, [drawn(3, 7), drawn(3 * 33, 7).map((e) => (e === 4 ? 5 : e))], options);
    sorts(1, 1, [drawn(70, 1)], options);
    sorts(600, 2, [drawn(2, 600), drawn(2 * 500, 600)], options);
  });

  it("takes thousands of slots, several at a time for each thread", () => {
    const slots = drawn(4 * 4091, 60);
    const one = Array.from({ length: 4 * 4091 }, () => 59);
    sorts(64, 4, [slots, one], { checked: true });
    sorts(5000, 4, [slots.map((e) => e * 83)], { order: "random", checked: true }); // counts leave room for few warps
  });

  it("declines so many experts that no warp's counts have room", () => {
    const spec = sortSlotsSpec(layer("f32", { experts: 20000 }));
    expect(() => scheduleCudaKernel(spec, cudaDialects.sm_80, 64)).toThrow(
      "sort needs 160000 bytes of shared memory a block; cuda:sm_80 has 101376",
    );
  });
});

describe("routing on CUDA", () => {
  it.each([
    ["a sigmoid with correction, groups, renormalised and scaled", sigmoidSteps()],
    ["a softmax", softmaxSteps(64, 8)],
    ["all of an odd number of experts", softmaxSteps(7, 7)],
  ])("chooses by %s", (_, steps) => {
    const spec = routeSpec(steps);
    const envs = [1, 50].map((rows) => randomEnvironment(spec, randomSource(seed), { rows }));
    const { results } = runCudaKernel(spec, envs, { checked: true, padding: 3 });
    envs.forEach((env, i) => {
      const reference = copyEnvironment(env);
      interpretKernel(spec, reference);
      expect([...results[i]!.outs.get("ids")!]).toEqual([...reference.buffers.get("ids")!]);
      expect(relativeError(results[i]!.out, reference.buffers.get("weights")!)).toBeLessThan(2e-6);
    });
  });

  it("takes the lower column of equal scores, and distinct columns even among NaN", () => {
    const spec = routeSpec(softmaxSteps(16, 4));
    const env = (row: readonly number[]) => {
      const made = randomEnvironment(spec, randomSource(seed), { rows: 1 });
      made.buffers.set("logits", Float32Array.from(row));
      return made;
    };
    const equal = [0, 3, 1, 3, 3, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0];
    const { results } = runCudaKernel(spec, [env(equal), env(equal.map((v, i) => (i % 2 ? Number.NaN : v)))]);
    expect([...results[0]!.outs.get("ids")!]).toEqual([1, 3, 4, 8]);
    const ids = [...results[1]!.outs.get("ids")!];
    expect(new Set(ids).size).toBe(4);
    expect(ids.every((id) => id >= 0 && id < 16)).toBe(true);
  });
});
