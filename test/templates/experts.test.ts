/** The kernels of an expert layer against their specs' meaning, on every instruction set this machine can run. */
import { describe, expect, it } from "vitest";
import { linearInputDtype } from "../../compiler/codegen/cpu/dialect.ts";
import { roundTo } from "../../compiler/ir/rounding.ts";
import type { DType } from "../../compiler/ir/tensor-type.ts";
import type { KernelEnvironment } from "../../compiler/kernels/environment.ts";
import { expertsOf } from "../../compiler/kernels/expert-plan.ts";
import { interpretKernel } from "../../compiler/kernels/interpret.ts";
import type { ExpertSumKernel, GroupedLinearKernel } from "../../compiler/kernels/spec.ts";
import { relativeError } from "../support/closeness.ts";
import {
  type ExpertLayer,
  expertEnvironment,
  expertSumSpec,
  groupedLinearSpec,
  ownRows,
  routeSpec,
  sigmoidSteps,
  softmaxSteps,
  sortSlotsSpec,
} from "../support/expert-specs.ts";
import { fullSweep, plainRunners, type Runner, runners } from "../support/kernel-process.ts";
import { type KernelResult, runKernel } from "../support/kernel-runner.ts";
import { acc, add, copyEnvironment, operand, randomEnvironment, randomSource } from "../support/kernel-specs.ts";

const seed = Math.floor(Math.random() * 2 ** 31);
console.log(`seed ${seed}`);

/** Worst relative error over batches of a layer's kernel. */
function worst(
  spec: GroupedLinearKernel | ExpertSumKernel,
  l: ExpertLayer,
  runner: Runner,
  batches: readonly number[],
  popular?: number,
) {
  const random = randomSource(seed);
  const envs = batches.map((tokens) => {
    const env = expertEnvironment(l, tokens, random, popular);
    if (spec.kind === "expert_sum") interpretKernel(groupedLinearSpec(l), env);
    if (spec.kind === "grouped_linear" && !spec.gathers) {
      const rows = spec.x.rows as number;
      env.buffers.set(
        "x",
        roundTo(
          l.x,
          Float32Array.from({ length: rows * l.hidden }, () => random.normal()),
        ),
      );
    }
    return env;
  });
  const results = runKernel(spec, runner, envs, { random: random.uniform });
  const errors = envs.map((env, i) => {
    const reference = copyEnvironment(env);
    interpretKernel(spec, reference);
    const expected = reference.buffers.get(spec.out.name) as Float32Array;
    const found = results[i]?.out as Float32Array;
    return spec.kind === "expert_sum"
      ? relativeError(found, expected)
      : relativeError(ownRows(env, found, spec.n), ownRows(env, expected, spec.n));
  });
  return errors.some(Number.isNaN) ? Number.NaN : Math.max(...errors);
}

