/**
 * The op table: the one page that says what a graph can be made of.
 *
 * Everything else about an op (type rule, interpreter, printer, costs, verification) is a total
 * table over `OpName`, so that a new row here makes the type checker name what is missing.
 * Effects are data flow: `kv1 = store_kv(kv0, k, v, …)`, `paged_attention(q, kv1, …)`.
 */
import type { DType, TensorType } from "./tensor-type.ts";

/** What a step hands to a graph. */
export type InputName = "token_ids" | "positions" | "seq_ids" | "seq_lens" | "block_tables" | "sample_rows";

/** How a head's rotary pairs lie: `half` pairs (i, i + d/2) as NeoX does, `interleaved` pairs (2i, 2i + 1). */
export type RopeStyle = "half" | "interleaved";

/** The frequencies of sequences longer than `beyond` tokens, as many as of shorter ones (LongRoPE). */
export interface LongFrequencies {
  readonly invFreq: readonly number[];
  readonly beyond: number;
}

export interface OpTable {
  /** A per-step input: `token_ids positions seq_ids` i32(T), `seq_lens` i32(B), `block_tables` i32(B, P), `sample_rows` i32(S). */
  input: { attrs: { name: InputName; type: TensorType }; operands: readonly [] };
  /** A checkpoint tensor, row-major as published. */
  weight: { attrs: { name: string; type: TensorType }; operands: readonly [] };
  /** One layer's paged cache; its type is dtype(2, numKvHeads, headDim) per token. */
  kv_cache: {
    attrs: { layer: number; dtype: DType; numKvHeads: number; headDim: number };
    operands: readonly [];
  };
  /** A scalar f32 constant, broadcast where it is used. */
  constant: { attrs: { value: number }; operands: readonly [] };

  /** Rounds to another dtype. */
  cast: { attrs: { dtype: DType }; operands: readonly [x: Node] };
  /** Elementwise in f32. The shorter shape is the end of the longer (a row for all rows), or differs from it by a last extent of 1. */
  add: { attrs: NoAttrs; operands: readonly [a: Node, b: Node] };
  mul: { attrs: NoAttrs; operands: readonly [a: Node, b: Node] };
  min: { attrs: NoAttrs; operands: readonly [a: Node, b: Node] };
  max: { attrs: NoAttrs; operands: readonly [a: Node, b: Node] };
  /** 1 / (1 + e⁻ˣ) */
  sigmoid: { attrs: NoAttrs; operands: readonly [x: Node] };
  /** x · sigmoid(x) */
  silu: { attrs: NoAttrs; operands: readonly [x: Node] };
  /** ½ x (1 + tanh(√(2/π) (x + 0.044715 x³))): GELU as BERT's and Gemma's code approximates it. */
  gelu_tanh: { attrs: NoAttrs; operands: readonly [x: Node] };
  /** (e²ˣ − 1) / (e²ˣ + 1) */
  tanh: { attrs: NoAttrs; operands: readonly [x: Node] };

  /** Elements `start … start + size − 1` of one axis. */
  slice: { attrs: { axis: number; start: number; size: number }; operands: readonly [x: Node] };
  /** The last two axes exchanged; of weights only, where it is folded when they are packed. */
  transpose: { attrs: NoAttrs; operands: readonly [x: Node] };
  /** Operands joined along one axis; on weights, folded when they are packed. */
  concat: { attrs: { axis: number }; operands: readonly Node[] };
  /** The last axis split or joined: (T, H·D) ↔ (T, H, D). */
  reshape: { attrs: { shape: TensorType["shape"] }; operands: readonly [x: Node] };

  /** Rows of `table` (V, H) picked by `ids` (T): f32(T, H). */
  embedding: { attrs: NoAttrs; operands: readonly [ids: Node, table: Node] };
  /** x (…, K) · wᵀ, w (N, K): f32(…, N), accumulated in f32. */
  linear: { attrs: NoAttrs; operands: readonly [x: Node, w: Node] };
  /** x / sqrt(mean(x²) + eps) · gain over the last axis, in f32. */
  rms_norm: { attrs: { eps: number }; operands: readonly [x: Node, gain: Node] };

  /** (x − mean x) / sqrt(var x + eps) · gain + bias over the last axis, in f32; var is the mean of squared distances. */
  layer_norm: { attrs: { eps: number }; operands: readonly [x: Node, gain: Node, bias: Node] };
  /** eˣ / Σ eˣ over the last axis, in f32. */
  softmax: { attrs: NoAttrs; operands: readonly [x: Node] };

