/**
 * What one step takes and gives, as flat arrays: the contract between the scheduler, the engine and the sampling kernel.
 *
 * Token t of the batch belongs to sequence `seqIds[t]` (a row of `blockTables`) and stands at `positions[t]` in it. Tokens of a
 * sequence are consecutive and in order. Position p lives in block `blockTables[seq][p / blockSize]` at offset p mod blockSize.
 */

/** Columns of `sampleFloats` (S, 8). */
export const SAMPLE_FLOATS = {
  temperature: 0, // 0 is greedy
  topP: 1, // (0, 1]
  minP: 2, // [0, 1]
  repetitionPenalty: 3, // > 0, 1 is off; as transformers: logit / r if positive else logit · r, over prompt and output
  presencePenalty: 4, // subtracted once from tokens of the output
  frequencyPenalty: 5, // subtracted per occurrence in the output
} as const;
export const SAMPLE_FLOATS_WIDTH = 8;

/** Columns of `sampleInts` (S, 12). */
export const SAMPLE_INTS = {
  topK: 0, // 0 is off
  seedLow: 1,
  seedHigh: 2,
  counter: 3, // index of the output token within its request: with the seed it fixes the draw, whatever the batch
  numLogprobs: 4, // 0 none, else 1 + wanted alternatives (so 1 gives only the sampled token's)
  tokensBegin: 5, // range of `sampleTokens` rows holding (id, occurrences in output; 0 means prompt only)
  tokensEnd: 6,
  biasBegin: 7, // range of `sampleTokens` rows holding (id, f32 bits of the bias; −Infinity bans)
  biasEnd: 8,
} as const;
export const SAMPLE_INTS_WIDTH = 12;
/** Most alternatives `topIds`/`topLogprobs` hold per row. */
export const MAX_LOGPROBS = 20;

/** One step's input. All arrays are exactly as long as their shape says. */
export interface Batch {
  readonly tokenIds: Int32Array; // (T): an id, or −1 − r for the one that the step before samples in its row r (a device of depth 2)
  readonly positions: Int32Array; // (T)
  readonly seqIds: Int32Array; // (T)
  readonly seqLens: Int32Array; // (B): tokens known of the sequence, those of later steps included
  readonly blockTables: Int32Array; // (B, P), rows padded with 0
  readonly numSeqs: number; // B
  readonly blocksPerSeq: number; // P
  readonly sampleRows: Int32Array; // (S): rows of the batch, ascending
  readonly sampleFloats: Float32Array; // (S, 8)
  readonly sampleInts: Int32Array; // (S, 12)
  readonly sampleTokens: Int32Array; // (n, 2)
}

/** One step's output, row for row of `sampleRows`. Log-probabilities are of the model's own distribution (after penalties and bias, before temperature), natural logarithm. */
export interface StepResult {
  readonly tokenIds: Int32Array; // (S)
  readonly logprobs: Float32Array; // (S); NaN where not asked for
  readonly topIds: Int32Array; // (S, 20), best first
  readonly topLogprobs: Float32Array; // (S, 20)
  readonly ms: number;
  /** Rows asked for by name: `hidden.0` … `hidden.L` (T, hiddenSize), `hidden.L` after the final norm and like `logits` with S rows. */
  readonly taps: ReadonlyMap<string, Float32Array>;
}

/** What the scheduler drives: an engine, or a fake one in tests. */
export interface Device {
  readonly blockSize: number;
  readonly numBlocks: number;
  readonly maxModelLen: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly vocabSize: number;
  /**
   * Lengths beyond which a sequence has other keys and values in the cache, ascending: what is cached of one that grows past such a
   * length is of no use to it any more.
   */
  readonly rebuiltBeyond: readonly number[];
  /** How many steps it takes at once. With 2, the second is handed over while the first runs. */
  readonly depth: 1 | 2;
  /** Runs one step. At most `depth` at a time, answered in order; rejects with `EngineError` when the engine is closed. */
  step(batch: Batch, taps?: readonly string[]): Promise<StepResult>;
}

/** Which keys and values a sequence of `length` tokens has: those of equal kinds can be shared. */
export function kvKind(length: number, rebuiltBeyond: readonly number[]): number {
  let kind = 0;
  while (kind < rebuiltBeyond.length && length > rebuiltBeyond[kind]!) kind++;
  return kind;
}
