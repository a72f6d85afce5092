/** The kernels of an expert layer against their specs' meaning, on every instruction set this machine can run. */
import { describe, expect, it } from "vitest";
import { linearInputDtype } from "../../compiler/codegen/cpu.ts";
import { roundTo } from "../../compiler/ir/rounding.ts";
import type { DType } from "../../compiler/ir/tensor-type.ts";
import type { KernelEnvironment } from "../../compiler/kernels/environment.ts";
import { interpretKernel } from "../../compiler/kernels/interpret.ts";
import { expertsOf, planColumns, sortedRows } from "../../compiler/kernels/plan.ts";
import type {
  BufferValue,
  ExpertSumKernel,
  Expr,
  GroupedLinearKernel,
  RouteKernel,
  RowStep,
  SortSlotsKernel,
} from "../../compiler/kernels/spec.ts";
import { relativeError } from "../support/closeness.ts";
import { type Runner, runners } from "../support/kernel-process.ts";
import { type KernelResult, runKernel } from "../support/kernel-runner.ts";
import {
  acc,
  add,
  buffer,
  copyEnvironment,
  operand,
  randomEnvironment,
  randomSource,
  siluMul,
  tensor,
} from "../support/kernel-specs.ts";

const seed = Math.floor(Math.random() * 2 ** 31);
console.log(`seed ${seed}`);

interface Layer {
  readonly experts: number;
  readonly perToken: number;
  readonly hidden: number;
  readonly inner: number;
  readonly weights: DType;
  readonly x: DType;
}

const ids = (l: Layer): BufferValue => buffer("ids", l.perToken, "i32");
const plan = (l: Layer): BufferValue => ({ ...buffer("plan", planColumns(ids(l), l.experts), "i32"), rows: 1 });
const sorted = (l: Layer, name: string, cols: number, dtype: DType): BufferValue => ({
  ...buffer(name, cols, dtype),
  rows: sortedRows(ids(l).rows, l.perToken, l.experts),
});

const sortSlots = (l: Layer): SortSlotsKernel => ({
  kind: "sort_slots",
  name: "sort",
  ids: ids(l),
  numExperts: l.experts,
  out: plan(l),
  nodes: [],
});

function groupedLinear(
  l: Layer,
  options: { ways?: 1 | 2; epilogue?: Expr; bias?: boolean; gathers?: boolean } = {},
): GroupedLinearKernel {
  const { ways = 2, epilogue = siluMul, bias = false, gathers = true } = options;
  return {
    kind: "grouped_linear",
    name: "up",
    plan: plan(l),
    x: gathers ? buffer("x", l.hidden, l.x) : sorted(l, "x", l.hidden, l.x),
    gathers,
    w: tensor("w", l.experts * ways * l.inner, l.hidden, l.weights),
    numExperts: l.experts,
    perToken: l.perToken,
    n: l.inner,
    k: l.hidden,
    ways,
    epilogue,
    operands: bias ? [tensor("bias", l.experts, l.inner)] : [],
    out: sorted(l, "h", l.inner, l.x),
    nodes: [],
  };
}

function expertSum(l: Layer, options: { bias?: boolean; residual?: boolean } = {}): ExpertSumKernel {
  return {
    kind: "expert_sum",
    name: "down",
    plan: plan(l),
    x: sorted(l, "h", l.inner, l.x),
    w: tensor("w2", l.experts * l.hidden, l.inner, l.weights),
    numExperts: l.experts,
    perToken: l.perToken,
    n: l.hidden,
    k: l.inner,
    weights: buffer("weights", l.perToken),
    bias: options.bias ? tensor("bias2", l.experts, l.hidden) : null,
    epilogue: options.residual ? add(acc, operand(0)) : acc,
    operands: options.residual ? [buffer("residual", l.hidden)] : [],
    out: buffer("out", l.hidden),
    nodes: [],
  };
}

type Random = ReturnType<typeof randomSource>;

