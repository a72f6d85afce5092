/**
 * An engine without a model: every step gives each running request its next token and costs a stated time on a clock of its own,
 * so that rates come out as exact numbers.
 */
import type { BenchEngine } from "../../../runtime/bench/timed-request.ts";
import type { EngineStats, GenerateRequest, OutputDelta } from "../../../runtime/request.ts";

export class LockstepEngine implements BenchEngine {
  now = 0;
  steps = 0;
  hostMs = 0;
  deviceMs = 0;
  aborted = 0;
  readonly requests: GenerateRequest[] = [];
  #running = 0;
  #step: Promise<void> | null = null;

  constructor(
    readonly costs: {
      readonly hostMs: number;
      /** Milliseconds on the device of a step, given the prompt tokens that begin in it and the requests that run. */
      readonly deviceMs: (promptTokens: number, running: number) => number;
      readonly cachedTokens?: number;
      /** Ends every request after so many tokens. */
      readonly maxModelTokens?: number;
    },
  ) {}

  readonly clock = () => this.now;

  stats(): EngineStats {
    const { steps, hostMs, deviceMs } = this;
    const zeros = { numRunning: 0, numWaiting: 0, kvCacheUsage: 0, promptTokens: 0, generationTokens: 0 };
    return { ...zeros, prefixCacheQueries: 0, prefixCacheHits: 0, numPreemptions: 0, steps, hostMs, deviceMs };
  }

  async *generate(request: GenerateRequest): AsyncGenerator<OutputDelta> {
    this.requests.push(request);
    const most = Math.min(
      request.params.maxTokens ?? Number.POSITIVE_INFINITY,
      this.costs.maxModelTokens ?? Number.POSITIVE_INFINITY,
    );
    this.#running += 1;
    this.#starting += request.promptTokenIds.length;
    for (let i = 1; i <= most; i++) {
      await this.#nextStep();
      if (request.signal?.aborted) {
        this.aborted += 1;
        break;
      }
      if (i === most) this.#running -= 1;
      yield delta([i], i === most ? "length" : null, this.costs.cachedTokens ?? 0);
    }
  }

  #starting = 0;

  /** All that wait before the event loop turns share a step. */
  #nextStep(): Promise<void> {
    this.#step ??= new Promise((resolve) =>
      setImmediate(() => {
        const device = this.costs.deviceMs(this.#starting, this.#running);
        this.#starting = 0;
        this.#step = null;
        this.steps += 1;
        this.hostMs += this.costs.hostMs;
        this.deviceMs += device;
        this.now += this.costs.hostMs + device;
        resolve();
      }),
    );
    return this.#step;
  }
}

function delta(tokenIds: number[], finishReason: "length" | null, numCachedTokens: number): OutputDelta {
  return { index: 0, text: "", tokenIds, logprobs: null, finishReason, stopReason: null, numCachedTokens, startedMs: null };
}
