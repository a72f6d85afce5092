/**
 * The engine loop: requests in, news out, one device step after the other while there is work.
 *
 * schedule → build the batch → device step → hand out tokens; once per step, never once per token, does JavaScript talk to the device.
 * A device of depth 2 gets step n + 1 before the results of step n are read, so that all of this happens while it computes; what may run
 * ahead of its own last token and what waits for it is the scheduler's decision. What a request has ended of meanwhile is dropped.
 * It knows token ids and a streaming detokenizer; prompts as text, templates and files are the business of `LLM`.
 */
import { setImmediate } from "node:timers/promises";
import type { Device, StepResult } from "./batch.ts";
import { Completion, type Detokenizer } from "./completion.ts";
import { EngineError, InternalError, invariant, RequestError } from "./errors.ts";
import { type ForwardOptions, ForwardPass, type ForwardResult, forwardTaps } from "./forward-pass.ts";
import { OutputStream } from "./output-stream.ts";
import type { EngineStats, GenerateRequest, OutputDelta } from "./request.ts";
import { SamplingState } from "./scheduler/sampling-state.ts";
import { type ScheduledStep, Scheduler } from "./scheduler/scheduler.ts";
import { Sequence } from "./scheduler/sequence.ts";
import { StepQueue } from "./step-queue.ts";

export interface AsyncEngineOptions {
  /** Ids that end an output unless `ignoreEos`. */
  readonly eosTokenIds: readonly number[];
  /** Layers of the model: `forward` gives one hidden state more. */
  readonly numLayers: number;
  /** Default true. */
  readonly enablePrefixCaching?: boolean;
  /** Isolates this engine's prefix cache keys; default "". */
  readonly salt?: string;
}

interface ActiveRequest {
  readonly request: GenerateRequest;
  readonly completions: readonly Completion[];
  readonly stream: OutputStream;
  readonly onAbort: () => void;
}

export class AsyncEngine {
  readonly #device: Device;
  readonly #tokenizer: Detokenizer;
  readonly #eosTokenIds: ReadonlySet<number>;
  readonly #numLayers: number;
  readonly #scheduler: Scheduler;
  readonly #queue: StepQueue;
  readonly #active = new Map<OutputStream, ActiveRequest>();
  readonly #bySequence = new Map<Sequence, { readonly active: ActiveRequest; readonly completion: Completion }>();
  readonly #forwards = new Map<Sequence, ForwardPass>();
  #failure: Error | undefined;
  #isDraining = false;
  #loop: Promise<void> | undefined;
  #wasForward = false;
  #promptTokens = 0;
  #generationTokens = 0;

  constructor(device: Device, tokenizer: Detokenizer, options: AsyncEngineOptions) {
    this.#device = device;
    this.#tokenizer = tokenizer;
    this.#eosTokenIds = new Set(options.eosTokenIds);
    this.#numLayers = options.numLayers;
    const { numBlocks, blockSize, maxNumSeqs, maxNumBatchedTokens, rebuiltBeyond, depth } = device;
    const { enablePrefixCaching = true, salt = "" } = options;
    const limits = { numBlocks, blockSize, maxNumSeqs, maxNumBatchedTokens };
    this.#scheduler = new Scheduler({ ...limits, rebuiltBeyond, depth, enablePrefixCaching, salt });
    this.#queue = new StepQueue(device);
  }

