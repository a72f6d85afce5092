/**
 * The engine folder's contract: what `manifest.json` holds. The runtime owns this format; the compiler imports it to write.
 *
 * `parseManifest` (manifest-validator.ts) checks untrusted text against these types, bounds every number, and throws `ManifestError`.
 */

export const MANIFEST_FORMAT = 2;
/** Version of the kernel calling convention (`templates/prelude.cpu.h`); a kernel library exports the one it was built for. */
export const KERNEL_ABI = 1;
/** Tensors start on pages, so that weights.bin can be mapped and each tensor advised and locked by itself. */
export const PAGE_BYTES = 4096;

export type ManifestDType = "f32" | "f16" | "bf16" | "fp8_e4m3" | "i32" | "u8";
/** What a step binds: `T` tokens, `B` sequences, `S` sampled rows, `P` blocks per block table; indices 0 … 3 in this order. */
export type ManifestSymbol = "T" | "B" | "S" | "P";
export const SYMBOLS: readonly ManifestSymbol[] = ["T", "B", "S", "P"];

/** Operators over whole numbers of at least 0; each grows with its first operand. */
export const RPN_OPERATORS = {
  mul: (a: number, b: number): number => a * b,
  add: (a: number, b: number): number => a + b,
  ceildiv: (a: number, b: number): number => Math.ceil(a / b),
  min: (a: number, b: number): number => Math.min(a, b),
};
export type RpnOperator = keyof typeof RPN_OPERATORS;
/** Reverse Polish over whole numbers and symbols: `["T", 16, "ceildiv", 8, "mul"]` is ⌈T/16⌉ · 8. */
export type Rpn = readonly (number | ManifestSymbol | RpnOperator)[];

/** Arrays that JavaScript hands to a step (inputs) or that a step fills (outputs); see `runtime/batch.ts` for their layouts. */
export const STEP_ARRAYS = [
  "token_ids", // i32 (T)
  "positions", // i32 (T)
  "seq_ids", // i32 (T): row of block_tables
  "seq_lens", // i32 (B): tokens known of the sequence, computed in this step or not
  "block_tables", // i32 (B, P)
  "sample_rows", // i32 (S): row of the batch whose logits are wanted
  "sample_floats", // f32 (S, 8)
  "sample_ints", // i32 (S, 12)
  "sample_tokens", // i32 (n, 2): CSR entries addressed by sample_ints
  "sampled_ids", // out i32 (S)
  "sampled_logprobs", // out f32 (S)
  "top_ids", // out i32 (S, 20)
  "top_logprobs", // out f32 (S, 20)
] as const;
export type StepArray = (typeof STEP_ARRAYS)[number];

/** Facts of the model, in the words of config.json, camelCased. */
export interface ModelFacts {
  readonly architecture: string; // "Qwen3ForCausalLM"
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  readonly maxPositionEmbeddings: number;
  readonly tieWordEmbeddings: boolean;
  readonly dtype: "float32" | "float16" | "bfloat16";
  readonly numParameters: number;
  readonly bosTokenId: number | null;
  readonly eosTokenIds: readonly number[];
}

/** Largest limits an engine may have. */
export const MAX_LIMITS: Limits = { maxModelLen: 2 ** 26, maxNumSeqs: 2 ** 16, maxNumBatchedTokens: 2 ** 22 };

/** The largest step: buffers of T rows hold `maxNumBatchedTokens` of them, buffers of S rows `maxNumSeqs`. */
export interface Limits {
  /** Tokens of one sequence, prompt and output. */
  readonly maxModelLen: number;
  /** Sequences of one step, and rows it samples: whoever wants logits of more rows takes several steps. */
  readonly maxNumSeqs: number;
  /** Tokens of one step, over all sequences. */
  readonly maxNumBatchedTokens: number;
}

/**
 * A packed tensor in weights.bin. `rows` is row-major; `panel16`, described in `compiler/weights/panel.ts`, is for matrices (N, K) and
 * for stacks of them (E, N, K).
 */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: ManifestDType;
  readonly shape: readonly number[];
  readonly layout: "rows" | "panel16";
  /** Equal parts of a matrix's N rows whose panels alternate (2 for gate and up); 1 for `rows`. */
  readonly ways: 1 | 2;
  readonly offset: number;
  readonly bytes: number;
  /** Checkpoint tensors it was made from, each once, in the order of first use; `experts.{0..127}.up_proj.weight` stands for many. */
  readonly sources: readonly string[];
}

/** Checkpoint tensors that no kernel reads, for one reason. */
export interface UnusedEntry {
  /** In the order of names, with `{0..3}` for numbers that count up. */
  readonly names: readonly string[];
  readonly count: number;
  readonly bytes: number;
  /** A clause; null when nobody said. */
  readonly why: string | null;
}

