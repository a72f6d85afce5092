/**
 * Random decoders for property tests: layers whose parts come and go (norms before and behind, biases, rotation, windows, sinks,
 * gates, activations, parallel blocks, elementwise work in odd places), with taps on random values.
 */
import fc from "fast-check";
import { Graph } from "../../compiler/ir/graph.ts";
import type { Node } from "../../compiler/ir/ops.ts";
import { printGraph } from "../../compiler/ir/print.ts";
import type { DType } from "../../compiler/ir/tensor-type.ts";

const layer = fc.record({
  heads: fc.constantFrom([1, 1], [2, 1], [4, 2], [3, 3]),
  norm: fc.constantFrom("rms" as const, "layer" as const),
  /** A norm of what attention and mlp give, before it is added. */
  postNorm: fc.boolean(),
  /** A norm of each head, or of a row of heads. */
  qkNorm: fc.constantFrom("none" as const, "heads" as const, "rows" as const),
  /** One projection that the model itself takes apart. */
  fusedQkv: fc.boolean(),
  qkvBias: fc.constantFrom("none" as const, "all" as const, "query" as const),
  rope: fc.constantFrom(null, "half" as const, "interleaved" as const),
  window: fc.constantFrom(null, 1, 5),
  sinks: fc.boolean(),
  mlp: fc.constantFrom("gated" as const, "gated_at_once" as const, "plain" as const, "none" as const),
  activation: fc.constantFrom("silu" as const, "gelu_tanh" as const, "tanh" as const, "relu" as const, "clamped" as const),
  /** The mlp's output times a gate of one column. */
  columnGate: fc.boolean(),
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
  /** A second table, of positions. */
  learnedPositions: fc.boolean(),
  finalNorm: fc.constantFrom("rms" as const, "layer" as const, "none" as const, "projection" as const),
  tied: fc.boolean(),
  scaleLogits: fc.boolean(),
  taps: fc.array(fc.nat(), { maxLength: 6 }),
});

/** A decoder's graph as a model's build function leaves it. */
export const randomDense: fc.Arbitrary<Graph> = decoder.map((options) => {
  const graph = build(options);
  // A counterexample is shown as text, not as the tree of objects that it is.
  return Object.assign(graph, { [fc.toStringMethod]: () => printGraph(graph) });
});