  /**
   * Scores (T, E) of which only the experts of the `keep` best of `groups` equal groups remain; the others become −∞. A group is as
   * good as the sum of its `best` highest scores (DeepSeek-V3 and GLM-4.5: two).
   */
  group_limit: { attrs: { groups: number; keep: number; best: number }; operands: readonly [scores: Node] };
  /** The columns of the k largest values of each row (T, E), largest first, of equal ones the lower first: i32(T, k). */
  top_k: { attrs: { k: number }; operands: readonly [x: Node] };
  /** x (T, E) at columns ids (T, k): f32(T, k). */
  gather_cols: { attrs: NoAttrs; operands: readonly [x: Node, ids: Node] };
  /** x / (Σ x + eps) over the last axis. */
  renormalize: { attrs: { eps: number }; operands: readonly [x: Node] };
  /**
   * Each row of x (T, K) once for each of its k experts, sorted by expert and then by token: (k·T, K).
   * All ops over sorted rows take the same `ids` (T, k), which a `top_k` made and in which an expert stands at most once a row.
   */
  dispatch: { attrs: NoAttrs; operands: readonly [x: Node, ids: Node] };
  /** Sorted rows x (k·T, K), each times its own expert's matrix of w (E, N, K): f32(k·T, N). */
  grouped_linear: { attrs: NoAttrs; operands: readonly [x: Node, w: Node, ids: Node] };
  /** For each sorted row its own expert's vector of v (E, N): (k·T, N). */
  expert_rows: { attrs: NoAttrs; operands: readonly [v: Node, ids: Node] };
  /** Sorted rows y (k·T, N) back at their tokens, weighted and summed: f32(T, N); weights (T, k). */
  combine: { attrs: NoAttrs; operands: readonly [y: Node, weights: Node, ids: Node] };

  /**
   * (T) positions → f32(T, 2·half): cos then sin of position · invFreq, times `attentionFactor`. With `long` the frequencies depend on
   * how long the token's whole sequence is: `lengths` are then seq_ids (T) and seq_lens (B).
   */
  rope_angles: {
    attrs: { invFreq: readonly number[]; attentionFactor: number; long: LongFrequencies | null };
    operands: readonly [positions: Node, ...lengths: Node[]];
  };
  /** Rotates the first 2·half elements of each head of x (T, H, D) by angles (T, 2·half). */
  rope: { attrs: { style: RopeStyle }; operands: readonly [x: Node, angles: Node] };
  /** Writes k and v (T, numKvHeads, headDim) at each token's block and offset; the result is the new cache. */
  store_kv: {
    attrs: NoAttrs;
    operands: readonly [kv: Node, k: Node, v: Node, positions: Node, seqIds: Node, blockTables: Node];
  };
  /**
   * Causal attention of q (T, numHeads, headDim) over the cache of its own sequence: f32(T, numHeads, headDim).
   * Position p sees max(0, p − window + 1) … p; `window` null sees all. `sinks` (numHeads) are scores that take part in the
   * softmax of their head and carry no value (gpt-oss).
   */
  paged_attention: {
    attrs: { scale: number; window: number | null };
    operands: readonly [q: Node, kv: Node, positions: Node, seqIds: Node, blockTables: Node, ...sinks: Node[]];
  };
  /** Rows of x (T, …) picked by rows (S). */
  gather_rows: { attrs: NoAttrs; operands: readonly [x: Node, rows: Node] };
}

export type NoAttrs = Readonly<Record<string, never>>;
export type OpName = keyof OpTable;
export type Attrs<K extends OpName> = Readonly<OpTable[K]["attrs"]>;
export type Operands<K extends OpName> = OpTable[K]["operands"];

/** An interned, frozen record; made only by a `Graph`. `id` orders nodes by creation, operands before users. */
export interface NodeOf<K extends OpName> {
  readonly op: K;
  readonly attrs: Attrs<K>;
  readonly operands: Operands<K>;
  readonly type: TensorType;
  readonly id: number;
}

/** Narrowing `op` narrows attributes and operands. */
export type Node = { [K in OpName]: NodeOf<K> }[OpName];

/** Ops computed element by element, and so fusible into any kernel's slots. */
export const ELEMENTWISE: ReadonlySet<OpName> = new Set([
  "cast",
  "add",
  "mul",
  "min",
  "max",
  "sigmoid",
  "silu",
  "gelu_tanh",
  "tanh",
]);
/** Ops whose two operands may swap. */
export const COMMUTATIVE: ReadonlySet<OpName> = new Set(["add", "mul", "min", "max"]);
