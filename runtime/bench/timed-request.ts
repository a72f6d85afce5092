/**
 * One request to an engine with a time for each token: what every benchmark here is made of.
 *
 * Times are those of the consumer: a token counts when its delta arrives, so queueing, host work and the event loop are in.
 */
import { EngineError } from "../errors.ts";
import type { EngineStats, GenerateRequest, OutputDelta } from "../request.ts";
import { type SamplingParams, samplingParams } from "../sampling-params.ts";
import type { WorkloadRequest } from "./workload.ts";

/** What a benchmark needs of an engine; `AsyncEngine` satisfies it. */
export interface BenchEngine {
  generate(request: GenerateRequest): AsyncIterable<OutputDelta>;
  stats(): EngineStats;
}

/** Milliseconds from any fixed origin; `performance.now` unless a test says otherwise. */
export type Clock = () => number;

export interface RequestTiming {
  readonly promptTokens: number;
  /** Prompt tokens that the prefix cache held. */
  readonly cachedTokens: number;
  readonly startMs: number;
  /** Arrival of each output token, ascending; tokens of one delta share a time. */
  readonly tokenMs: readonly number[];
  /** Arrival of each delta that carried tokens. */
  readonly deltaMs: readonly number[];
}

/** Exactly `outputTokens` tokens, whatever the model says: EOS ignored, no stop, no penalty. Temperature 0 is greedy. */
export function benchParams(outputTokens: number, temperature: number): SamplingParams {
  return samplingParams({ maxTokens: outputTokens, temperature, ignoreEos: true });
}

/**
 * Runs one request to its end. Throws EngineError when the engine gave another number of tokens than `outputTokens`: a rate
 * over fewer tokens would be no measurement.
 */
export async function timeRequest(
  engine: BenchEngine,
  requestId: string,
  request: WorkloadRequest,
  temperature: number,
  clock: Clock,
  signal?: AbortSignal,
): Promise<RequestTiming> {
  const { promptTokenIds, outputTokens } = request;
  const params = benchParams(outputTokens, temperature);
  const tokenMs: number[] = [];
  const deltaMs: number[] = [];
  let cachedTokens = 0;
  const startMs = clock();
  for await (const delta of engine.generate({ requestId, promptTokenIds, params, ...(signal && { signal }) })) {
    cachedTokens = delta.numCachedTokens;
    if (delta.tokenIds.length === 0) continue;
    const now = clock();
    deltaMs.push(now);
    for (let i = 0; i < delta.tokenIds.length; i++) tokenMs.push(now);
  }
  if (tokenMs.length !== outputTokens) {
    throw new EngineError(
      `request ${requestId} of ${promptTokenIds.length} prompt tokens gave ${tokenMs.length} output tokens, expected ${outputTokens}: ` +
        "the engine ended it early (is prompt + output over max-model-len?)",
    );
  }
  return { promptTokens: promptTokenIds.length, cachedTokens, startMs, tokenMs, deltaMs };
}
