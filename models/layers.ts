/**
 * The layers that models share: each builds nodes under its own model path and names its weights by that path.
 *
 * Families differ in options and in which layers they call, never in copies of these functions. Weights keep the compute dtype;
 * norm gains and biases are f32, and so is everything between layers.
 */
import type { Graph } from "../compiler/ir/graph.ts";
import type { Node, RopeStyle } from "../compiler/ir/ops.ts";
import type { DType } from "../compiler/ir/tensor-type.ts";

/** Where a module's tensors stand in the checkpoint: `model.` before the model path. */
export interface Naming {
  readonly prefix: string;
  /** Dtype of matrices. */
  readonly dtype: DType;
}

/** A matrix `<path>.<leaf>` in the compute dtype. */
export function matrix(g: Graph, leaf: string, shape: readonly number[], naming: Naming): Node {
  return g.weight(tensorName(g, naming, leaf), { dtype: naming.dtype, shape });
}

/** A vector `<path>.<leaf>` in f32. */
export function vector(g: Graph, leaf: string, size: number, naming: Naming): Node {
  return g.weight(tensorName(g, naming, leaf), { dtype: "f32", shape: [size] });
}

const tensorName = (g: Graph, naming: Naming, leaf: string): string => [`${naming.prefix}${g.path}`, leaf].join(".");

/** x (…, k) · wᵀ (+ bias): (…, n). Tensors `<path>.<name>.weight` (n, k) and, with a bias, `<path>.<name>.bias` (n). */
export function linear(g: Graph, x: Node, name: string, n: number, naming: Naming, options: { bias?: boolean } = {}): Node {
  return g.scope(name, () => {
    const y = g.linear(x, matrix(g, "weight", [n, lastExtent(x)], naming));
    return options.bias ? g.plus(y, vector(g, "bias", n, naming)) : y;
  });
}

/** x / rms(x) · gain over the last axis. Tensor `<path>.<name>.weight`, which holds gain − 1 where it is zero-centered. */
export function rmsNorm(
  g: Graph,
  x: Node,
  name: string,
  eps: number,
  naming: Naming,
  options: { zeroCentered?: boolean } = {},
): Node {
  return g.scope(name, () => {
    const weight = vector(g, "weight", lastExtent(x), naming);
    return g.rmsNorm(x, options.zeroCentered ? g.plus(weight, g.constant(1)) : weight, eps);
  });
}

/** (x − mean x) / deviation of x · gain + bias over the last axis. Tensors `<path>.<name>.weight` and `.bias`. */
export function layerNorm(g: Graph, x: Node, name: string, eps: number, naming: Naming): Node {
  return g.scope(name, () => {
    const size = lastExtent(x);
    return g.layerNorm(x, vector(g, "weight", size, naming), vector(g, "bias", size, naming), eps);
  });
}

export interface AttentionOptions {
  readonly layer: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  /** Biases of q, k and v, and of the output projection. */
  readonly qkvBias: boolean;
  readonly outputBias: boolean;
  /** RMS norms of q and k before rotation, over each head or over a whole row, or null. */
  readonly qkNorm: { readonly over: "heads" | "rows"; readonly eps: number; readonly zeroCentered?: boolean } | null;
  /** Null leaves q and k as they are. */
  readonly rope: { readonly angles: Node; readonly style: RopeStyle } | null;
  /** Tokens a position sees, itself included; null sees all before it. */
  readonly window: number | null;
  /** What scores are multiplied with; 1 / √headDim unless given. */
  readonly scale?: number;
  /** Each head has a score of its own that takes part in its softmax: tensor `self_attn.sinks`. */
  readonly sinks?: boolean;
  /** One matrix `qkv_proj` instead of three. */
  readonly fusedQkv?: boolean;
  /** Module of the output projection; `o_proj` unless given. */
  readonly outputName?: string;
}

