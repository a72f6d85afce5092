/**
 * Random decoders for property tests: layers whose parts come and go (norms, biases, rotation, windows, gates, parallel blocks,
 * elementwise work in odd places), with taps on random values.
 */
import fc from "fast-check";
import { Graph } from "../../compiler/ir/graph.ts";
import type { Node } from "../../compiler/ir/ops.ts";
import type { DType } from "../../compiler/ir/tensor-type.ts";

const layer = fc.record({
  heads: fc.constantFrom([1, 1], [2, 1], [4, 2], [3, 3]),
  qkNorm: fc.boolean(),
  qkvBias: fc.boolean(),
  rope: fc.constantFrom(null, "half" as const, "interleaved" as const),
  window: fc.constantFrom(null, 1, 5),
  mlp: fc.constantFrom("gated" as const, "plain" as const, "none" as const),
  mlpBias: fc.boolean(),
  /** Attention and mlp read one norm and are added together. */
  parallel: fc.boolean(),
  /** The attention's output is multiplied by a gate. */
  outputGate: fc.boolean(),
  /** Elementwise work on the residual stream. */
  extra: fc.constantFrom("none" as const, "scale" as const, "silu" as const, "vector" as const, "cast" as const),
});

const decoder = fc.record({
  layers: fc.array(layer, { minLength: 1, maxLength: 3 }),
  width: fc.constantFrom(16, 24, 33),
  weights: fc.constantFrom<DType>("f32", "bf16", "f16"),
  cache: fc.constantFrom<DType>("f32", "bf16", "f16"),
  /** The length beyond which angles are others, or null; the sample step has 17 tokens. */
  beyond: fc.constantFrom(null, 16, 17),
  tied: fc.boolean(),
  scaleLogits: fc.boolean(),
  taps: fc.array(fc.nat(), { maxLength: 6 }),
});

/** A decoder's graph as a model's build function leaves it. */
export const randomDense: fc.Arbitrary<Graph> = decoder.map(build);

function build({
  layers,
  width,
  weights,
  cache,
  beyond,
  tied,
  scaleLogits,
  taps,
}: typeof decoder extends fc.Arbitrary<infer D> ? D : never) {
  const g = new Graph({ maxModelLen: 64, maxNumSeqs: 32, maxNumBatchedTokens: 32, blockSize: 16 });
  const w = (name: string, ...shape: number[]) => g.weight(name, { dtype: shape.length === 1 ? "f32" : weights, shape });
  /** Values that some kernel may be asked to leave in memory. */
  const visible: Node[] = [];
  const see = <N extends Node>(node: N): N => {
    visible.push(node);
    return node;
  };
  const linear = (x: Node, name: string, n: number, bias: boolean): Node => {
    const y = g.linear(x, w(name, n, x.type.shape[1] as number));
    return bias ? g.plus(y, w(`${name}.bias`, n)) : y;
  };
  const table = w("embed", 64, width);
  let x: Node = see(g.embedding(g.input("token_ids"), table));
  const long = beyond === null ? null : { invFreq: [0.8, 0.1, 0.02], beyond };
  const angles = g.ropeAngles(g.input("positions"), [1, 0.3, 0.05], 1.1, long);
  layers.forEach((l, i) => {
    x = g.scope(`layers.${i}`, () => {
      const [numHeads, numKvHeads] = l.heads as [number, number];
      const normed = see(g.rmsNorm(x, w(`${i}.norm`, width), 1e-6));
      const heads = (name: string, n: number, turned: boolean) => {
        let y: Node = g.reshape(linear(normed, `${i}.${name}`, n * 16, l.qkvBias), [g.T, n, 16]);
        if (turned && l.qkNorm) y = g.rmsNorm(y, w(`${i}.${name}.norm`, 16), 1e-6);
        return turned && l.rope ? g.rope(y, angles, l.rope) : y;
      };
      const kv = g.storeKv(g.kvCache(i, cache, numKvHeads, 16), heads("k", numKvHeads, true), heads("v", numKvHeads, false));
      let attended: Node = g.reshape(see(g.pagedAttention(heads("q", numHeads, true), kv, 0.25, l.window)), [g.T, numHeads * 16]);
      if (l.outputGate) attended = see(g.mul(attended, g.silu(linear(normed, `${i}.gate`, numHeads * 16, false))));
      const out = see(linear(attended, `${i}.o`, width, l.mlpBias));
      const middle = l.parallel ? x : see(g.plus(x, out));
      const read = l.parallel ? normed : g.rmsNorm(middle, w(`${i}.norm2`, width), 1e-6);
      let next = middle;
      if (l.mlp !== "none") {
        const up = see(linear(read, `${i}.up`, 40, l.mlpBias));
        const inner = l.mlp === "gated" ? g.mul(g.silu(see(linear(read, `${i}.gate_proj`, 40, l.mlpBias))), up) : g.silu(up);
        next = g.plus(middle, linear(see(inner), `${i}.down`, width, l.mlpBias));
      }
      if (l.parallel) next = g.plus(next, out);
      if (l.extra === "scale") next = g.mul(next, g.constant(0.7));
      if (l.extra === "silu") next = g.silu(g.plus(next, g.mul(next, next)));
      if (l.extra === "vector") next = g.mul(next, w(`${i}.vector`, width));
      if (l.extra === "cast") next = g.plus(g.cast(next, "bf16"), g.constant(0.5));
      return see(next);
    });
  });
  const last = see(g.rmsNorm(g.gatherRows(x, g.input("sample_rows")), w("norm", width), 1e-6));
  const logits = g.linear(last, tied ? table : w("head", 64, width));
  g.setLogits(scaleLogits ? g.mul(see(logits), g.constant(0.5)) : logits);
  const tapped = new Set(taps.map((t) => visible[t % visible.length]!));
  [...tapped].forEach((node, i) => {
    g.tap(`tap.${i}`, node);
  });
  return g;
}