  /** Most tokens of prompt and output together: the model's context, or less where the KV cache is smaller. */
  get maxTotalTokens(): number {
    // The last token of an output is never computed.
    return Math.min(this.#device.maxModelLen, this.#scheduler.maxCachedTokens + 1);
  }

  /**
   * Checks a request at once; it starts when the result is first asked for news. Ending the iteration early aborts it.
   *
   * @throws RequestError 400 when prompt and `maxTokens` do not fit or an id is outside the vocabulary, 503 while draining.
   * @throws EngineError when the engine is closed or has failed; a failure during the iteration is thrown from it.
   */
  generate(request: GenerateRequest): AsyncIterableIterator<OutputDelta> {
    this.#checkOpen();
    const maxTokens = this.#checkRequest(request);
    const stream: OutputStream = new OutputStream({
      start: () => this.#start(request, maxTokens, stream),
      cancel: () => this.#abort(stream),
    });
    return stream;
  }

  /**
   * Scores `tokenIds` beside the running requests: logits (T, vocab) at every position and, on request, the residual stream.
   *
   * @returns with `hidden`: numLayers + 1 arrays (T, hiddenSize), after the embedding, after each layer, the last after the final norm.
   * @throws RequestError 400 when they do not fit or an id is outside the vocabulary; EngineError when the engine fails or is closed.
   */
  async forward(tokenIds: readonly number[], options: ForwardOptions = {}): Promise<ForwardResult> {
    this.#checkOpen();
    this.#checkTokenIds(tokenIds, "tokenIds");
    const most = Math.min(this.#device.maxModelLen, this.#scheduler.maxCachedTokens);
    if (tokenIds.length > most) {
      throw tooLong("tokenIds", `${tokenIds.length} tokens do not fit: a forward pass takes at most ${most} here`);
    }
    const { hidden = false, maxNumBatchedTokens } = options;
    if (maxNumBatchedTokens !== undefined && !(Number.isInteger(maxNumBatchedTokens) && maxNumBatchedTokens >= 1)) {
      const message = `maxNumBatchedTokens must be a whole number of at least 1, found ${maxNumBatchedTokens}`;
      throw new RequestError(400, message, { param: "maxNumBatchedTokens" });
    }
    const sequence = new Sequence({ promptTokenIds: tokenIds, sampling: undefined, maxNumBatchedTokens });
    const taps = forwardTaps(this.#numLayers, hidden);
    return new Promise((resolve, reject) => {
      this.#forwards.set(sequence, new ForwardPass(sequence.numTokens, this.#device.vocabSize, taps, { resolve, reject }));
      this.#scheduler.addForward(sequence);
      this.#kick();
    });
  }

  /** Why nothing is accepted any more: the device failed, or the engine was closed; undefined while it serves. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /** Counters since the start and gauges of now. */
  stats(): EngineStats {
    const { blocks } = this.#scheduler;
    return {
      numRunning: this.#scheduler.numRunning,
      numWaiting: this.#scheduler.numWaiting,
      kvCacheUsage: 1 - blocks.numFreeBlocks / blocks.numBlocks,
      promptTokens: this.#promptTokens,
      generationTokens: this.#generationTokens,
      prefixCacheQueries: this.#scheduler.prefixCacheQueries,
      prefixCacheHits: this.#scheduler.prefixCacheHits,
      numPreemptions: this.#scheduler.numPreemptions,
      steps: this.#scheduler.numSteps,
      hostMs: this.#queue.hostMs,
      deviceMs: this.#queue.deviceMs,
    };
  }

  /** Checks scheduler, blocks and requests against each other. @throws InternalError naming what is wrong. */
  checkIntegrity(): void {
    this.#scheduler.checkIntegrity();
    const { numRunning, numWaiting, numForwards } = this.#scheduler;
    invariant(
      this.#bySequence.size === numRunning + numWaiting,
      `${this.#bySequence.size} completions are open but ${numRunning} run and ${numWaiting} wait`,
    );
    invariant(this.#forwards.size === numForwards, `${this.#forwards.size} forward passes are open but ${numForwards} queued`);
    for (const { completions } of this.#active.values()) {
      invariant(!completions.every((completion) => completion.isFinished), "a finished request is still active");
    }
  }

  /** Refuses new requests from now on (503) and waits until those that run have ended. */
  async drain(): Promise<void> {
    this.#isDraining = true;
    while (this.#loop !== undefined) await this.#loop;
  }

  /** Aborts everything and waits for what is in flight; later calls throw EngineError. The device itself stays open. */
  async close(): Promise<void> {
    this.#failure ??= new EngineError("the engine is closed");
    for (const stream of [...this.#active.keys()]) this.#abort(stream);
    for (const [sequence, pass] of this.#forwards) {
      this.#scheduler.finish(sequence);
      pass.reject(this.#failure);
    }
    this.#forwards.clear();
    while (this.#loop !== undefined) await this.#loop;
  }

  #checkOpen(): void {
    if (this.#failure) throw this.#failure;
    if (this.#isDraining) throw new RequestError(503, "the server is shutting down; try another one", { code: "shutting_down" });
  }

  /** @returns how many tokens the request may generate. */
  #checkRequest({ promptTokenIds, params }: GenerateRequest): number {
    this.#checkTokenIds(promptTokenIds, "prompt");
    const numPrompt = promptTokenIds.length;
    const total = this.maxTotalTokens;
    const limit =
      total === this.#device.maxModelLen
        ? `the context of ${total} tokens`
        : `the KV cache, which holds ${this.#scheduler.maxCachedTokens} tokens (a context of ${total})`;
    if (numPrompt >= total) {
      throw tooLong("prompt", `the prompt of ${numPrompt} tokens does not fit in ${limit}, which must hold at least one more`);
    }
    if (params.maxTokens !== null && numPrompt + params.maxTokens > total) {
      throw tooLong(
        "maxTokens",
        `the prompt of ${numPrompt} tokens and maxTokens ${params.maxTokens} make ${numPrompt + params.maxTokens}, more than ${limit}; ` +
          `ask for at most ${total - numPrompt}`,
      );
    }
    const maxTokens = params.maxTokens ?? total - numPrompt;
    if (params.minTokens > maxTokens) {
      throw tooLong("minTokens", `minTokens ${params.minTokens} does not fit: beside the prompt there is room for ${maxTokens}`);
    }
    const { vocabSize } = this.#device;
    for (const [param, ids] of [
      ["stopTokenIds", params.stopTokenIds],
      ["logitBias", Object.keys(params.logitBias).map(Number)],
    ] as const) {
      for (const id of ids) {
        if (id >= vocabSize) throw badToken(param, id, vocabSize);
      }
    }
    return maxTokens;
  }

  #checkTokenIds(ids: readonly number[], param: string): void {
    if (ids.length === 0) throw new RequestError(400, `${param} is empty; at least one token is needed`, { param });
    if (ids.length > this.#device.maxModelLen) return; // refused by its length, unread
    const { vocabSize } = this.#device;
    for (const id of ids) {
      if (!(Number.isInteger(id) && id >= 0 && id < vocabSize)) throw badToken(param, id, vocabSize);
    }
  }

  #start(request: GenerateRequest, maxTokens: number, stream: OutputStream): readonly Completion[] {
    this.#checkOpen();
    const { params, promptTokenIds, signal, cacheSalt } = request;
    const eosTokenIds = this.#eosTokenIds;
    const endTokenIds = [...params.stopTokenIds, ...(params.ignoreEos ? [] : eosTokenIds)];
    const completions = Array.from({ length: params.n }, (_, index) => {
      const sampling = new SamplingState(params, index, promptTokenIds, endTokenIds);
      const sequence = new Sequence({ promptTokenIds, sampling, cacheSalt, maxTokens });
      const decoder = this.#tokenizer.stream({ skipSpecialTokens: params.skipSpecialTokens });
      return new Completion({ index, sequence, params, maxTokens, eosTokenIds, stream: decoder });
    });
    if (signal?.aborted) {
      for (const completion of completions) completion.abort();
      return completions;
    }
    this.#promptTokens += promptTokenIds.length;
    const active: ActiveRequest = { request, completions, stream, onAbort: () => this.#abort(stream) };
    signal?.addEventListener("abort", active.onAbort, { once: true });
    this.#active.set(stream, active);
    for (const completion of completions) {
      this.#bySequence.set(completion.sequence, { active, completion });
      this.#scheduler.add(completion.sequence);
    }
    this.#kick();
    return completions;
  }

  #abort(stream: OutputStream): void {
    const active = this.#active.get(stream);
    if (active === undefined) return;
    for (const completion of active.completions) {
      if (completion.isFinished) continue;
      this.#end(completion.sequence);
      completion.abort();
    }
    this.#closeIfDone(active);
    stream.notify();
  }

  /** Takes a sequence whose completion has ended out of the schedule. */
  #end(sequence: Sequence): void {
    this.#bySequence.delete(sequence);
    this.#scheduler.finish(sequence);
  }

  #closeIfDone(active: ActiveRequest): void {
    if (active.completions.every((completion) => completion.isFinished)) this.#close(active);
  }

  #close(active: ActiveRequest): void {
    this.#active.delete(active.stream);
    active.request.signal?.removeEventListener("abort", active.onAbort);
  }

  #kick(): void {
    this.#loop ??= this.#run().finally(() => {
      this.#loop = undefined;
      if (!this.#scheduler.isIdle && !this.#failure) this.#kick(); // something arrived as the loop was ending
    });
  }

  async #run(): Promise<void> {
    try {
      for (;;) {
        await setImmediate(); // arrivals, aborts and timers have their turn before each step
        if (this.#scheduler.isIdle && this.#queue.isEmpty) return;
        if (this.#pushStep() && !this.#queue.isFull) continue;
        await this.#queue.take((step, result) => {
          if (step.isForward) this.#takeForward(step, result);
          else this.#takeTokens(step, result);
        });
      }
    } catch (error) {
      this.#fail(error);
      await this.#queue.settle();
    }
  }

  /** Schedules a step and hands it over; false when all there is to schedule waits for results. */
  #pushStep(): boolean {
    this.#queue.begin();
    const began = performance.now();
    const step = this.#schedule();
    if (step === undefined) return false;
    for (const sequence of step.seqs) sequence.startedMs ??= began;
    this.#queue.push(step, step.isForward ? this.#forwards.get(step.seqs[0]!)!.taps : undefined);
    return true;
  }

  /** Generation and forward steps take turns while there are both. */
  #schedule(): ScheduledStep | undefined {
    const scheduler = this.#scheduler;
    const step = this.#wasForward
      ? (scheduler.schedule() ?? scheduler.scheduleForward())
      : (scheduler.scheduleForward() ?? scheduler.schedule());
    invariant(
      step !== undefined || !this.#queue.isEmpty,
      `${scheduler.numRunning} sequences run and ${scheduler.numWaiting} wait, but nothing can be scheduled`,
    );
    if (step !== undefined) this.#wasForward = step.isForward;
    return step;
  }

