/**
 * The same work in kernels for many blocks that share nothing but memory: what a team of threads does in one kernel, because a thread
 * sees all of a token, is cut where blocks would have to wait for each other.
 */
import { invariant } from "../errors.ts";
import { type Dim, maxOf, timesDim } from "../ir/tensor-type.ts";
import { mostChunks, planNumbers } from "./attention-units.ts";
import { kernelName, type Unnamed } from "./name.ts";
import { kernelBuffers } from "./operands.ts";
import type {
  AttentionCut,
  AttentionKernel,
  AttentionUnits,
  BufferValue,
  ExpertSumKernel,
  Expr,
  HeadChain,
  KernelSpec,
  LinearKernel,
} from "./spec.ts";

/** Rows of queries that a block multiplies with the keys of one head: fewer of large heads, whose tiles would not fit beside them. */
export const tileRows = (headDim: number): number => (headDim > 128 ? 32 : 64);
/** Rows of one token's queries, of the heads that share keys, at most. */
export const MOST_GROUPED_HEADS = 16;

const named = (spec: Unnamed): KernelSpec => ({ ...spec, name: kernelName(spec) }) as KernelSpec;

/** Sums of experts in two kernels, and a plan for the attention over caches that `plansAttention` names. */
export function forBlocks(
  kernels: readonly KernelSpec[],
  plansAttention: (spec: AttentionKernel) => boolean,
): readonly KernelSpec[] {
  const plans = new Map<string, AttentionUnits>();
  return kernels.flatMap((spec) => {
    if (spec.kind === "expert_sum") return splitSum(spec);
    if (spec.kind !== "paged_attention" || !plansAttention(spec)) return [spec];
    const cut = cutOf(spec);
    const key = JSON.stringify(cut);
    const known = plans.get(key);
    if (known) return [{ ...spec, units: known }];
    const made = unitsOf(spec, cut, kernels, plans.size);
    plans.set(key, made);
    const { positions, seqIds } = spec;
    return [named({ kind: "attention_units", positions, seqIds, units: made, nodes: [] }), { ...spec, units: made }];
  });
}

/**
 * Norms that one linear alone reads become its prologue: every block makes the few rows anew, and a launch is saved. Only where what is
 * normalized lives on when the linear is done, as a residual does, and `fits` says that a block has room for the rows. `wanted` names
 * values that must be written.
 */
export function normsIntoLinears(
  kernels: readonly KernelSpec[],
  wanted: ReadonlySet<string>,
  fits: (linear: LinearKernel) => boolean,
): readonly KernelSpec[] {
  const places = placesOf(kernels);
  const absorbed = new Set<KernelSpec>();
  const linears = new Map<KernelSpec, KernelSpec>();
  kernels.forEach((norm, i) => {
    if (
      norm.kind !== "rms_norm" ||
      norm.rows ||
      norm.epilogue.kind !== "acc" ||
      norm.gain.dtype !== "f32" ||
      norm.x.dtype !== "f32"
    )
      return;
    const [at, other] = places(norm.out).filter((place) => place !== i);
    const linear = kernels[at ?? -1];
    if (at === undefined || other !== undefined || linear?.kind !== "linear" || linear.x.name !== norm.out.name || !fits(linear))
      return;
    // Not by the linear itself alone, whose result may take its place while other blocks still read it.
    const livesOn = places(norm.x).some((place) => place > at);
    if (!livesOn || wanted.has(norm.out.name)) return;
    const { x, gain, eps, out } = norm;
    absorbed.add(norm);
    const nodes = [...norm.nodes, ...linear.nodes];
    linears.set(linear, named({ ...linear, x, norm: { gain, eps, dtype: out.dtype }, nodes }));
  });
  return kernels.flatMap((spec) => (absorbed.has(spec) ? [] : [linears.get(spec) ?? spec]));
}

/**
 * Linears that make heads, for few rows, become one kernel with what normalizes, rotates and stores them: the last block of a head to come
 * does it. Only where the columns are the heads and nobody else reads them, since they come later than planned; and where what the linear
 * reads lives on, since memory is planned for two kernels: what dies with the linear may lie where heads go, and other blocks still read it.
 */
export function projectionsIntoHeads(kernels: readonly KernelSpec[]): readonly KernelSpec[] {
  const places = placesOf(kernels);
  const absorbed = new Set<KernelSpec>();
  const merged = new Map<KernelSpec, KernelSpec>();
  kernels.forEach((heads, at) => {
    if (heads.kind !== "store_kv" || heads.projection) return;
    const { q, k, v, headDim } = heads;
    const [from = -1, reader, other] = places(q.x);
    const linear = kernels[from];
    if (linear?.kind !== "linear" || linear.ways !== 1 || reader !== at || other !== undefined) return;
    const inOrder = (col: number, c: HeadChain) => (c.x.name === q.x.name && c.col === col ? col + c.numHeads * headDim : -1);
    const columns = [q, k, v].reduce(inOrder, 0);
    const readsWhatLives = kernelBuffers(linear).every((b) => b.name === q.x.name || places(b).some((place) => place > at));
    if (columns !== linear.n || !readsWhatLives) return;
    const numHeads = q.numHeads + k.numHeads + v.numHeads;
    const counters: BufferValue = { ...linear.out, name: "head_counters", dtype: "i32", rows: 1, cols: numHeads };
    const nodes = [...linear.nodes, ...heads.nodes];
    absorbed.add(linear);
    merged.set(heads, named({ ...heads, projection: { linear, counters }, nodes }));
  });
  return kernels.flatMap((spec) => (absorbed.has(spec) ? [] : [merged.get(spec) ?? spec]));
}

