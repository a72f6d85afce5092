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

const tensorName = (g: Graph, naming: Naming, leaf: string): string => `${naming.prefix}${g.path}.${leaf}`;

/** x (…, k) · wᵀ (+ bias): (…, n). Tensors `<path>.<name>.weight` (n, k) and, with a bias, `<path>.<name>.bias` (n). */
export function linear(g: Graph, x: Node, name: string, n: number, naming: Naming, options: { bias?: boolean } = {}): Node {
  return g.scope(name, () => {
    const k = x.type.shape.at(-1) as number;
    const y = g.linear(x, g.weight(tensorName(g, naming, "weight"), { dtype: naming.dtype, shape: [n, k] }));
    return options.bias ? g.plus(y, g.weight(tensorName(g, naming, "bias"), { dtype: "f32", shape: [n] })) : y;
  });
}

/** x / rms(x) · gain over the last axis. Tensor `<path>.<name>.weight`. */
export function rmsNorm(g: Graph, x: Node, name: string, eps: number, naming: Naming): Node {
  return g.scope(name, () => {
    const size = x.type.shape.at(-1) as number;
    return g.rmsNorm(x, g.weight(tensorName(g, naming, "weight"), { dtype: "f32", shape: [size] }), eps);
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
  /** RMS norm of each head of q and k before rotation, or null. */
  readonly qkNorm: { readonly eps: number } | null;
  readonly rope: { readonly angles: Node; readonly style: RopeStyle };
  /** Tokens a position sees, itself included; null sees all before it. */
  readonly window: number | null;
}

/** Grouped-query attention with rotary positions: x (T, hidden) → (T, hidden). */
export function attention(g: Graph, x: Node, options: AttentionOptions, naming: Naming): Node {
  const { numHeads, numKvHeads, headDim, qkNorm, rope, window } = options;
  const hiddenSize = x.type.shape.at(-1) as number;
  const heads = (name: string, count: number) =>
    g.reshape(linear(g, x, `${name}_proj`, count * headDim, naming, { bias: options.qkvBias }), [g.T, count, headDim]);
  const normed = (y: Node, name: string) => (qkNorm ? rmsNorm(g, y, `${name}_norm`, qkNorm.eps, naming) : y);
  return g.scope("self_attn", () => {
    const q = g.rope(normed(heads("q", numHeads), "q"), rope.angles, rope.style); // (T, numHeads, headDim)
    const k = g.rope(normed(heads("k", numKvHeads), "k"), rope.angles, rope.style); // (T, numKvHeads, headDim)
    const v = heads("v", numKvHeads);
    const kv = g.storeKv(g.kvCache(options.layer, naming.dtype, numKvHeads, headDim), k, v);
    const mixed = g.pagedAttention(q, kv, headDim ** -0.5, window);
    const joined = g.reshape(mixed, [g.T, numHeads * headDim]);
    return linear(g, joined, "o_proj", hiddenSize, naming, { bias: options.outputBias });
  });
}

/** down(silu(gate(x)) · up(x)): x (T, hidden) → (T, hidden). */
export function swigluMlp(g: Graph, x: Node, options: { intermediateSize: number; bias: boolean }, naming: Naming): Node {
  const { intermediateSize, bias } = options;
  return g.scope("mlp", () => {
    const gate = linear(g, x, "gate_proj", intermediateSize, naming, { bias });
    const up = linear(g, x, "up_proj", intermediateSize, naming, { bias });
    return linear(g, g.mul(g.silu(gate), up), "down_proj", x.type.shape.at(-1) as number, naming, { bias });
  });
}