/** A batch of `tokens`, each with distinct experts; `popular` of them take most of the tokens. */
function environment(l: Layer, tokens: number, random: Random, popular = l.experts): KernelEnvironment {
  const env = randomEnvironment(sortSlots(l), random, { rows: tokens });
  const chosen = Float32Array.from(
    Array.from({ length: tokens }, () => {
      const order = Array.from({ length: l.experts }, (_, e) => [random.uniform() - (e < popular ? 1 : 0), e] as const);
      return order
        .sort((a, b) => a[0] - b[0])
        .slice(0, l.perToken)
        .map(([, e]) => e);
    }).flat(),
  );
  const normal = (n: number, dtype: DType, scale = 1) =>
    roundTo(
      dtype,
      Float32Array.from({ length: n }, () => random.normal() * scale),
    );
  env.buffers.set("ids", chosen);
  interpretKernel(sortSlots(l), env);
  env.buffers.set("x", normal(tokens * l.hidden, l.x));
  env.buffers.set("weights", normal(tokens * l.perToken, "f32"));
  env.buffers.set("residual", normal(tokens * l.hidden, "f32"));
  const tensors = new Map<string, Float32Array>();
  const tensorOf: KernelEnvironment["tensor"] = ({ name, rows, cols, dtype }) => {
    const known = tensors.get(name) ?? normal(rows * cols, dtype, cols ** -0.5);
    tensors.set(name, known);
    return known;
  };
  return { ...env, tensor: tensorOf };
}

/** The rows that experts have; what lies between them is nobody's. */
function ownRows(env: KernelEnvironment, values: Float32Array, cols: number): Float32Array {
  const rows = expertsOf(env.buffers.get("plan") as Float32Array);
  return Float32Array.from(rows.flatMap(({ begin, count }) => [...values.subarray(begin * cols, (begin + count) * cols)]));
}

