/**
 * One sequence alone: how fast a prompt is read, and how fast tokens follow at a given depth of context.
 *
 * Decode is also stated against its limit: the bytes a step must read times steps per second, as a share of the machine's
 * measured read bandwidth.
 */
import { EngineError, invariant } from "../errors.ts";
import { median, type Summary, summarize } from "./statistics.ts";
import { type BenchEngine, type Clock, timeRequest } from "./timed-request.ts";
import { fixedWorkload, type WorkloadRequest } from "./workload.ts";

/** What a decode step reads at least, and what the machine can read. */
export interface DecodeCosts {
  readonly weightBytesPerStep: number;
  readonly kvBytesPerToken: number;
  /** Probed GB/s (10⁹ bytes) with the engine's threads; null when not probed. */
  readonly readBandwidthGBs: number | null;
}

export interface LatencyOptions {
  readonly promptTokens: number;
  /** Context lengths at which decoding is measured. */
  readonly depths: readonly number[];
  /** Tokens generated per decode measurement, ≥ 2: the first belongs to the prompt. */
  readonly outputTokens: number;
  readonly warmup: number;
  readonly repeats: number;
  /** Prompts are drawn from ids 0 … maxTokenId. */
  readonly maxTokenId: number;
  readonly seed: number;
  readonly costs: DecodeCosts;
}

export interface PrefillResult {
  readonly promptTokens: number;
  /** Time to the first token, ms. */
  readonly ttftMs: Summary;
  /** Prompt tokens over the time to the first token. */
  readonly tokensPerSecond: Summary;
}

export interface DecodeResult {
  /** Tokens in context when the second token is computed. */
  readonly depth: number;
  readonly outputTokens: number;
  /** Per run: tokens after the first over the time they took. */
  readonly tokensPerSecond: Summary;
  /** Time between tokens over all runs, ms. */
  readonly tokenMs: Summary;
  /** Weights plus the KV of the mean context. */
  readonly bytesPerStep: number;
  /** bytesPerStep × median tokens per second, in 10⁹ bytes. */
  readonly effectiveGBs: number;
  /** effectiveGBs over the probed read bandwidth, 0 … 1; null when not probed. */
  readonly bandwidthShare: number | null;
}

export interface LatencyResult {
  readonly warmup: number;
  readonly repeats: number;
  readonly readBandwidthGBs: number | null;
  readonly prefill: PrefillResult;
  readonly decode: readonly DecodeResult[];
}

/**
 * Measures prefill of `promptTokens`, then decode at each depth. Throws EngineError when a request ends early or a
 * prefill prompt is found in the prefix cache.
 */
export async function runLatency(
  engine: BenchEngine,
  options: LatencyOptions,
  clock: Clock = () => performance.now(),
  onRun: (done: number, total: number) => void = () => {},
): Promise<LatencyResult> {
  const { warmup, repeats, readBandwidthGBs } = { ...options, ...options.costs };
  invariant(repeats >= 1 && warmup >= 0, `${repeats} repeats after ${warmup} warm-up runs`);
  const total = (warmup + repeats) * (1 + options.depths.length);
  let done = 0;
  const ran = () => onRun(++done, total);
  const prefill = await measurePrefill(engine, options, clock, ran);
  const decode: DecodeResult[] = [];
  for (const depth of options.depths) decode.push(await measureDecode(engine, depth, options, clock, ran));
  return { warmup, repeats, readBandwidthGBs, prefill, decode };
}

async function measurePrefill(
  engine: BenchEngine,
  options: LatencyOptions,
  clock: Clock,
  ran: () => void,
): Promise<PrefillResult> {
  const { promptTokens, warmup, repeats } = options;
  // Another prompt each time: the prefix cache must not answer.
  const prompts = randomPrompts(warmup + repeats, promptTokens, 1, options);
  const ttftMs: number[] = [];
  const rates: number[] = [];
  for (const [i, prompt] of prompts.entries()) {
    const timing = await timeRequest(engine, `bench-prefill-${promptTokens}-${i}`, prompt, 0, clock);
    ran();
    if (timing.cachedTokens > 0) {
      throw new EngineError(
        `${timing.cachedTokens} of ${promptTokens} prompt tokens were in the prefix cache, so their prefill cannot be timed: ` +
          "take another seed, or a fresh engine",
      );
    }
    if (i < warmup) continue;
    const ms = (timing.tokenMs[0] as number) - timing.startMs;
    ttftMs.push(ms);
    rates.push((1000 * promptTokens) / ms);
  }
  return { promptTokens, ttftMs: summarize(ttftMs), tokensPerSecond: summarize(rates) };
}

async function measureDecode(
  engine: BenchEngine,
  depth: number,
  options: LatencyOptions,
  clock: Clock,
  ran: () => void,
): Promise<DecodeResult> {
  const { outputTokens, warmup, repeats, costs } = options;
  invariant(outputTokens >= 2, `decode over ${outputTokens} tokens; at least 2`);
  // The same prompt each time: only what follows the first token is timed, so the prefix cache may shorten the rest.
  const [prompt] = randomPrompts(1, depth, outputTokens, options) as [WorkloadRequest];
  const rates: number[] = [];
  const gaps: number[] = [];
  for (let i = 0; i < warmup + repeats; i++) {
    const { tokenMs } = await timeRequest(engine, `bench-decode-${depth}-${i}`, prompt, 0, clock);
    ran();
    if (i < warmup) continue;
    const ms = (tokenMs[outputTokens - 1] as number) - (tokenMs[0] as number);
    rates.push((1000 * (outputTokens - 1)) / ms);
    for (let t = 1; t < outputTokens; t++) gaps.push((tokenMs[t] as number) - (tokenMs[t - 1] as number));
  }
  // Step t = 1 … outputTokens − 1 reads the prompt and t generated tokens, its own included.
  const bytesPerStep = costs.weightBytesPerStep + costs.kvBytesPerToken * (depth + outputTokens / 2);
  const effectiveGBs = (bytesPerStep * median(rates)) / 1e9;
  return {
    depth,
    outputTokens,
    tokensPerSecond: summarize(rates),
    tokenMs: summarize(gaps),
    bytesPerStep,
    effectiveGBs,
    bandwidthShare: costs.readBandwidthGBs === null ? null : effectiveGBs / costs.readBandwidthGBs,
  };
}

function randomPrompts(numSeqs: number, inputTokens: number, outputTokens: number, options: LatencyOptions): WorkloadRequest[] {
  return fixedWorkload({ numSeqs, inputTokens, outputTokens, maxTokenId: options.maxTokenId, seed: options.seed });
}
