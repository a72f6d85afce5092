/** A small dense decoder written directly in its fused form, as the passes leave it: for tests of everything after the passes. */
import { Graph } from "../../compiler/ir/graph.ts";
import type { Node } from "../../compiler/ir/ops.ts";
import type { DType } from "../../compiler/ir/tensor-type.ts";

export interface DenseShape {
  readonly hidden: number;
  readonly inter: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocab: number;
  readonly layers: number;
  readonly bias: boolean;
  readonly qkNorm: boolean;
  readonly tied: boolean;
  readonly window: number | null;
  readonly weightDtype: DType;
  /** The dtype a linear reads: a cast stands before it when it is not f32. */
  readonly linearInput: DType;
}

export const smallDense: DenseShape = {
  hidden: 64,
  inter: 96,
  heads: 4,
  kvHeads: 2,
  headDim: 32,
  vocab: 100,
  layers: 2,
  bias: false,
  qkNorm: false,
  tied: false,
  window: null,
  weightDtype: "f32",
  linearInput: "f32",
};

/** Builds the graph with taps `hidden.0` … `hidden.layers`. */
export function denseGraph(s: DenseShape): Graph {
  const g = new Graph({ maxModelLen: 256, maxNumSeqs: 8, maxNumBatchedTokens: 64, blockSize: 16 });
  const w = (name: string, ...shape: number[]) => g.weight(name, { dtype: shape.length === 1 ? "f32" : s.weightDtype, shape });
  const linear = (x: Node, weight: Node) => g.linear(s.linearInput === "f32" ? x : g.cast(x, s.linearInput), weight);
  const table = w("embed", s.vocab, s.hidden);
  let x: Node = g.tap("hidden.0", g.embedding(g.input("token_ids"), table));
  const angles = g.ropeAngles(
    g.input("positions"),
    Array.from({ length: s.headDim / 2 }, (_, i) => 10000 ** ((-2 * i) / s.headDim)),
    1,
  );
  for (let l = 0; l < s.layers; l++) {
    const q = s.heads * s.headDim;
    const kv = s.kvHeads * s.headDim;
    const normed = g.rmsNorm(x, w(`${l}.norm1`, s.hidden), 1e-6);
    const weights = g.concat([w(`${l}.q`, q, s.hidden), w(`${l}.k`, kv, s.hidden), w(`${l}.v`, kv, s.hidden)], 0);
    let qkv: Node = linear(normed, weights);
    if (s.bias) qkv = g.plus(qkv, g.concat([w(`${l}.qb`, q), w(`${l}.kb`, kv), w(`${l}.vb`, kv)], 0));
    const heads = (start: number, n: number) => g.reshape(g.slice(qkv, 1, start, n * s.headDim), [g.T, n, s.headDim]);
    const qk = (node: Node, name: string) =>
      g.rope(s.qkNorm ? g.rmsNorm(node, w(`${l}.${name}norm`, s.headDim), 1e-6) : node, angles, "half");
    const cache = g.storeKv(
      g.kvCache(l, s.weightDtype, s.kvHeads, s.headDim),
      qk(heads(q, s.kvHeads), "k"),
      heads(q + kv, s.kvHeads),
    );
    const attended = g.pagedAttention(qk(heads(0, s.heads), "q"), cache, 1 / Math.sqrt(s.headDim), s.window);
    x = g.plus(x, linear(g.reshape(attended, [g.T, q]), w(`${l}.o`, s.hidden, q)));
    const mlp = g.rmsNorm(x, w(`${l}.norm2`, s.hidden), 1e-6);
    const gateUp = linear(mlp, g.concat([w(`${l}.gate`, s.inter, s.hidden), w(`${l}.up`, s.inter, s.hidden)], 0));
    const act = g.mul(g.silu(g.slice(gateUp, 1, 0, s.inter)), g.slice(gateUp, 1, s.inter, s.inter));
    x = g.plus(x, linear(act, w(`${l}.down`, s.hidden, s.inter)));
    if (l + 1 < s.layers) g.tap(`hidden.${l + 1}`, x);
  }
  const last = g.rmsNorm(g.gatherRows(x, g.input("sample_rows")), w("norm", s.hidden), 1e-6);
  g.tap(`hidden.${s.layers}`, last);
  g.setLogits(linear(last, s.tied ? table : w("head", s.vocab, s.hidden)));
  return g;
}

/** Deterministic normal-ish weights by name. */
export function weightsOf(graph: Graph): Map<string, Float32Array> {
  const weights = new Map<string, Float32Array>();
  let state = 12345;
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32 - 0.5;
  };
  for (const node of graph.liveNodes()) {
    if (node.op !== "weight") continue;
    const size = (node.type.shape as readonly number[]).reduce((a, b) => a * b, 1);
    const gain = node.attrs.name.includes("norm");
    weights.set(
      node.attrs.name,
      Float32Array.from({ length: size }, () => (gain ? 1 + next() : next() * 0.4)),
    );
  }
  return weights;
}