/** Grouped-query attention: x (T, hidden) → (T, hidden). */
export function attention(g: Graph, x: Node, options: AttentionOptions, naming: Naming): Node {
  const { numHeads, numKvHeads, headDim, qkNorm, rope, window, scale = headDim ** -0.5 } = options;
  const asHeads = (row: Node, count: number) => g.reshape(row, [g.T, count, headDim]);
  const normed = (row: Node, count: number, name: string) => {
    if (!qkNorm) return asHeads(row, count);
    const norm = (y: Node) => rmsNorm(g, y, name, qkNorm.eps, naming, qkNorm);
    return qkNorm.over === "rows" ? asHeads(norm(row), count) : norm(asHeads(row, count));
  };
  const turned = (y: Node) => (rope ? g.rope(y, rope.angles, rope.style) : y);
  return g.scope("self_attn", () => {
    const rows = projections(g, x, options, naming);
    const q = turned(normed(rows.q, numHeads, "q_norm")); // (T, numHeads, headDim)
    const k = turned(normed(rows.k, numKvHeads, "k_norm")); // (T, numKvHeads, headDim)
    const kv = g.storeKv(g.kvCache(options.layer, naming.dtype, numKvHeads, headDim), k, asHeads(rows.v, numKvHeads));
    const sinks = options.sinks ? vector(g, "sinks", numHeads, naming) : undefined;
    const joined = g.reshape(g.pagedAttention(q, kv, scale, window, sinks), [g.T, numHeads * headDim]);
    return linear(g, joined, options.outputName ?? "o_proj", lastExtent(x), naming, { bias: options.outputBias });
  });
}

/** x (T, hidden) → q (T, numHeads · headDim), k and v (T, numKvHeads · headDim). */
function projections(g: Graph, x: Node, options: AttentionOptions, naming: Naming): Record<"q" | "k" | "v", Node> {
  const { numHeads, numKvHeads, headDim, qkvBias: bias } = options;
  if (options.fusedQkv) {
    const rows = (numHeads + 2 * numKvHeads) * headDim;
    const qkv = linear(g, x, "qkv_proj", rows, naming, { bias });
    const part = (firstHead: number, count: number) => g.slice(qkv, 1, firstHead * headDim, count * headDim);
    return { q: part(0, numHeads), k: part(numHeads, numKvHeads), v: part(numHeads + numKvHeads, numKvHeads) };
  }
  const rows = (name: string, count: number) => linear(g, x, name, count * headDim, naming, { bias });
  return { q: rows("q_proj", numHeads), k: rows("k_proj", numKvHeads), v: rows("v_proj", numKvHeads) };
}

export interface MlpOptions {
  /** Module it stands in; `mlp` unless given. */
  readonly name?: string;
  readonly intermediateSize: number;
  readonly bias: boolean;
  /** Of the gate; `silu`, which makes it SwiGLU, unless given. */
  readonly activation?: "silu" | "gelu_tanh";
  /** One matrix `gate_up_proj` instead of two. */
  readonly fusedGateUp?: boolean;
}

/** down(activation(gate(x)) · up(x)): x (T, hidden) → (T, hidden). */
export function gatedMlp(g: Graph, x: Node, options: MlpOptions, naming: Naming): Node {
  const { name = "mlp", intermediateSize: size, bias, activation = "silu" } = options;
  return g.scope(name, () => {
    const both = options.fusedGateUp ? linear(g, x, "gate_up_proj", 2 * size, naming, { bias }) : null;
    const gate = both ? g.slice(both, 1, 0, size) : linear(g, x, "gate_proj", size, naming, { bias });
    const up = both ? g.slice(both, 1, size, size) : linear(g, x, "up_proj", size, naming, { bias });
    const gated = g.mul(activation === "silu" ? g.silu(gate) : g.geluTanh(gate), up);
    return linear(g, gated, "down_proj", lastExtent(x), naming, { bias });
  });
}

const lastExtent = (x: Node): number => x.type.shape.at(-1) as number;