/** Worst relative error over batches of a layer's kernel. */
function worst(
  spec: GroupedLinearKernel | ExpertSumKernel,
  l: Layer,
  runner: Runner,
  batches: readonly number[],
  popular?: number,
) {
  const random = randomSource(seed);
  const envs = batches.map((tokens) => {
    const env = environment(l, tokens, random, popular);
    if (spec.kind === "expert_sum") interpretKernel(groupedLinear(l), env);
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
  const layer = (weights: DType, sizes: Partial<Layer> = {}): Layer => ({
    experts: 6,
    perToken: 2,
    hidden: 64,
    inner: 48,
    weights,
    x: linearInputDtype(runner.isa, weights),
    ...sizes,
  });
  const tolerance = (l: Layer) => (l.x === "bf16" ? 4e-3 : 2e-6);

  it("plans rows sorted by expert and token, experts on multiples of 16 rows", () => {
    const l = layer("f32", { experts: 7, perToken: 3 });
    const random = randomSource(seed);
    const envs = [1, 2, 40].map((tokens) => environment(l, tokens, random));
    const results = runKernel(sortSlots(l), runner, envs);
    envs.forEach((env, i) => {
      const expected = env.buffers.get("plan") as Float32Array;
      const found = results[i]?.out as Float32Array;
      expect(found[0]).toBe(expected[0]);
      expect(expertsOf(found)).toEqual(expertsOf(expected));
      const slots = (of: Float32Array) => ownRows(env, of.subarray(1 + 3 * l.experts), 1);
      expect([...slots(found)]).toEqual([...slots(expected)]);
    });
  });

  it.each<DType>(["f32", "bf16", "f16"])("gates %s experts for 1 to 20 tokens", (weights) => {
    const l = layer(weights);
    const batches = Array.from({ length: 20 }, (_, i) => i + 1);
    expect(worst(groupedLinear(l), l, runner, batches)).toBeLessThan(tolerance(l));
    expect(worst(expertSum(l), l, runner, batches)).toBeLessThan(tolerance(l));
  });

  it("takes sizes that fill neither a panel nor a tile, and vectors of experts", () => {
    for (const [hidden, inner, experts, perToken] of [
      [34, 17, 5, 1],
      [70, 130, 9, 4],
      [47, 40, 3, 3],
    ] as const) {
      const l = layer("bf16", { hidden, inner, experts, perToken });
      const up = groupedLinear(l, { ways: 1, epilogue: add(acc, operand(0)), bias: true });
      expect(worst(up, l, runner, [1, 7, 33]), `up ${hidden} × ${inner}`).toBeLessThan(tolerance(l));
      const down = expertSum(l, { bias: true, residual: true });
      expect(worst(down, l, runner, [1, 7, 33]), `down ${hidden} × ${inner}`).toBeLessThan(tolerance(l));
    }
  });

  it("multiplies sorted rows as they are", () => {
    const l = layer("bf16");
    const spec = groupedLinear(l, { ways: 1, epilogue: acc, gathers: false });
    expect(worst(spec, l, runner, [1, 9, 30])).toBeLessThan(tolerance(l));
  });

  it("takes hundreds of rows of one expert, and experts without any", () => {
    const l = layer("bf16", { experts: 12, perToken: 2 });
    expect(worst(groupedLinear(l), l, runner, [300], 3)).toBeLessThan(tolerance(l));
    expect(worst(expertSum(l), l, runner, [300], 3)).toBeLessThan(tolerance(l));
  });

  it("gives a token the same bits alone and among others", () => {
    const l = layer("bf16", { experts: 8, perToken: 3, hidden: 96, inner: 80 });
    const random = randomSource(seed);
    const all = environment(l, 37, random, 4);
    const alone = (t: number): KernelEnvironment => {
      const one = (name: string, cols: number) => (all.buffers.get(name) as Float32Array).slice(t * cols, (t + 1) * cols);
      const env = { ...all, binding: { ...all.binding, T: 1 }, buffers: new Map<string, Float32Array>() };
      for (const [name, cols] of [
        ["ids", 3],
        ["weights", 3],
        ["x", 96],
        ["residual", 96],
      ] as const)
        env.buffers.set(name, one(name, cols));
      interpretKernel(sortSlots(l), env);
      return env;
    };
    const envs = [all, ...[0, 17, 36].map(alone)];
    const ups = runKernel(groupedLinear(l), runner, envs, { random: random.uniform });
    for (const [i, env] of envs.entries()) env.buffers.set("h", (ups[i] as KernelResult).out);
    const downs = runKernel(expertSum(l, { residual: true }), runner, envs, { random: random.uniform });
    [0, 17, 36].forEach((t, i) => {
      expect(downs[i + 1]?.out.join(), `token ${t}`).toBe(downs[0]?.out.slice(t * 96, (t + 1) * 96).join());
    });
  });
});

describe.each(runners())("routing on $name", (runner) => {
  const sigmoid = (): RowStep[] => [
    { op: "load", from: buffer("logits", 24), size: 24 },
    { op: "map", expr: { kind: "unary", fn: "silu", x: operand(0) }, operands: [0], size: 24 },
    { op: "load", from: tensor("correction", 1, 24), size: 24 },
    { op: "map", expr: add(operand(0), operand(1)), operands: [1, 2], size: 24 },
    { op: "group_limit", x: 3, groups: 4, keep: 2, best: 2, size: 24 },
    { op: "top_k", x: 4, size: 5 },
    { op: "gather_cols", x: 1, ids: 5, size: 5 },
    { op: "renormalize", x: 6, eps: 1e-20, size: 5 },
    {
      op: "map",
      expr: { kind: "binary", fn: "mul", a: operand(0), b: { kind: "constant", value: 2.5 } },
      operands: [7],
      size: 5,
    },
  ];
  const softmax = (experts: number, k: number): RowStep[] => [
    { op: "load", from: buffer("logits", experts), size: experts },
    { op: "softmax", x: 0, size: experts },
    { op: "top_k", x: 1, size: k },
    { op: "gather_cols", x: 1, ids: 2, size: k },
  ];
  const route = (steps: RowStep[]): RouteKernel => {
    const ids = steps.findIndex((s) => s.op === "top_k");
    const k = steps[ids]?.size ?? 0;
    return {
      kind: "route",
      name: "route",
      inputs: steps.flatMap((s) => (s.op === "load" ? [s.from] : [])),
      steps,
      outs: [
        { step: ids, value: buffer("ids", k, "i32") },
        { step: steps.length - 1, value: buffer("weights", k) },
      ],
      nodes: [],
    };
  };

  it.each([
    ["a sigmoid with correction, groups, renormalised and scaled", sigmoid()],
    ["a softmax", softmax(64, 8)],
    ["all of an odd number of experts", softmax(7, 7)],
  ])("chooses by %s", (_, steps) => {
    const spec = route(steps);
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
    const spec = route(softmax(16, 4));
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
