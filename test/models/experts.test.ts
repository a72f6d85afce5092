/** Layers of experts against loops over tokens and experts, for routers that no recorded model has. */
import { describe, expect, it } from "vitest";
import { Graph } from "../../compiler/ir/graph.ts";
import { Interpreter } from "../../compiler/ir/interpret.ts";
import { oneSequenceStep } from "../../compiler/ir/step.ts";
import { EXPERT_MODULES, type ExpertsOptions, mixtureOfExperts, type RouterOptions } from "../../models/experts.ts";
import { expectClose } from "../support/closeness.ts";
import { seededRandom } from "../support/seeded-random.ts";

const TOKENS = 7;
const HIDDEN = 10;
const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const silu = (x: number) => x * sigmoid(x);
/** Indices of the `count` largest. */
const best = (values: readonly number[], count: number) =>
  [...values.keys()].sort((a, b) => values[b]! - values[a]!).slice(0, count);

/** Random tensors by name, made when they are first asked for. */
function tensors(seed: number) {
  const random = seededRandom(seed);
  const made = new Map<string, Float32Array>();
  return (name: string, size: number): Float32Array => {
    let values = made.get(name);
    if (!values) {
      values = Float32Array.from({ length: size }, () => random.normal());
      made.set(name, values);
    }
    expect(values, name).toHaveLength(size);
    return values;
  };
}
type Tensors = ReturnType<typeof tensors>;

/** w (n, k) · x */
const times = (w: ArrayLike<number>, x: readonly number[], n: number): number[] =>
  Array.from({ length: n }, (_, row) => sum(x.map((v, i) => v * w[row * x.length + i]!)));

function meant(x: readonly number[], options: ExpertsOptions, w: Tensors): number[] {
  const { router, numExperts: E, numExpertsPerToken: k, intermediateSize: I, name = "mlp" } = options;
  let logits = times(w(`${name}.${router.name}.weight`, E * HIDDEN), x, E);
  if (router.bias) logits = logits.map((l, e) => l + w(`${name}.${router.name}.bias`, E)[e]!);
  let scores = router.scores === "sigmoid" ? logits.map(sigmoid) : logits.map(Math.exp);
  if (router.scores === "softmax") scores = scores.map((s) => s / sum(scores));
  let choice = scores;
  if (router.correctionBias) choice = choice.map((s, e) => s + w(`${name}.${router.name}.e_score_correction_bias`, E)[e]!);
  if (router.groups) {
    const size = E / router.groups.count;
    const worth = Array.from({ length: router.groups.count }, (_, g) => {
      const group = choice.slice(g * size, (g + 1) * size);
      return sum(best(group, 2).map((i) => group[i]!));
    });
    const kept = best(worth, router.groups.keep);
    choice = choice.map((c, e) => (kept.includes(Math.floor(e / size)) ? c : Number.NEGATIVE_INFINITY));
  }
  const ids = best(choice, k);
  let weights = ids.map((e) => scores[e]!);
  const total = sum(weights);
  if (router.scores === "softmax_of_chosen") weights = weights.map((v) => v / total);
  else if (router.renormalizeEps !== null) weights = weights.map((v) => v / (total + router.renormalizeEps!));
  const out = new Array<number>(HIDDEN).fill(0);
  const add = (y: readonly number[], by: number) => {
    for (const [i, v] of y.entries()) out[i]! += by * v;
  };
  ids.forEach((e, i) => {
    add(expert(x, e, options, w), weights[i]! * router.scale);
  });
  if (options.shared) {
    const { name: shared, intermediateSize: S, gated } = options.shared;
    const part = (p: string, n: number, of: readonly number[]) => times(w(`${name}.${shared}.${p}.weight`, n * of.length), of, n);
    const up = part("up_proj", S, x);
    const inner = part("gate_proj", S, x).map((g, i) => silu(g) * up[i]!);
    const [gate] = gated ? times(w(`${name}.${shared}_gate.weight`, HIDDEN), x, 1).map(sigmoid) : [1];
    add(part("down_proj", HIDDEN, inner), gate as number);
  }
  return out;

  function expert(row: readonly number[], e: number, { storage, clamp }: ExpertsOptions, w: Tensors): number[] {
    if (storage.kind === "modules") {
      const part = (p: string, n: number, of: readonly number[]) =>
        times(w(`${name}.experts.${e}.${p}.weight`, n * of.length), of, n);
      const up = part(storage.up, I, row);
      return part(
        storage.down,
        HIDDEN,
        part(storage.gate, I, row).map((g, i) => silu(g) * up[i]!),
      );
    }
    const experts = `${name}.experts`;
    const gateUp = w(`${experts}.gate_up_proj`, E * HIDDEN * 2 * I);
    const column = (c: number) =>
      sum(row.map((v, i) => v * gateUp[(e * HIDDEN + i) * 2 * I + c]!)) +
      w(`${experts}.gate_up_proj_bias`, E * 2 * I)[e * 2 * I + c]!;
    const { alpha, limit } = clamp!;
    const inner = Array.from({ length: I }, (_, i) => {
      const gate = Math.min(column(2 * i), limit);
      const up = Math.max(-limit, Math.min(column(2 * i + 1), limit));
      return (up + 1) * gate * sigmoid(alpha * gate);
    });
    const down = w(`${experts}.down_proj`, E * I * HIDDEN);
    return Array.from(
      { length: HIDDEN },
      (_, n) =>
        sum(inner.map((v, i) => v * down[(e * I + i) * HIDDEN + n]!)) +
        w(`${experts}.down_proj_bias`, E * HIDDEN)[e * HIDDEN + n]!,
    );
  }
}