function build({
  layers,
  width,
  weights,
  cache,
  beyond,
  learnedPositions,
  finalNorm,
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
  const norm = (kind: "rms" | "layer", y: Node, name: string): Node => {
    const size = y.type.shape[1] as number;
    return kind === "rms" ? g.rmsNorm(y, w(name, size), 1e-6) : g.layerNorm(y, w(name, size), w(`${name}.bias`, size), 1e-6);
  };
  const table = w("embed", 64, width);
  let x: Node = see(g.embedding(g.input("token_ids"), table));
  if (learnedPositions) x = see(g.plus(g.mul(x, g.constant(1.5)), g.embedding(g.input("positions"), w("positions", 32, width))));
  const long = beyond === null ? null : { invFreq: [0.8, 0.1, 0.02], beyond };
  const angles = g.ropeAngles(g.input("positions"), [1, 0.3, 0.05], 1.1, long);
  const gateAndUp = (mlp: "gated" | "gated_at_once" | "plain", read: Node, i: number, bias: boolean): [Node | null, Node] => {
    if (mlp === "gated_at_once") {
      const both = g.linear(read, w(`${i}.gate_up`, 80, width));
      return [g.slice(both, 1, 0, 40), see(g.slice(both, 1, 40, 40))];
    }
    const up = see(linear(read, `${i}.up`, 40, bias));
    return [mlp === "gated" ? see(linear(read, `${i}.gate_proj`, 40, bias)) : null, up];
  };
  layers.forEach((l, i) => {
    x = g.scope(`layers.${i}`, () => {
      const [numHeads, numKvHeads] = l.heads as [number, number];
      const normed = see(norm(l.norm, x, `${i}.norm`));
      const counts = { q: numHeads, k: numKvHeads, v: numKvHeads };
      const whole = l.fusedQkv ? linear(normed, `${i}.qkv`, (numHeads + 2 * numKvHeads) * 16, l.qkvBias === "all") : null;
      const row = (name: "q" | "k" | "v"): Node => {
        const start = { q: 0, k: numHeads, v: numHeads + numKvHeads }[name];
        if (whole) return g.slice(whole, 1, start * 16, counts[name] * 16);
        return linear(normed, `${i}.${name}`, counts[name] * 16, l.qkvBias === "all" || (l.qkvBias === "query" && name === "q"));
      };
      const heads = (name: "q" | "k" | "v") => {
        const turned = name !== "v";
        const y = turned && l.qkNorm === "rows" ? see(norm("rms", row(name), `${i}.${name}.norm`)) : row(name);
        let h: Node = g.reshape(y, [g.T, counts[name], 16]);
        if (turned && l.qkNorm === "heads") h = g.rmsNorm(h, w(`${i}.${name}.norm`, 16), 1e-6);
        return turned && l.rope ? g.rope(h, angles, l.rope) : h;
      };
      const kv = g.storeKv(g.kvCache(i, cache, numKvHeads, 16), heads("k"), heads("v"));
      const sinks = l.sinks ? w(`${i}.sinks`, numHeads) : undefined;
      let attended: Node = g.reshape(see(g.pagedAttention(heads("q"), kv, 0.25, l.window, sinks)), [g.T, numHeads * 16]);
      if (l.outputGate) attended = see(g.mul(attended, g.silu(linear(normed, `${i}.gate`, numHeads * 16, false))));
      const behind = (y: Node, name: string) => (l.postNorm ? see(norm(l.norm, y, `${i}.${name}`)) : y);
      const out = behind(see(linear(attended, `${i}.o`, width, l.mlpBias)), "post_norm");
      const middle = l.parallel ? x : see(g.plus(x, out));
      const read = l.parallel ? normed : norm(l.norm, middle, `${i}.norm2`);
      let next = middle;
      if (l.mlp !== "none") {
        const [gate, up] = gateAndUp(l.mlp, read, i, l.mlpBias);
        let mlp = linear(see(activated(g, l.activation, gate, up)), `${i}.down`, width, l.mlpBias);
        if (l.columnGate) mlp = g.mul(mlp, see(g.sigmoid(g.linear(read, w(`${i}.column_gate`, 1, width)))));
        next = g.plus(middle, behind(mlp, "post_norm2"));
      }
      if (l.parallel) next = g.plus(next, out);
      if (l.extra === "scale") next = g.mul(next, g.constant(0.7));
      if (l.extra === "silu") next = g.silu(g.plus(next, g.mul(next, next)));
      if (l.extra === "vector") next = g.mul(next, w(`${i}.vector`, width));
      if (l.extra === "cast") next = g.plus(g.cast(next, "bf16"), g.constant(0.5));
      return see(next);
    });
  });
  const sampled = see(g.gatherRows(x, g.input("sample_rows")));
  const last =
    finalNorm === "projection"
      ? see(linear(sampled, "projection", width, false))
      : finalNorm === "none"
        ? sampled
        : see(norm(finalNorm, sampled, "norm"));
  const logits = g.linear(last, tied ? table : w("head", 64, width));
  g.setLogits(scaleLogits ? g.mul(g.tanh(g.mul(see(logits), g.constant(0.5))), g.constant(2)) : logits);
  const tapped = new Set(taps.map((t) => visible[t % visible.length]!));
  [...tapped].forEach((node, i) => {
    g.tap(`tap.${i}`, node);
  });
  return g;
}

/** act(gate) · up, act(up) without a gate; clamped as gpt-oss does, where both are read twice. */
function activated(g: Graph, activation: "silu" | "gelu_tanh" | "tanh" | "relu" | "clamped", gate: Node | null, up: Node): Node {
  const x = gate ?? up;
  const zero = g.constant(0);
  const act = {
    silu: () => g.silu(x),
    gelu_tanh: () => g.geluTanh(x),
    tanh: () => g.tanh(x),
    relu: () => g.max(x, zero),
    clamped: () => {
      const least = g.min(x, g.constant(0.7));
      return g.mul(least, g.sigmoid(g.mul(least, g.constant(1.702))));
    },
  }[activation]();
  if (!gate) return act;
  const bounded = g.max(g.min(up, g.constant(0.7)), g.constant(-0.7));
  return g.mul(act, activation === "clamped" ? g.plus(bounded, g.constant(1)) : up);
}
