/**
 * Sampling parameters in vLLM's words (camelCased) and their check.
 */

export interface SamplingParams {
  /** Completions per prompt. */
  readonly n: number;
  /** Most tokens to generate; null: up to the context's end. */
  readonly maxTokens: number | null;
  readonly minTokens: number;
  /** 0 is greedy. */
  readonly temperature: number;
  /** 0 is off. */
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  /** null draws a fresh one. */
  readonly seed: number | null;
  readonly stop: readonly string[];
  readonly stopTokenIds: readonly number[];
  readonly includeStopStrInOutput: boolean;
  readonly ignoreEos: boolean;
  readonly skipSpecialTokens: boolean;
  /** Token id → bias added to its logit, −100 … 100. */
  readonly logitBias: Readonly<Record<number, number>>;
  /** null: none; else the number of alternatives beside the sampled token, 0 … 20. */
  readonly logprobs: number | null;
}