  #takeTokens(step: ScheduledStep, result: StepResult): void {
    this.#scheduler.update(step, result.tokenIds);
    for (let row = 0; row < step.sampled.length; row++) {
      const sequence = step.sampled[row]!;
      const entry = this.#bySequence.get(sequence);
      if (entry === undefined) continue; // it ended while the step was in flight
      const id = result.tokenIds[row]!;
      if (!(id >= 0 && id < this.#device.vocabSize)) {
        const at = `after ${sequence.numTokens - 1} tokens`;
        this.#failRequest(entry.active, `the model gave no token ${at}: its logits hold a NaN, or every token was banned`);
        continue;
      }
      this.#generationTokens++;
      if (entry.completion.push(result, row)) {
        this.#end(sequence);
        this.#closeIfDone(entry.active);
      }
      entry.active.stream.notify();
    }
  }

  /** Ends one request whose output cannot go on; the engine and the others can. */
  #failRequest(active: ActiveRequest, message: string): void {
    for (const { sequence, isFinished } of active.completions) {
      if (!isFinished) this.#end(sequence);
    }
    this.#close(active);
    active.stream.fail(new EngineError(`request ${active.request.requestId}: ${message}`));
  }

  #takeForward(step: ScheduledStep, result: StepResult): void {
    const sequence = step.seqs[0]!;
    this.#scheduler.update(step, result.tokenIds);
    const pass = this.#forwards.get(sequence);
    if (pass === undefined) return; // the engine was closed meanwhile
    try {
      pass.take(step.starts[0]!, step.numTokens[0]!, result);
      if (sequence.numUncomputedTokens > 0) return;
      pass.resolve();
    } catch (error) {
      // Its own arrays are too large, or the program lacks a tap: nobody else's matter.
      if (!(error instanceof RequestError || error instanceof EngineError)) throw error;
      pass.reject(error);
    }
    this.#scheduler.finish(sequence);
    this.#forwards.delete(sequence);
  }

  /** After a failure nothing is known of the device's state: every request ends with the error, and later ones get it too. */
  #fail(cause: unknown): void {
    const error =
      cause instanceof EngineError || cause instanceof InternalError
        ? cause
        : new EngineError(`the engine failed: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
    this.#failure = error;
    for (const active of [...this.#active.values()]) {
      this.#close(active);
      active.stream.fail(error);
    }
    this.#bySequence.clear();
    for (const pass of this.#forwards.values()) pass.reject(error);
    this.#forwards.clear();
  }
}

function tooLong(param: string, message: string): RequestError {
  return new RequestError(400, message, { param, code: "context_length_exceeded" });
}

function badToken(param: string, id: number, vocabSize: number): RequestError {
  return new RequestError(400, `${param} holds token id ${id}; ids are whole numbers from 0 to ${vocabSize - 1}`, { param });
}
