/**
 * KernelSpec, the second level of the IR: an anchor, scalar expressions in its slots, and the values it reads and writes.
 *
 * Specs are formed from a graph by `form.ts`, have a meaning of their own (`interpret.ts`), and are rendered to text by
 * `compiler/codegen`. They name no target: what a target wants of dtypes was settled by `legalize` before.
 */
import type { InputName, LongFrequencies, Node, RopeStyle } from "../ir/ops.ts";
import type { Dim, DType } from "../ir/tensor-type.ts";

/**
 * A tensor between kernels: row-major (rows, cols), one row per token (T) or sampled row (S).
 * `buffer` values live in the arena, `tensor` values in weights.bin, `input` values are handed over by the step.
 */
export type Value =
  | {
      readonly kind: "buffer";
      readonly name: string;
      readonly dtype: DType;
      readonly rows: Dim;
      readonly cols: number;
      readonly node: Node;
    }
  | {
      readonly kind: "tensor";
      readonly name: string;
      readonly dtype: DType;
      readonly rows: number;
      readonly cols: number;
      readonly node: Node;
    }
  | { readonly kind: "input"; readonly name: InputName; readonly dtype: DType; readonly node: Node }
  | {
      readonly kind: "kv";
      readonly layer: number;
      readonly dtype: DType;
      readonly numKvHeads: number;
      readonly headDim: number;
      readonly node: Node;
    };

export type BufferValue = Extract<Value, { kind: "buffer" }>;
export type TensorValue = Extract<Value, { kind: "tensor" }>;
export type InputValue = Extract<Value, { kind: "input" }>;
export type KvValue = Extract<Value, { kind: "kv" }>;

/** A scalar expression at output element (row, col), in f32. */
export type Expr =
  /** What the anchor computed: way 0 … ways − 1 (a gated linear has two). */
  | { readonly kind: "acc"; readonly way: number }
  /** `operands[index]` of the spec at (row, col), at (col) when it has one row, at (row) when it has one column. */
  | { readonly kind: "operand"; readonly index: number }
  | { readonly kind: "constant"; readonly value: number }
  | { readonly kind: "unary"; readonly fn: UnaryFn; readonly x: Expr }
  | { readonly kind: "binary"; readonly fn: BinaryFn; readonly a: Expr; readonly b: Expr };

/** The ops of those names, and rounding to a narrower dtype. */
export type UnaryFn = "sigmoid" | "silu" | "gelu_tanh" | "tanh" | "round_bf16" | "round_f16";
export type BinaryFn = "add" | "mul" | "min" | "max";

/** Heads computed from one input row: optional per-head norm, optional rotation. */
export interface HeadChain {
  readonly x: BufferValue;
  /** First column of head 0 in a row of `x`. */
  readonly col: number;
  readonly numHeads: number;
  readonly norm: { readonly gain: TensorValue; readonly eps: number } | null;
  readonly rope: { readonly style: RopeStyle; readonly angles: BufferValue; readonly half: number } | null;
}

interface Common {
  /** Says what the kernel does, in a fixed order: `linear_bf16_3072x1024__silu_mul`. Equal specs share a name. */
  readonly name: string;
  /** Every graph node this kernel computes, for origins and `explain`. */
  readonly nodes: readonly Node[];
}

/** out[row] = epilogue(table[ids[row]]) */
export interface EmbeddingKernel extends Common {
  readonly kind: "embedding";
  readonly ids: InputValue;
  readonly table: TensorValue;
  readonly epilogue: Expr;
  readonly operands: readonly (BufferValue | TensorValue)[];
  readonly out: BufferValue;
}

/** out[row] = epilogue(x[rows?[row]] / rms(x) · gain) */
export interface RmsNormKernel extends Common {
  readonly kind: "rms_norm";
  readonly x: BufferValue;
  /** Gathers input rows when present: out has S rows. */
  readonly rows: InputValue | null;
  readonly gain: TensorValue;
  readonly eps: number;
  readonly epilogue: Expr;
  readonly operands: readonly (BufferValue | TensorValue)[];
  readonly out: BufferValue;
}

/** out[row] = epilogue((x[rows?[row]] − mean) / sqrt(variance + eps) · gain + bias) */
export interface LayerNormKernel extends Common {
  readonly kind: "layer_norm";
  readonly x: BufferValue;
  /** Gathers input rows when present: out has S rows. */
  readonly rows: InputValue | null;
  readonly gain: TensorValue;
  readonly bias: TensorValue;
  readonly eps: number;
  readonly epilogue: Expr;
  readonly operands: readonly (BufferValue | TensorValue)[];
  readonly out: BufferValue;
}

/** out[row, j] = epilogue(x[rows?[row], col + j]): rows or columns that no reader takes from `x` itself. */
export interface GatherKernel extends Common {
  readonly kind: "gather";
  readonly x: BufferValue;
  /** Gathers input rows when present: out has S rows. */
  readonly rows: InputValue | null;
  readonly col: number;
  readonly epilogue: Expr;
  readonly operands: readonly (BufferValue | TensorValue)[];
  readonly out: BufferValue;
}

