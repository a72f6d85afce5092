/**
 * The op table: the one page that says what a graph can be made of.
 *
 * Everything else about an op (type rule, interpreter, printer, costs, verification) is a total
 * table over `OpName`, so that a new row here makes the type checker name what is missing.
 * Effects are data flow: `kv1 = store_kv(kv0, k, v, …)`, `paged_attention(q, kv1, …)`.
 */
import type { DType, TensorType } from "./tensor-type.ts";

/** What a step hands to a graph. */
export type InputName = "token_ids" | "positions" | "seq_ids" | "block_tables" | "sample_rows";

/** How a head's rotary pairs lie: `half` pairs (i, i + d/2) as NeoX does, `interleaved` pairs (2i, 2i + 1). */
export type RopeStyle = "half" | "interleaved";

export interface OpTable {
  /** A per-step input: `token_ids positions seq_ids` i32(T), `block_tables` i32(B, P), `sample_rows` i32(S). */
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
  /** Elementwise with trailing broadcast, in f32. */
  add: { attrs: NoAttrs; operands: readonly [a: Node, b: Node] };
  mul: { attrs: NoAttrs; operands: readonly [a: Node, b: Node] };
  /** x · sigmoid(x) */
  silu: { attrs: NoAttrs; operands: readonly [x: Node] };

  /** Elements `start … start + size − 1` of one axis. */
  slice: { attrs: { axis: number; start: number; size: number }; operands: readonly [x: Node] };
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

  /** (T) positions → f32(T, 2·half): cos then sin of position · invFreq, times `attentionFactor`. */
  rope_angles: {
    attrs: { invFreq: readonly number[]; attentionFactor: number };
    operands: readonly [positions: Node];
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
   * Position p sees max(0, p − window + 1) … p; `window` null sees all.
   */
  paged_attention: {
    attrs: { scale: number; window: number | null };
    operands: readonly [q: Node, kv: Node, positions: Node, seqIds: Node, blockTables: Node];
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
export const ELEMENTWISE: ReadonlySet<OpName> = new Set(["cast", "add", "mul", "silu"]);
/** Ops whose two operands may swap. */
export const COMMUTATIVE: ReadonlySet<OpName> = new Set(["add", "mul"]);