const router: RouterOptions = {
  name: "gate",
  bias: false,
  scores: "softmax",
  correctionBias: false,
  groups: null,
  renormalizeEps: null,
  scale: 1,
};
const plain: ExpertsOptions = {
  numExperts: 12,
  numExpertsPerToken: 3,
  intermediateSize: 6,
  router,
  storage: EXPERT_MODULES,
  clamp: null,
  shared: null,
};
const sigmoidRouter: RouterOptions = { ...router, scores: "sigmoid", correctionBias: true, renormalizeEps: 1e-20, scale: 2.5 };

describe("a layer of experts", () => {
  it.each<[string, ExpertsOptions]>([
    ["weighs by a softmax over all", plain],
    ["makes chosen weights sum to 1", { ...plain, router: { ...router, renormalizeEps: 0 } }],
    ["has one expert", { ...plain, numExperts: 1, numExpertsPerToken: 1 }],
    ["asks all experts", { ...plain, numExperts: 4, numExpertsPerToken: 4 }],
    ["adds a shared expert", { ...plain, shared: { name: "shared_experts", intermediateSize: 9, gated: false } }],
    ["weighs its shared expert", { ...plain, shared: { name: "shared_expert", intermediateSize: 9, gated: true } }],
    ["chooses by corrected scores and weighs by others", { ...plain, router: sigmoidRouter }],
    ["chooses within groups", { ...plain, router: { ...sigmoidRouter, groups: { count: 4, keep: 2 } } }],
    [
      "chooses within one of many small groups",
      { ...plain, numExpertsPerToken: 2, router: { ...sigmoidRouter, groups: { count: 6, keep: 1 } } },
    ],
    [
      "has names of its own",
      { ...plain, name: "block_sparse_moe", storage: { kind: "modules", gate: "w1", up: "w3", down: "w2" } },
    ],
    ...[0.3, 7].map((limit): [string, ExpertsOptions] => [
      `is clamped at ${limit}, its experts in one tensor`,
      {
        ...plain,
        router: { ...router, name: "router", bias: true, scores: "softmax_of_chosen" },
        storage: { kind: "interleaved" },
        clamp: { alpha: 1.702, limit },
      },
    ]),
  ])("%s", (_, options) => {
    const w = tensors(3);
    const g = new Graph({ maxModelLen: 16, maxNumSeqs: 16, maxNumBatchedTokens: 16, blockSize: 16 });
    const x = g.embedding(g.input("token_ids"), g.weight("x", { dtype: "f32", shape: [TOKENS, HIDDEN] }));
    g.setLogits(g.gatherRows(mixtureOfExperts(g, x, options, { prefix: "", dtype: "f32" }), g.input("sample_rows")));
    const sizes = new Map(
      g
        .liveNodes()
        .flatMap((n) => (n.op === "weight" ? [[n.attrs.name, (n.type.shape as number[]).reduce((a, b) => a * b)]] : [])),
    );
    const step = oneSequenceStep([...Array(TOKENS).keys()], 0, 16, "all");
    const { logits } = new Interpreter(g, (name) => w(name, sizes.get(name)!), 1).step(step);
    const rows = Array.from({ length: TOKENS }, (_, t) =>
      Array.from(w("x", TOKENS * HIDDEN).slice(t * HIDDEN, (t + 1) * HIDDEN)),
    );
    expectClose(
      logits,
      rows.flatMap((row) => meant(row, options, w)),
      1e-5,
    );
  });
});