/** What rows become before they are multiplied: x / rms(x) · gain, rounded to `dtype`. */
export interface RowNorm {
  readonly gain: TensorValue;
  readonly eps: number;
  readonly dtype: DType;
}

/** How blocks share sums over k: each of `parts` leaves its own, and the last of them to come adds them in order. */
export interface SplitSums {
  readonly parts: number;
  /** i32 (1, tiles), all 0 between kernels */
  readonly counters: BufferValue;
  /** f32 (tiles · parts, sums of a tile) */
  readonly partials: BufferValue;
}

/**
 * acc_w[row, col] = Σ_k x[row, k] · w[w · n + col, k] for w in 0 … ways − 1; out[row, col] = epilogue(acc_0, …).
 * With a norm, x stands for its rows normalized. `w` has ways · n rows and k columns. `out` may be the very buffer an operand is read from (residual add in place).
 */
export interface LinearKernel extends Common {
  readonly kind: "linear";
  readonly x: BufferValue;
  /** Null where x is multiplied as it is. */
  readonly norm: RowNorm | null;
  /** Null where a block has all of its sums. */
  readonly split: SplitSums | null;
  readonly w: TensorValue;
  readonly ways: 1 | 2;
  readonly n: number;
  readonly k: number;
  readonly epilogue: Expr;
  readonly operands: readonly (BufferValue | TensorValue)[];
  readonly out: BufferValue;
}

/** out (T, 2·half) = cos | sin of positions · invFreq, times attentionFactor; once a step, shared by all layers. */
export interface RopeAnglesKernel extends Common {
  readonly kind: "rope_angles";
  readonly positions: InputValue;
  readonly invFreq: readonly number[];
  readonly attentionFactor: number;
  /** What tokens are turned by whose sequence has more than `beyond` tokens, or null. */
  readonly long: (LongFrequencies & { readonly seqIds: InputValue; readonly seqLens: InputValue }) | null;
  readonly out: BufferValue;
}

/** A linear whose columns are heads, side by side, and the counts that tell a block of its kernel when a head's are all there. */
export interface HeadProjection {
  readonly linear: LinearKernel;
  /** i32 (1, heads), all 0 between kernels */
  readonly counters: BufferValue;
}

/** For each token (T) normalizes and rotates heads: q into `out`, k and v into the cache. Most models have one projection for all. */
export interface StoreKvKernel extends Common {
  readonly kind: "store_kv";
  /** What makes the rows first, in the same kernel; null where they are there. */
  readonly projection: HeadProjection | null;
  readonly q: HeadChain;
  readonly k: HeadChain;
  readonly v: HeadChain;
  readonly headDim: number;
  readonly kv: KvValue;
  readonly positions: InputValue;
  readonly seqIds: InputValue;
  readonly blockTables: InputValue;
  /** (T, numHeads · headDim) */
  readonly out: BufferValue;
}

/** out (T, numHeads · headDim) = epilogue(attention of q over the sequence's cached keys and values) */
export interface AttentionKernel extends Common {
  readonly kind: "paged_attention";
  readonly q: BufferValue;
  readonly kv: KvValue;
  readonly numHeads: number;
  readonly headDim: number;
  readonly scale: number;
  readonly window: number | null;
  /** A score for each head (numHeads) that takes part in its softmax and carries no value, or null. */
  readonly sinks: TensorValue | null;
  /** Who does what, where that is planned. */
  readonly units: AttentionUnits | null;
  readonly positions: InputValue;
  readonly seqIds: InputValue;
  readonly blockTables: InputValue;
  readonly epilogue: Expr;
  readonly out: BufferValue;
}

/** out[row, col] = epilogue over operands: elementwise work that found no anchor to ride on. */
export interface ElementwiseKernel extends Common {
  readonly kind: "elementwise";
  readonly epilogue: Expr;
  readonly operands: readonly (BufferValue | TensorValue)[];
  readonly out: BufferValue;
}

/**
 * A step of a row's way from scores to chosen experts: makes one array out of what earlier steps made, which it names by index.
 * `size` is its elements; those of `top_k` are whole numbers.
 */
export type RowStep = { readonly size: number } & (
  | { readonly op: "load"; readonly from: BufferValue | TensorValue }
  | { readonly op: "map"; readonly expr: Expr; readonly operands: readonly number[] }
  | { readonly op: "softmax"; readonly x: number }
  | { readonly op: "renormalize"; readonly x: number; readonly eps: number }
  | { readonly op: "group_limit"; readonly x: number; readonly groups: number; readonly keep: number; readonly best: number }
  | { readonly op: "top_k"; readonly x: number }
  | { readonly op: "gather_cols"; readonly x: number; readonly ids: number }
);

/** Chooses experts: runs `steps` over each row (T) and writes some of what they make. */
export interface RouteKernel extends Common {
  readonly kind: "route";
  readonly inputs: readonly (BufferValue | TensorValue)[];
  readonly steps: readonly RowStep[];
  readonly outs: readonly { readonly step: number; readonly value: BufferValue }[];
}

