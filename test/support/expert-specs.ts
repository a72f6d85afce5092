/**
 * Specs of the kernels of an expert layer, of given sizes.
 */
import { roundTo } from "../../compiler/ir/rounding.ts";
import type { DType } from "../../compiler/ir/tensor-type.ts";
import type { KernelEnvironment } from "../../compiler/kernels/environment.ts";
import { expertsOf, planColumns, sortedRows } from "../../compiler/kernels/expert-plan.ts";
import { interpretKernel } from "../../compiler/kernels/interpret.ts";
import type {
  BufferValue,
  ExpertSumKernel,
  Expr,
  GroupedLinearKernel,
  RouteKernel,
  RowStep,
  SortSlotsKernel,
} from "../../compiler/kernels/spec.ts";
import { acc, add, buffer, operand, type RandomSource, randomEnvironment, siluMul, tensor } from "./kernel-specs.ts";

/** Sizes of an expert layer. */
export interface ExpertLayer {
  readonly experts: number;
  readonly perToken: number;
  readonly hidden: number;
  readonly inner: number;
  readonly weights: DType;
  readonly x: DType;
  /** What is sent to experts: tokens unless given. */
  readonly rows?: "T" | "S";
}

const idsOf = (l: ExpertLayer): BufferValue => buffer("ids", l.perToken, "i32", l.rows);
const planOf = (l: ExpertLayer): BufferValue => ({ ...buffer("plan", planColumns(idsOf(l), l.experts), "i32"), rows: 1 });
const sortedBuffer = (l: ExpertLayer, name: string, cols: number, dtype: DType): BufferValue => ({
  ...buffer(name, cols, dtype),
  rows: sortedRows(idsOf(l).rows, l.perToken, l.experts),
});

/** What plans the rows. */
export const sortSlotsSpec = (l: ExpertLayer): SortSlotsKernel => ({
  kind: "sort_slots",
  name: "sort",
  ids: idsOf(l),
  numExperts: l.experts,
  out: planOf(l),
  nodes: [],
});

/** A first linear, gated or not. */
export function groupedLinearSpec(
  l: ExpertLayer,
  options: { ways?: 1 | 2; epilogue?: Expr; bias?: boolean; gathers?: boolean } = {},
): GroupedLinearKernel {
  const { ways = 2, epilogue = siluMul, bias = false, gathers = true } = options;
  return {
    kind: "grouped_linear",
    name: "up",
    plan: planOf(l),
    tokens: idsOf(l).rows,
    x: gathers ? buffer("x", l.hidden, l.x, l.rows) : sortedBuffer(l, "x", l.hidden, l.x),
    gathers,
    scatters: false,
    w: tensor("w", l.experts * ways * l.inner, l.hidden, l.weights),
    numExperts: l.experts,
    perToken: l.perToken,
    n: l.inner,
    k: l.hidden,
    ways,
    epilogue,
    operands: bias ? [tensor("bias", l.experts, l.inner)] : [],
    out: sortedBuffer(l, "h", l.inner, l.x),
    nodes: [],
  };
}

/** A last linear. */
export function expertSumSpec(l: ExpertLayer, options: { bias?: boolean; residual?: boolean } = {}): ExpertSumKernel {
  return {
    kind: "expert_sum",
    name: "down",
    plan: planOf(l),
    tokens: idsOf(l).rows,
    x: sortedBuffer(l, "h", l.inner, l.x),
    w: tensor("w2", l.experts * l.hidden, l.inner, l.weights),
    numExperts: l.experts,
    perToken: l.perToken,
    n: l.hidden,
    k: l.inner,
    weights: buffer("weights", l.perToken, "f32", l.rows),
    bias: options.bias ? tensor("bias2", l.experts, l.hidden) : null,
    epilogue: options.residual ? add(acc, operand(0)) : acc,
    operands: options.residual ? [buffer("residual", l.hidden, "f32", l.rows)] : [],
    out: buffer("out", l.hidden, "f32", l.rows),
    nodes: [],
  };
}

/** GLM-4.5's steps: a sigmoid, a correction, groups, weights renormalised and scaled. */
export const sigmoidSteps = (): RowStep[] => [
  { op: "load", from: buffer("logits", 24), size: 24 },
  { op: "map", expr: { kind: "unary", fn: "sigmoid", x: operand(0) }, operands: [0], size: 24 },
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
/** Qwen2's: a softmax over all experts. */
export const softmaxSteps = (experts: number, k: number): RowStep[] => [
  { op: "load", from: buffer("logits", experts), size: experts },
  { op: "softmax", x: 0, size: experts },
  { op: "top_k", x: 1, size: k },
  { op: "gather_cols", x: 1, ids: 2, size: k },
];
/** Scores in, ids and weights out. */
export const routeSpec = (steps: RowStep[]): RouteKernel => {
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

/** A batch of `tokens`, each with distinct experts; `popular` of them take most of the tokens. */
export function expertEnvironment(l: ExpertLayer, tokens: number, random: RandomSource, popular = l.experts): KernelEnvironment {
  // Of sampled rows there are fewer than tokens.
  const sizes = l.rows === "S" ? { rows: 3 * tokens, sampled: tokens } : { rows: tokens };
  const env = randomEnvironment(sortSlotsSpec(l), random, sizes);
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
  interpretKernel(sortSlotsSpec(l), env);
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
export function ownRows(env: KernelEnvironment, values: Float32Array, cols: number): Float32Array {
  const rows = expertsOf(env.buffers.get("plan") as Float32Array);
  return Float32Array.from(rows.flatMap(({ begin, count }) => [...values.subarray(begin * cols, (begin + count) * cols)]));
}
