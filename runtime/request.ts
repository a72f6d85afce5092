/**
 * What a client of the engine loop asks and gets: the contract between `AsyncEngine`, `LLM` and the server.
 */
import type { SamplingParams } from "./sampling-params.ts";

export interface GenerateRequest {
  readonly requestId: string;
  readonly promptTokenIds: readonly number[];
  readonly params: SamplingParams;
  /** Aborts the request at any moment; its output then ends with finishReason "abort". */
  readonly signal?: AbortSignal;
  /** Prefix cache blocks are shared only among requests of the same salt; default: all that give none. */
  readonly cacheSalt?: string;
}

export type FinishReason = "stop" | "length" | "abort";

export interface TokenLogprob {
  readonly id: number;
  readonly logprob: number;
  /** Best first; holds as many as were asked for. */
  readonly top: readonly { readonly id: number; readonly logprob: number }[];
}

/** News about one completion (`index` 0 … n − 1). Texts add up to the whole output; held-back text comes with later news. */
export interface OutputDelta {
  readonly index: number;
  readonly text: string;
  readonly tokenIds: readonly number[];
  /** One per id of `tokenIds`, or null when not asked for. */
  readonly logprobs: readonly TokenLogprob[] | null;
  readonly finishReason: FinishReason | null;
  /** The stop string or stop id that ended it; null for EOS and the rest. */
  readonly stopReason: string | number | null;
  /** Prompt tokens found in the prefix cache; known from the first delta on. */
  readonly numCachedTokens: number;
  /** When its first step was scheduled, of `performance.now()`; null when it ended before. */
  readonly startedMs: number | null;
}

/** One finished completion. */
export interface CompletionOutput {
  readonly index: number;
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly logprobs: readonly TokenLogprob[] | null;
  readonly finishReason: FinishReason;
  readonly stopReason: string | number | null;
}

/** A finished request: its prompt and all its completions, by index. */
export interface RequestOutput {
  readonly requestId: string;
  /** null when the prompt was given as ids. */
  readonly prompt: string | null;
  readonly promptTokenIds: readonly number[];
  readonly outputs: readonly CompletionOutput[];
  /** Prompt tokens found in the prefix cache (of the first completion). */
  readonly numCachedTokens: number;
}

/** Counters and gauges for `/metrics` and benchmarks; plain numbers, read at any time. */
export interface EngineStats {
  readonly numRunning: number;
  readonly numWaiting: number;
  readonly kvCacheUsage: number; // 0 … 1
  readonly promptTokens: number;
  readonly generationTokens: number;
  readonly prefixCacheQueries: number; // tokens
  readonly prefixCacheHits: number; // tokens
  readonly numPreemptions: number;
  readonly steps: number;
  /** Milliseconds of steps, summed: the device's, and the rest (scheduling, batch building, checks, waking up, post-processing). */
  readonly hostMs: number;
  readonly deviceMs: number;
}