/**
 * Sorts the slots t · k + j of ids (T, k) by expert, then by token, into the *plan* that the kernels of one expert layer follow:
 * i32 (1, cols) = number of active experts | expert, first row, rows of each of them (room for all E) | slot of each sorted row.
 * Every expert's first row is a multiple of 16; rows between experts have no slot.
 */
export interface SortSlotsKernel extends Common {
  readonly kind: "sort_slots";
  readonly ids: BufferValue;
  readonly numExperts: number;
  readonly out: BufferValue;
}

/** What kernels over sorted rows share: E matrices (ways · n, k) stacked in `w`, each used for its own expert's rows of the plan. */
interface OfExperts extends Common {
  readonly plan: BufferValue;
  /** Tokens whose slots the plan sorts: T, or S after the rows were sampled. */
  readonly tokens: Dim;
  readonly w: TensorValue;
  readonly numExperts: number;
  /** Experts of a token. */
  readonly perToken: number;
  readonly n: number;
  readonly k: number;
  readonly x: BufferValue;
}

/**
 * acc_w[row, col] = Σ_k x[source(row), k] · w[expert(row), w · n + col, k]; out[row, col] = epilogue(acc_0, …) for each sorted row.
 * Operands are one vector an expert (E, n), taken at the row's own.
 */
export interface GroupedLinearKernel extends OfExperts {
  readonly kind: "grouped_linear";
  /** Whether x has a row a token, gathered by the plan; else it has sorted rows itself. */
  readonly gathers: boolean;
  /** Whether out has a row a slot, t · perToken + j; else it has sorted rows as well. */
  readonly scatters: boolean;
  readonly ways: 1 | 2;
  readonly epilogue: Expr;
  readonly operands: readonly TensorValue[];
  readonly out: BufferValue;
}

/**
 * out[t] = epilogue(Σ over t's experts e, in increasing order, of weight · (x[row] · w[e]ᵀ + bias[e])): the last linear of an expert
 * layer, with its rows weighted and summed where they belong.
 */
export interface ExpertSumKernel extends OfExperts {
  readonly kind: "expert_sum";
  /** (T, perToken) */
  readonly weights: BufferValue;
  /** (E, n) */
  readonly bias: TensorValue | null;
  readonly epilogue: Expr;
  readonly operands: readonly (BufferValue | TensorValue)[];
  readonly out: BufferValue;
}

/** out[t] = epilogue(Σ_j weights[t, j] · y[t · perToken + j]), in increasing j: the rows of a token's experts, summed. */
export interface SlotSumKernel extends Common {
  readonly kind: "slot_sum";
  /** (T · perToken, n) */
  readonly y: BufferValue;
  /** (T, perToken) */
  readonly weights: BufferValue;
  readonly epilogue: Expr;
  readonly operands: readonly (BufferValue | TensorValue)[];
  readonly out: BufferValue;
}

/**
 * Cuts the attention of a step into units for kernels that hand them to many blocks; made once for all layers of one window. See
 * `attention-units.ts`.
 */
export interface AttentionUnitsKernel extends Common {
  readonly kind: "attention_units";
  readonly positions: InputValue;
  readonly seqIds: InputValue;
  readonly units: AttentionUnits;
}

/** Who does what of a step's attention. */
export interface AttentionUnits {
  readonly cut: AttentionCut;
  /** i32 (1, 1 + 6 · units): how many there are | the numbers of each, see `attention-units.ts` */
  readonly plan: BufferValue;
  /** i32 (1, tokens · kv heads), all 0 between kernels */
  readonly counters: BufferValue;
  /** f32 (tokens · chunks · heads, headDim + 2): sums of one chunk, with its maximum and its weight */
  readonly partials: BufferValue;
}

/** How attention is cut. The order of a token's sums follows from it and from how many tokens the step has. */
export interface AttentionCut {
  readonly window: number | null;
  /** Most tokens of a unit, all of one sequence. */
  readonly tileTokens: number;
  /** Positions of a chunk of a sequence of up to `chunk` · `maxChunks`; twice as many where it is longer, and so on. */
  readonly chunk: number;
  readonly maxChunks: number;
  /** In steps of fewer tokens than this the chunks of a token are units of their own. */
  readonly splitBelow: number;
}

/** Draws one token per sampled row from `logits` (S, vocab): see `templates/sample.cpu.njk` for the arithmetic. */
export interface SampleKernel extends Common {
  readonly kind: "sample";
  readonly logits: BufferValue;
  readonly vocabSize: number;
}

export type KernelSpec =
  | EmbeddingKernel
  | RmsNormKernel
  | LayerNormKernel
  | GatherKernel
  | LinearKernel
  | RopeAnglesKernel
  | StoreKvKernel
  | AttentionKernel
  | ElementwiseKernel
  | RouteKernel
  | SortSlotsKernel
  | GroupedLinearKernel
  | ExpertSumKernel
  | SlotSumKernel
  | AttentionUnitsKernel
  | SampleKernel;

export type KernelKind = KernelSpec["kind"];
export type KernelOf<K extends KernelKind> = Extract<KernelSpec, { kind: K }>;
