/**
 * Runs the prompts of one HTTP request and counts what they use. What the news looks like on the wire is the routes' business.
 */
import { EngineError, RequestError } from "../errors.ts";
import type { OutputDelta } from "../request.ts";
import type { SamplingParams } from "../sampling-params.ts";
import type { Flight } from "./in-flight.ts";
import type { ChoiceClock, ServerMetrics } from "./metrics.ts";
import { type CheckedSampling, inWireNames } from "./sampling-fields.ts";
import type { ServerModel } from "./server-model.ts";

export interface GenerationInit {
  readonly llm: ServerModel;
  readonly metrics: ServerMetrics;
  readonly flight: Flight;
  /** The answer's id, such as `chatcmpl-…`; the engine's ids are made of it. */
  readonly id: string;
  readonly prompts: readonly (readonly number[])[];
  readonly sampling: CheckedSampling;
  readonly cacheSalt: string | undefined;
  /** When the request arrived, of `performance.now()`. */
  readonly startMs: number;
}

/** OpenAI's usage object. */
export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
  readonly prompt_tokens_details: { readonly cached_tokens: number };
}

/** News of choice `choice` (prompt · n + index). */
export type OnDelta = (choice: number, delta: OutputDelta, params: SamplingParams) => Promise<void> | undefined;

/** Most choices of one request: prompts · n. */
const MAX_CHOICES = 4096;

interface Run {
  readonly outputs: AsyncIterable<OutputDelta>;
  readonly params: SamplingParams;
  readonly clocks: readonly ChoiceClock[];
  cachedTokens: number | undefined;
}

export class Generation {
  readonly #flight: Flight;
  readonly #runs: readonly Run[];
  readonly #n: number;
  readonly #promptTokens: number;
  #completionTokens = 0;

  /**
   * Hands the prompts to the engine, which checks them; they start with `consume`.
   * @throws RequestError when one of them cannot be served, in the words of the API.
   */
  constructor(init: GenerationInit) {
    const { llm, metrics, flight, prompts, sampling } = init;
    this.#flight = flight;
    this.#n = sampling.params.n;
    if (this.#n * prompts.length > MAX_CHOICES) {
      const message = `${prompts.length} prompts with n ${this.#n} make ${this.#n * prompts.length} choices; at most ${MAX_CHOICES} fit in one request`;
      throw new RequestError(400, message, { param: "n", code: "invalid_value" });
    }
    this.#promptTokens = prompts.reduce((sum, prompt) => sum + prompt.length, 0);
    this.#runs = prompts.map((promptTokenIds, i) => {
      const params = paramsFor(sampling, llm.maxModelLen - promptTokenIds.length);
      const requestId = prompts.length === 1 ? init.id : `${init.id}-${i}`;
      const { cacheSalt } = init;
      const outputs = inWireNames(sampling.wireNames, () =>
        llm.generate({
          requestId,
          promptTokenIds,
          params,
          signal: flight.signal,
          ...(cacheSalt === undefined ? {} : { cacheSalt }),
        }),
      );
      const clocks = Array.from({ length: this.#n }, () => metrics.choice(init.startMs));
      return { outputs, params, clocks, cachedTokens: undefined };
    });
    for (const prompt of prompts) metrics.request(prompt.length, this.#n, sampling.params.maxTokens);
  }

  get numChoices(): number {
    return this.#runs.length * this.#n;
  }

  /** So far; complete once `consume` has resolved. */
  get usage(): Usage {
    return {
      prompt_tokens: this.#promptTokens,
      completion_tokens: this.#completionTokens,
      total_tokens: this.#promptTokens + this.#completionTokens,
      prompt_tokens_details: { cached_tokens: this.#runs.reduce((sum, run) => sum + (run.cachedTokens ?? 0), 0) },
    };
  }

  /**
   * Runs all prompts together and hands their news on, waiting for the reader of each.
   * @throws the first failure, after the other prompts have been stopped; `ClientGone` when there is nobody to answer.
   */
  async consume(onDelta: OnDelta): Promise<void> {
    const { signal } = this.#flight;
    try {
      await Promise.allSettled(this.#runs.map((run, i) => this.#consumeRun(run, i * this.#n, onDelta)));
    } finally {
      for (const clock of this.#runs.flatMap((run) => run.clocks)) clock.end("abort"); // those that have not ended
    }
    signal.throwIfAborted(); // every failure is an abort
  }

  async #consumeRun(run: Run, firstChoice: number, onDelta: OnDelta): Promise<void> {
    const { signal } = this.#flight;
    try {
      for await (const delta of run.outputs) {
        signal.throwIfAborted();
        if (delta.index === 0) run.cachedTokens ??= delta.numCachedTokens;
        this.#completionTokens += delta.tokenIds.length;
        const clock = run.clocks[delta.index]!;
        clock.tokens(delta.tokenIds.length, delta.startedMs);
        if (delta.finishReason === "abort") throw new EngineError("the engine stopped before the answer was complete");
        if (delta.finishReason !== null) clock.end(delta.finishReason);
        await onDelta(firstChoice + delta.index, delta, run.params);
      }
    } catch (error) {
      this.#flight.abort(error); // without effect when an abort is the cause
      throw signal.reason;
    }
  }
}

/** A default never makes a prompt too long; what the client asks for may, and the engine says so. */
function paramsFor({ params, isMaxTokensDefault }: CheckedSampling, room: number): SamplingParams {
  if (!isMaxTokensDefault || params.maxTokens === null || room < 1) return params;
  return { ...params, maxTokens: Math.min(params.maxTokens, room) };
}

/** The model that `model` names. @throws RequestError 404 when this server does not have it. */
export function checkModel(model: string | null | undefined, served: string): void {
  if (model === null || model === undefined || model === served) return;
  throw new RequestError(
    404,
    `the model ${JSON.stringify(model)} does not exist here; this server has ${JSON.stringify(served)}`,
    {
      param: "model",
      code: "model_not_found",
    },
  );
}
