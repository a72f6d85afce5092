/**
 * Layers of experts: a router picks a few experts for each token, and each of them is a gated MLP of its own.
 *
 * How routers differ between families is data. Rows are sorted by expert (`dispatch`), so that each expert's matrices are read once
 * for all of its tokens.
 */
import type { Graph } from "../compiler/ir/graph.ts";
import type { Node } from "../compiler/ir/ops.ts";
import { gatedMlp, linear, matrix, type Naming, vector } from "./layers.ts";

export interface RouterOptions {
  /** Module of the router's matrix: `gate`, `router`. */
  readonly name: string;
  readonly bias: boolean;
  /** What the logits become: scores of all experts, or a softmax over those that the k largest logits chose. */
  readonly scores: "softmax" | "sigmoid" | "softmax_of_chosen";
  /** A vector `e_score_correction_bias` is added to the scores to choose by, and not to weigh by. */
  readonly correctionBias: boolean;
  /** Experts are chosen from the `keep` best of `count` equal groups; a group is as good as its two best experts together. */
  readonly groups: { readonly count: number; readonly keep: number } | null;
  /** Chosen scores are divided by their sum plus this; null leaves them as they are. */
  readonly renormalizeEps: number | null;
  /** What weights are multiplied with in the end. */
  readonly scale: number;
}

/**
 * `modules`: tensors `experts.<e>.<name>.weight`, with the names given. `interleaved`: one tensor for all experts,
 * (E, in, out), with biases; gate and up take turns in the columns of `experts.gate_up_proj` (gpt-oss).
 */
export type ExpertStorage =
  | { readonly kind: "modules"; readonly gate: string; readonly up: string; readonly down: string }
  | { readonly kind: "interleaved" };

/** The names most families give the matrices of an expert. */
export const EXPERT_MODULES: ExpertStorage = { kind: "modules", gate: "gate_proj", up: "up_proj", down: "down_proj" };

export interface ExpertsOptions {
  /** Module it stands in; `mlp` unless given. */
  readonly name?: string;
  readonly numExperts: number;
  readonly numExpertsPerToken: number;
  /** Of each expert. */
  readonly intermediateSize: number;
  readonly router: RouterOptions;
  readonly storage: ExpertStorage;
  /** silu(gate) · up, or, with both clamped at ± `limit`, gate · sigmoid(alpha · gate) · (up + 1). */
  readonly clamp: { readonly alpha: number; readonly limit: number } | null;
  /** An expert that every token passes, weighed by the sigmoid of `<name>_gate` where it is gated. */
  readonly shared: { readonly name: string; readonly intermediateSize: number; readonly gated: boolean } | null;
}

/** Σ over the chosen experts of weight · expert(x), plus the shared expert: x (T, hidden) → (T, hidden). */
export function mixtureOfExperts(g: Graph, x: Node, options: ExpertsOptions, naming: Naming): Node {
  return g.scope(options.name ?? "mlp", () => {
    const { ids, weights } = route(g, x, options, naming);
    const rows = g.dispatch(x, ids); // (k·T, hidden)
    const y = g.scope("experts", () => experts(g, rows, ids, options, naming));
    const routed = g.combine(y, weights, ids);
    return options.shared ? g.plus(routed, sharedExpert(g, x, options.shared, naming)) : routed;
  });
}

/** Which experts each token goes to, i32(T, k), and what each of them counts, (T, k). */
function route(g: Graph, x: Node, options: ExpertsOptions, naming: Naming): { ids: Node; weights: Node } {
  const { router, numExperts, numExpertsPerToken: k } = options;
  // In f32 whatever the model computes in: a rounding that sends a token to another expert costs more than these few weights.
  const logits = linear(g, x, router.name, numExperts, { ...naming, dtype: "f32" }, { bias: router.bias }); // (T, E)
  return g.scope(router.name, () => {
    if (router.scores === "softmax_of_chosen") {
      const ids = g.topK(logits, k);
      return { ids, weights: scaled(g, g.softmax(g.gatherCols(logits, ids)), router.scale) };
    }
    const scores = router.scores === "softmax" ? g.softmax(logits) : g.sigmoid(logits);
    const { groups, renormalizeEps: eps } = router;
    let choice: Node = scores;
    if (router.correctionBias) choice = g.plus(choice, vector(g, "e_score_correction_bias", numExperts, naming));
    if (groups) choice = g.groupLimit(choice, groups.count, groups.keep, 2);
    const ids = g.topK(choice, k);
    const chosen = g.gatherCols(scores, ids);
    return { ids, weights: scaled(g, eps === null ? chosen : g.renormalize(chosen, eps), router.scale) };
  });
}

