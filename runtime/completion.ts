/**
 * One completion as its client sees it: sampled ids in; text, log-probabilities and the reason of the end out.
 *
 * News gathers until it is taken, so a slow reader gets fewer and larger deltas, never a growing queue.
 */
import { MAX_LOGPROBS, type StepResult } from "./batch.ts";
import { invariant } from "./errors.ts";
import type { FinishReason, OutputDelta, TokenLogprob } from "./request.ts";
import type { SamplingParams } from "./sampling-params.ts";
import type { Sequence } from "./scheduler/sequence.ts";
import { StopStrings } from "./stop-strings.ts";

/** Turns ids into text one by one; may hold text back until characters are complete. */
export interface DecodeStream {
  push(id: number): string;
  flush(): string;
}

/** What the engine loop needs of a tokenizer. */
export interface Detokenizer {
  stream(options: { readonly skipSpecialTokens: boolean }): DecodeStream;
}

export interface CompletionInit {
  readonly index: number;
  readonly sequence: Sequence;
  readonly params: SamplingParams;
  /** Most output tokens, at most `params.maxTokens` and what the context holds. */
  readonly maxTokens: number;
  readonly eosTokenIds: ReadonlySet<number>;
  readonly stream: DecodeStream;
}

export class Completion {
  readonly index: number;
  readonly sequence: Sequence;
  readonly #params: SamplingParams;
  readonly #maxTokens: number;
  readonly #eosTokenIds: ReadonlySet<number>;
  readonly #stream: DecodeStream;
  readonly #stopStrings: StopStrings;
  #finishReason: FinishReason | null = null;
  #stopReason: string | number | null = null;
  // News not taken yet.
  #text = "";
  #tokenIds: number[] = [];
  #logprobs: TokenLogprob[] = [];
  #hasNews = false;

  constructor(init: CompletionInit) {
    this.index = init.index;
    this.sequence = init.sequence;
    this.#params = init.params;
    this.#maxTokens = init.maxTokens;
    this.#eosTokenIds = init.eosTokenIds;
    this.#stream = init.stream;
    this.#stopStrings = new StopStrings(init.params.stop, init.params.includeStopStrInOutput);
  }

  get isFinished(): boolean {
    return this.#finishReason !== null;
  }

  /** Takes the token that row `row` of `result` sampled, already appended to the sequence; true when it was the last. */
  push(result: StepResult, row: number): boolean {
    invariant(!this.isFinished, `completion ${this.index} got a token after its end`);
    const id = result.tokenIds[row]!;
    const params = this.#params;
    const numTokens = this.sequence.numOutputTokens;
    this.#tokenIds.push(id);
    if (params.logprobs !== null) this.#logprobs.push(logprobOf(result, row, params.logprobs));
    this.#hasNews = true;

    const canStop = numTokens > params.minTokens; // the id or text that ends an output is not one of its minTokens
    const isEos = !params.ignoreEos && this.#eosTokenIds.has(id);
    const isStopId = params.stopTokenIds.includes(id);
    const endsById = canStop && (isEos || isStopId);
    // The id that ends an output is in its ids; in its text only on request.
    if (!endsById || params.includeStopStrInOutput) this.#show(this.#stream.push(id), canStop);
    if (this.isFinished) return true; // a stop string
    if (endsById) this.#finish("stop", isStopId ? id : null);
    else if (numTokens >= this.#maxTokens) this.#finish("length", null);
    return this.isFinished;
  }

  /** Ends it now, with what there is. */
  abort(): void {
    if (!this.isFinished) this.#finish("abort", null);
  }

  /** What happened since the last call, or undefined when nothing did. */
  take(): OutputDelta | undefined {
    if (!this.#hasNews) return undefined;
    const delta: OutputDelta = {
      index: this.index,
      text: this.#text,
      tokenIds: this.#tokenIds,
      logprobs: this.#params.logprobs === null ? null : this.#logprobs,
      finishReason: this.#finishReason,
      stopReason: this.#stopReason,
      numCachedTokens: this.sequence.numCachedTokens ?? 0,
      startedMs: this.sequence.startedMs ?? null,
    };
    this.#text = "";
    this.#tokenIds = [];
    this.#logprobs = [];
    this.#hasNews = false;
    return delta;
  }

  #show(piece: string, canStop: boolean): void {
    const { text, stop } = this.#stopStrings.push(piece, canStop);
    this.#text += text;
    if (stop !== null) {
      this.#finishReason = "stop";
      this.#stopReason = stop;
    }
  }

  #finish(reason: FinishReason, stopReason: number | null): void {
    this.#show(this.#stream.flush(), this.sequence.numOutputTokens > this.#params.minTokens);
    this.#hasNews = true;
    if (this.isFinished) return; // the last, incomplete characters completed a stop string
    this.#text += this.#stopStrings.flush();
    this.#finishReason = reason;
    this.#stopReason = stopReason;
  }
}

function logprobOf(result: StepResult, row: number, numTop: number): TokenLogprob {
  const top: { id: number; logprob: number }[] = [];
  for (let i = row * MAX_LOGPROBS; i < row * MAX_LOGPROBS + numTop; i++) {
    top.push({ id: result.topIds[i]!, logprob: result.topLogprobs[i]! });
  }
  return { id: result.tokenIds[row]!, logprob: result.logprobs[row]!, top };
}