/** A region of the arena. `rows` is row-major; `tile16x32` is [rows/16][cols/32][16][32], zero beyond `cols`. Regions of buffers whose lives do not meet overlap. */
export interface BufferEntry {
  readonly name: string;
  readonly dtype: ManifestDType;
  readonly rows: ManifestSymbol | number;
  readonly cols: number;
  readonly layout: "rows" | "tile16x32";
  readonly offset: number;
  readonly bytes: number;
}

/** How a device runs a kernel over the units of its grid. */
export type KernelLaunch = TeamLaunch | BlockLaunch;

/** A team of threads, of a CPU, is handed ranges of units. */
export interface TeamLaunch {
  /** Units handed out at a time; ranges start at its multiples. */
  readonly chunk: number;
  /** With at most this many units the last thread to arrive runs the step alone, without a barrier of its own. */
  readonly serialUnits: number;
  /** Scratch bytes each thread needs. */
  readonly scratchBytes: number;
}

/** A block of threads, of a GPU, to a unit. */
export interface BlockLaunch {
  /** Threads of a block. */
  readonly threads: number;
  /** Shared memory of a block beside what the kernel declares itself. */
  readonly sharedBytes: number;
}

export interface KernelEntry {
  readonly name: string; // the exported C symbol too
  readonly source: string; // kernels/<name>.cpp, kernels/<name>.cu
  readonly launch: KernelLaunch;
  /** What a launch computes and moves, in the symbols: for rooflines and `explain`. Attention counts whole block tables (P). */
  readonly flops: Rpn;
  readonly bytes: Rpn;
  /** Model path and source line of the nodes it came from. */
  readonly origins: readonly string[];
}

export type Arg =
  | { readonly buffer: number }
  | { readonly tensor: number }
  | { readonly kv: number } // layer
  | { readonly array: StepArray }
  | { readonly symbol: ManifestSymbol }; // where its value stands, an i32

export interface Step {
  readonly kernel: number;
  /** Units of work, each of which is done exactly once. */
  readonly grid: Rpn;
  readonly args: readonly Arg[];
}

/** A buffer worth looking at after a step: `hidden.0` … `hidden.L`, `logits`. Copied only on request. */
export interface Tap {
  readonly name: string;
  readonly step: number;
  readonly buffer: number;
}

export interface Program {
  readonly name: string; // "step"
  /** Runs batches of up to this many tokens; the engine takes the first program that fits. */
  readonly maxTokens: number;
  readonly steps: readonly Step[];
  readonly taps: readonly Tap[];
}

/** Per layer: [block][kv head][K | V][…]; see `templates/paged_attention.cpu.njk` for the order inside a block. */
export interface KvCacheEntry {
  readonly dtype: ManifestDType;
  readonly blockSize: number;
  readonly numLayers: number;
  /** Bytes of one block in one layer; a block takes numLayers times that. */
  readonly bytesPerBlock: number;
  /** Lengths, ascending, beyond which a sequence has other keys: one that grows past is computed anew. Most models have none. */
  readonly rebuiltBeyond: readonly number[];
}

export interface Manifest {
  readonly format: typeof MANIFEST_FORMAT;
  readonly name: string;
  readonly model: ModelFacts;
  readonly target: string; // "cpu:avx512-amx", "cuda:sm_80"
  /** What the kernels ask of a processor, in the feature names of `cpuFacts`; of a GPU its target says it all. */
  readonly features: readonly string[];
  readonly limits: Limits;
  readonly provenance: {
    readonly compiler: string;
    /** sha256 over the checkpoint's headers, sizes and config; `random:<seed>` for random weights. */
    readonly checkpoint: string;
    readonly options: Readonly<Record<string, string | number | boolean>>;
  };
  readonly weights: {
    readonly file: string;
    readonly bytes: number;
    /** Null where the weights were left out: such an engine shows its kernels and does not run. */
    readonly sha256: string | null;
    readonly tensors: readonly TensorEntry[];
    /** What the checkpoint holds beyond these: what nobody explained first. */
    readonly unused: readonly UnusedEntry[];
  };
  readonly kvCache: KvCacheEntry;
  readonly arena: { readonly bytes: number; readonly buffers: readonly BufferEntry[] };
  readonly library: { readonly file: string; readonly sha256: string } | null; // null: not built yet
  /** sha256 of the other files, by path in the folder: kernel sources with what they include, tokenizer, configuration, terms. */
  readonly files: Readonly<Record<string, string>>;
  readonly kernels: readonly KernelEntry[];
  readonly programs: readonly Program[];
  readonly predicted: {
    /** Bytes of weights that a step of one token reads, which is the least any step does: of experts, the active ones. */
    readonly weightBytesPerStep: number;
    readonly kvBytesPerToken: number;
    readonly flopsPerToken: number;
    readonly memoryBytes: { readonly weights: number; readonly arena: number };
  };
}
