/**
 * One completion on its way: its tokens, the blocks that hold their keys and values, and how far it has been computed.
 *
 * A plain record with a little arithmetic: the scheduler moves it between queues, the block manager fills its block table.
 */
import type { SamplingState } from "./sampling-state.ts";

export type SequenceStatus = "waiting" | "running" | "finished";

export interface SequenceInit {
  readonly promptTokenIds: ArrayLike<number>;
  /** undefined for a sequence that is only scored (`Scheduler.addForward`). */
  readonly sampling: SamplingState | undefined;
  /** Prefix blocks are shared only between sequences of the same salt. */
  readonly cacheSalt?: string;
  /** Output tokens after which the caller ends it; without one the scheduler knows of no end. */
  readonly maxTokens?: number;
  /** Most of its tokens in one step when it is only scored; the engine's limits hold as well. */
  readonly maxNumBatchedTokens?: number;
}

export class Sequence {
  /** Order of arrival; given by the scheduler. */
  arrival = 0;
  status: SequenceStatus = "waiting";
  /** When its first step was scheduled, of `performance.now()`. */
  startedMs: number | undefined;
  readonly sampling: SamplingState | undefined;
  readonly cacheSalt: string;
  readonly maxTokens: number;
  readonly maxNumBatchedTokens: number;

  /** Prompt and output ids; the first `numTokens` are valid. Only the last may be a placeholder (`runAhead`). */
  tokens: Int32Array;
  numTokens: number;
  readonly numPromptTokens: number;
  /** Tokens whose keys and values are in the cache or will be once the scheduled steps have run. */
  numComputedTokens = 0;
  /** Prompt tokens found in the prefix cache when it was first admitted; undefined before. */
  numCachedTokens: number | undefined;

  /** Block p holds positions p · blockSize …; the first `numBlocks` are valid. */
  blockTable = new Int32Array(8);
  numBlocks = 0;
  /** Chained hashes of the full blocks of `tokens`, as far as they were needed. */
  readonly blockHashes: string[] = [];
  /** Which keys and values a sequence of its length has (`kvKind`): given by the scheduler, part of the hashes. */
  kvKind = 0;

  /** Steps that were scheduled and have not reported back. */
  numInFlight = 0;
  /** The last step it was scheduled in, and the row in which that samples its next token if it does. */
  lastStep = 0;
  sampledRow = 0;

  constructor(init: SequenceInit) {
    this.numPromptTokens = init.promptTokenIds.length;
    this.numTokens = this.numPromptTokens;
    this.tokens = new Int32Array(Math.max(16, Math.ceil(this.numPromptTokens * 1.25)));
    this.tokens.set(init.promptTokenIds);
    this.sampling = init.sampling;
    this.cacheSalt = init.cacheSalt ?? "";
    this.maxTokens = init.maxTokens ?? Number.POSITIVE_INFINITY;
    this.maxNumBatchedTokens = init.maxNumBatchedTokens ?? Number.POSITIVE_INFINITY;
  }

  get numOutputTokens(): number {
    return this.numTokens - this.numPromptTokens;
  }

  /** Tokens known but not yet scheduled: 1 in decode, more in prefill, 0 while a sampled token is awaited. */
  get numUncomputedTokens(): number {
    return this.numTokens - this.numComputedTokens;
  }

  /** Whether its last token is a placeholder. */
  get isAhead(): boolean {
    return this.tokens[this.numTokens - 1]! < 0;
  }

  /** Appends a placeholder for the token that its last step samples: an id below 0, by which the device finds it. */
  runAhead(): void {
    this.append(-1 - this.sampledRow);
  }

  /** Puts the token that has come in the place of the placeholder. */
  catchUp(id: number): void {
    this.tokens[this.numTokens - 1] = id;
  }

  append(id: number): void {
    if (this.numTokens === this.tokens.length) {
      const grown = new Int32Array(this.tokens.length * 2);
      grown.set(this.tokens);
      this.tokens = grown;
    }
    this.tokens[this.numTokens++] = id;
    this.sampling?.counts?.add(id, 1);
  }

  appendBlock(block: number): void {
    if (this.numBlocks === this.blockTable.length) {
      const grown = new Int32Array(this.blockTable.length * 2);
      grown.set(this.blockTable);
      this.blockTable = grown;
    }
    this.blockTable[this.numBlocks++] = block;
  }
}