const scaled = (g: Graph, x: Node, scale: number): Node => (scale === 1 ? x : g.mul(x, g.constant(scale)));

/** Each sorted row through its own expert: (k·T, hidden) → (k·T, hidden). */
function experts(g: Graph, rows: Node, ids: Node, options: ExpertsOptions, naming: Naming): Node {
  const hidden = rows.type.shape.at(-1) as number;
  const { storage } = options;
  const { gate, up, down } =
    storage.kind === "modules"
      ? expertModules(g, hidden, storage, options, naming)
      : interleavedTensors(g, hidden, options, naming);
  const project = (x: Node, { weight, bias }: ExpertProjection) => {
    const y = g.groupedLinear(x, weight, ids);
    return bias ? g.plus(y, g.expertRows(bias, ids)) : y;
  };
  const [a, b] = [project(rows, gate), project(rows, up)];
  return project(options.clamp ? clampedSwiglu(g, a, b, options.clamp) : g.mul(g.silu(a), b), down);
}

/** The matrices (E, N, K) and biases (E, N) of all experts. */
interface ExpertProjection {
  readonly weight: Node;
  readonly bias?: Node;
}
type ExpertProjections = Readonly<Record<"gate" | "up" | "down", ExpertProjection>>;

function expertModules(
  g: Graph,
  hidden: number,
  names: ExpertStorage & { kind: "modules" },
  options: ExpertsOptions,
  naming: Naming,
): ExpertProjections {
  const { numExperts, intermediateSize: inner } = options;
  const stack = (name: string, n: number, k: number): ExpertProjection => {
    const matrices = Array.from({ length: numExperts }, (_, e) =>
      g.reshape(matrix(g, `${e}.${name}.weight`, [n, k], naming), [1, n, k]),
    );
    return { weight: g.concat(matrices, 0) };
  };
  return g.sameOrigin(() => ({
    gate: stack(names.gate, inner, hidden),
    up: stack(names.up, inner, hidden),
    down: stack(names.down, hidden, inner),
  }));
}

function interleavedTensors(g: Graph, hidden: number, options: ExpertsOptions, naming: Naming): ExpertProjections {
  const { numExperts, intermediateSize: inner } = options;
  const biases = (leaf: string, n: number) => matrix(g, leaf, [numExperts, n], { ...naming, dtype: "f32" });
  const gateUp = g.reshape(matrix(g, "gate_up_proj", [numExperts, hidden, 2 * inner], naming), [numExperts, hidden, inner, 2]);
  const gateUpBias = g.reshape(biases("gate_up_proj_bias", 2 * inner), [numExperts, inner, 2]);
  const half = (i: number): ExpertProjection => ({
    weight: g.transpose(g.reshape(g.slice(gateUp, 3, i, 1), [numExperts, hidden, inner])),
    bias: g.reshape(g.slice(gateUpBias, 2, i, 1), [numExperts, inner]),
  });
  const down = g.transpose(matrix(g, "down_proj", [numExperts, inner, hidden], naming));
  return { gate: half(0), up: half(1), down: { weight: down, bias: biases("down_proj_bias", hidden) } };
}

function clampedSwiglu(g: Graph, gate: Node, up: Node, { alpha, limit }: { alpha: number; limit: number }): Node {
  const below = g.min(gate, g.constant(limit));
  const within = g.max(g.min(up, g.constant(limit)), g.constant(-limit));
  const glu = g.mul(below, g.sigmoid(g.mul(below, g.constant(alpha))));
  return g.mul(g.plus(within, g.constant(1)), glu);
}

function sharedExpert(g: Graph, x: Node, shared: NonNullable<ExpertsOptions["shared"]>, naming: Naming): Node {
  // First, so that the kernel of the last linear finds it.
  const gate = shared.gated ? g.sigmoid(linear(g, x, `${shared.name}_gate`, 1, naming)) : null;
  const y = gatedMlp(g, x, { name: shared.name, intermediateSize: shared.intermediateSize, bias: false }, naming);
  return gate ? g.mul(gate, y) : y;
}