describe.each(runners())("expert layers on $name", (runner) => {
  const layer = (weights: DType, sizes: Partial<ExpertLayer> = {}): ExpertLayer => ({
    experts: 6,
    perToken: 2,
    hidden: 64,
    inner: 48,
    weights,
    x: linearInputDtype(runner.isa, weights),
    ...sizes,
  });
  const tolerance = (l: ExpertLayer) => (l.x === "bf16" ? 4e-3 : 2e-6);

  it("plans rows sorted by expert and token, experts on multiples of 16 rows", () => {
    const l = layer("f32", { experts: 7, perToken: 3 });
    const random = randomSource(seed);
    const envs = [1, 2, 40].map((tokens) => expertEnvironment(l, tokens, random));
    const results = runKernel(sortSlotsSpec(l), runner, envs);
    envs.forEach((env, i) => {
      const expected = env.buffers.get("plan") as Float32Array;
      const found = results[i]?.out as Float32Array;
      expect(found[0]).toBe(expected[0]);
      expect(expertsOf(found)).toEqual(expertsOf(expected));
      const slots = (of: Float32Array) => ownRows(env, of.subarray(1 + 3 * l.experts), 1);
      expect([...slots(found)]).toEqual([...slots(expected)]);
    });
  });

  it.each<DType>(fullSweep ? ["f32", "bf16", "f16"] : ["bf16"])("gates %s experts for 1 to 20 tokens", (weights) => {
    const l = layer(weights);
    const batches = Array.from({ length: 20 }, (_, i) => i + 1);
    expect(worst(groupedLinearSpec(l), l, runner, batches)).toBeLessThan(tolerance(l));
    expect(worst(expertSumSpec(l), l, runner, batches)).toBeLessThan(tolerance(l));
  });

  it("takes sizes that fill neither a panel nor a tile, and vectors of experts", () => {
    const sizes = [
      [70, 130, 9, 4],
      [34, 17, 5, 1],
      [47, 40, 3, 3],
    ] as const;
    for (const [hidden, inner, experts, perToken] of fullSweep ? sizes : sizes.slice(0, 1)) {
      const l = layer("bf16", { hidden, inner, experts, perToken });
      const up = groupedLinearSpec(l, { ways: 1, epilogue: add(acc, operand(0)), bias: true });
      expect(worst(up, l, runner, [1, 7, 33]), `up ${hidden} × ${inner}`).toBeLessThan(tolerance(l));
      const down = expertSumSpec(l, { bias: true, residual: true });
      expect(worst(down, l, runner, [1, 7, 33]), `down ${hidden} × ${inner}`).toBeLessThan(tolerance(l));
    }
  });

  it.runIf(fullSweep)("multiplies sorted rows as they are", () => {
    const l = layer("bf16");
    const spec = groupedLinearSpec(l, { ways: 1, epilogue: acc, gathers: false });
    expect(worst(spec, l, runner, [1, 9, 30])).toBeLessThan(tolerance(l));
  });

  it("sends sampled rows to experts, and no more than there are", () => {
    const l = layer("bf16", { rows: "S" });
    const env = expertEnvironment(l, 5, randomSource(seed));
    const [plan] = runKernel(sortSlotsSpec(l), runner, [env]);
    const rows = (of: Float32Array) => expertsOf(of).reduce((sum, e) => sum + e.count, 0);
    expect(rows((plan as KernelResult).out)).toBe(5 * l.perToken);
    expect(worst(groupedLinearSpec(l), l, runner, [1, 5])).toBeLessThan(tolerance(l));
    expect(worst(expertSumSpec(l, { residual: true }), l, runner, [1, 5])).toBeLessThan(tolerance(l));
  });

  it("takes hundreds of rows of one expert, and experts without any", () => {
    const l = layer("bf16", { experts: 12, perToken: 2 });
    expect(worst(groupedLinearSpec(l), l, runner, [300], 3)).toBeLessThan(tolerance(l));
    expect(worst(expertSumSpec(l), l, runner, [300], 3)).toBeLessThan(tolerance(l));
  });

  it("gives a token the same bits alone and among others", () => {
    const l = layer("bf16");
    const random = randomSource(seed);
    const all = expertEnvironment(l, 37, random, 3);
    const alone = (t: number): KernelEnvironment => {
      const one = (name: string, cols: number) => (all.buffers.get(name) as Float32Array).slice(t * cols, (t + 1) * cols);
      const env = { ...all, binding: { ...all.binding, T: 1 }, buffers: new Map<string, Float32Array>() };
      for (const [name, cols] of [
        ["ids", l.perToken],
        ["weights", l.perToken],
        ["x", l.hidden],
      ] as const)
        env.buffers.set(name, one(name, cols));
      interpretKernel(sortSlotsSpec(l), env);
      return env;
    };
    const envs = [all, ...[0, 17, 36].map(alone)];
    const ups = runKernel(groupedLinearSpec(l), runner, envs, { random: random.uniform });
    for (const [i, env] of envs.entries()) env.buffers.set("h", (ups[i] as KernelResult).out);
    const downs = runKernel(expertSumSpec(l), runner, envs, { random: random.uniform });
    [0, 17, 36].forEach((t, i) => {
      expect(downs[i + 1]?.out.join(), `token ${t}`).toBe(downs[0]?.out.slice(t * l.hidden, (t + 1) * l.hidden).join());
    });
  });
});

describe.each(plainRunners())("routing on $name", (runner) => {
  it.each([
    ["a sigmoid with correction, groups, renormalised and scaled", sigmoidSteps()],
    ["a softmax", softmaxSteps(64, 8)],
    ["all of an odd number of experts", softmaxSteps(7, 7)],
  ])("chooses by %s", (_, steps) => {
    const spec = routeSpec(steps);
    const random = randomSource(seed);
    const envs = [1, 50].map((rows) => randomEnvironment(spec, random, { rows }));
    const results = runKernel(spec, runner, envs);
    envs.forEach((env, i) => {
      const reference = copyEnvironment(env);
      interpretKernel(spec, reference);
      const [ids, weights] = (results[i] as KernelResult).outs as [Float32Array, Float32Array];
      expect([...ids]).toEqual([...(reference.buffers.get("ids") as Float32Array)]);
      expect(relativeError(weights, reference.buffers.get("weights") as Float32Array)).toBeLessThan(1e-6);
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
    const poisoned = equal.map((v, i) => (i % 2 ? Number.NaN : v));
    const [first, second] = runKernel(spec, runner, [env(equal), env(poisoned)]);
    expect([...(first as KernelResult).outs[0]!]).toEqual([1, 3, 4, 8]);
    const ids = [...(second as KernelResult).outs[0]!];
    expect(new Set(ids).size).toBe(4);
    expect(ids.every((id) => id >= 0 && id < 16)).toBe(true);
  });
});