/** In how many parts a linear's sums are made, how many tiles of them there are at most, and how many sums a tile has. */
export interface SplitPlan {
  readonly parts: number;
  readonly tiles: number;
  readonly sums: number;
}

/** Linears whose sums `planOf` divides among blocks; they share memory for their parts. */
export function splitLinears(
  kernels: readonly KernelSpec[],
  planOf: (linear: LinearKernel) => SplitPlan | null,
): readonly KernelSpec[] {
  return kernels.map((spec) => {
    const plan = spec.kind === "linear" ? planOf(spec) : null;
    if (spec.kind !== "linear" || !plan) return spec;
    const { parts, tiles, sums } = plan;
    const common = { kind: "buffer", node: spec.out.node } as const;
    const counters: BufferValue = { ...common, name: "linear_counters", dtype: "i32", rows: 1, cols: tiles };
    const partials: BufferValue = { ...common, name: "linear_partials", dtype: "f32", rows: tiles * parts, cols: sums };
    return named({ ...spec, split: { parts, counters, partials } });
  });
}

/** Where each buffer is written and read: indices of kernels, ascending. */
function placesOf(kernels: readonly KernelSpec[]): (buffer: BufferValue) => readonly number[] {
  const places = new Map<string, number[]>();
  kernels.forEach((spec, i) => {
    for (const name of new Set(kernelBuffers(spec).map((b) => b.name))) places.set(name, [...(places.get(name) ?? []), i]);
  });
  return ({ name }) => places.get(name) ?? [];
}

/** y[slot] = x · w[e]ᵀ + bias[e] for each slot; then each token's sum over its slots. */
function splitSum(spec: ExpertSumKernel): readonly KernelSpec[] {
  const { plan, tokens, w, x, numExperts, perToken, n, k, weights, bias, nodes, out, epilogue, operands } = spec;
  const linear = nodes.find((node) => node.op === "grouped_linear");
  invariant(linear, `${spec.name} computes no grouped linear`);
  const rows = timesDim(tokens, perToken);
  const y: BufferValue = { kind: "buffer", name: `${out.name}_slots`, dtype: "f32", rows, cols: n, node: linear };
  const acc: Expr = { kind: "acc", way: 0 };
  const common = { plan, tokens, w, x, numExperts, perToken, n, k };
  const isInside = nodes.filter(
    (node) => node === linear || node.op === "expert_rows" || node.operands.some((o) => o.op === "expert_rows"),
  );
  return [
    named({
      kind: "grouped_linear",
      ...common,
      gathers: false,
      scatters: true,
      ways: 1,
      epilogue: bias ? { kind: "binary", fn: "add", a: acc, b: { kind: "operand", index: 0 } } : acc,
      operands: bias ? [bias] : [],
      out: y,
      nodes: isInside,
    }),
    named({ kind: "slot_sum", y, weights, epilogue, operands, out, nodes: nodes.filter((node) => !isInside.includes(node)) }),
  ];
}

const cutOf = ({ window, numHeads, kv, headDim }: AttentionKernel): AttentionCut => ({
  window,
  tileTokens: Math.max(1, Math.floor(tileRows(headDim) / (numHeads / kv.numKvHeads))),
  chunk: 256,
  maxChunks: 32,
  splitBelow: 32,
});

/** Room for the layers that share `cut`: as much as the widest of them needs. */
function unitsOf(spec: AttentionKernel, cut: AttentionCut, kernels: readonly KernelSpec[], index: number): AttentionUnits {
  const sharing = kernels.filter(
    (k): k is AttentionKernel => k.kind === "paged_attention" && JSON.stringify(cutOf(k)) === JSON.stringify(cut),
  );
  const most = (of: (k: AttentionKernel) => number) => Math.max(...sharing.map(of));
  const tokens: Dim = spec.q.rows;
  const lone = Math.min(maxOf(tokens), cut.splitBelow);
  const buffer = (name: string, dtype: "i32" | "f32", rows: number, cols: number): BufferValue => ({
    kind: "buffer",
    name: `attention${index}_${name}`,
    dtype,
    rows,
    cols,
    node: spec.q.node,
  });
  return {
    cut,
    plan: buffer("plan", "i32", 1, planNumbers(tokens, cut)),
    counters: buffer("counters", "i32", 1, lone * most((k) => k.kv.numKvHeads)),
    partials: buffer("partials", "f32", lone * mostChunks(cut) * most((k) => k.numHeads), most((k) => k.headDim) + 2),
  };
}
