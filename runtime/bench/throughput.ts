/**
 * Many sequences at once: total and output tokens per second, and what each request saw.
 *
 * Result keys are those of `vllm bench serve`'s result file (`vllm-project/vllm:vllm/benchmarks/serve.py`), with the engine's
 * own account of a step beside them. The engine is driven directly; no HTTP is in these numbers.
 */
import { setMaxListeners } from "node:events";
import { invariant } from "../errors.ts";
import { type Summary, summarize } from "./statistics.ts";
import { type BenchEngine, type Clock, type RequestTiming, timeRequest } from "./timed-request.ts";
import { summarizeWorkload, type WorkloadRequest, type WorkloadSummary } from "./workload.ts";

export interface ThroughputOptions {
  /** Requests in flight at most; null: all at once. */
  readonly concurrency: number | null;
  /** 0 is greedy; Nano-vLLM's benchmark uses 0.6. */
  readonly temperature: number;
}

/** `mean_… median_… std_… p99_…` of one metric, in milliseconds. */
export type VllmMetric<Name extends "ttft" | "tpot" | "itl" | "e2el"> = {
  readonly [Stat in "mean" | "median" | "std" | "p90" | "p99" as `${Stat}_${Name}_ms`]: number;
};

/** The keys of `vllm bench serve`; throughputs are per second, times in ms, `duration` in seconds. */
export interface VllmBenchResult extends VllmMetric<"ttft">, VllmMetric<"tpot">, VllmMetric<"itl">, VllmMetric<"e2el"> {
  readonly duration: number;
  readonly completed: number;
  readonly total_input_tokens: number;
  readonly total_output_tokens: number;
  readonly request_throughput: number;
  readonly output_throughput: number;
  readonly total_token_throughput: number;
  readonly max_concurrency: number | null;
}

/** The engine's own account over the run: differences of its counters. */
export interface StepAccount {
  readonly steps: number;
  /** Scheduling, batch building and post-processing. */
  readonly hostMsPerStep: number;
  readonly deviceMsPerStep: number;
  /** Wall time of a step that is neither host nor device work: waiting and the event loop. */
  readonly otherMsPerStep: number;
  readonly preemptions: number;
  readonly cachedPromptTokens: number;
}

export interface ThroughputResult {
  readonly workload: WorkloadSummary;
  readonly temperature: number;
  readonly metrics: VllmBenchResult;
  readonly engine: StepAccount;
}

/** How long as many sequences as will be in flight run first: a small model's first steps are those of a cold JIT. */
const WARM_UP_MS = 2000;
/** Of its own token, so that no prompt finds its beginning in the prefix cache. */
const WARM_UP: WorkloadRequest = { promptTokenIds: [0, 0], outputTokens: 2 };

/**
 * Sends `requests` in order, `concurrency` in flight, after a warm-up that is not counted, and waits for all.
 * Throws EngineError when a request ends early; the others are aborted then.
 */
export async function runThroughput(
  engine: BenchEngine,
  requests: readonly WorkloadRequest[],
  options: ThroughputOptions,
  clock: Clock = () => performance.now(),
  onRequest: (done: number, total: number) => void = () => {},
): Promise<ThroughputResult> {
  const { temperature } = options;
  const concurrency = Math.min(options.concurrency ?? requests.length, requests.length);
  invariant(concurrency >= 1, `${requests.length} requests, ${options.concurrency} in flight`);
  const stop = new AbortController();
  setMaxListeners(0, stop.signal); // one per request in flight
  /** All that `run` starts; when one fails, the others are aborted first. */
  const together = async (run: () => Promise<void>): Promise<void> => {
    const all = Array.from({ length: concurrency }, run);
    try {
      await Promise.all(all);
    } catch (error) {
      stop.abort();
      await Promise.allSettled(all);
      throw error;
    }
  };
  for (const end = clock() + WARM_UP_MS; clock() < end; ) {
    await together(async () => void (await timeRequest(engine, "bench-warmup", WARM_UP, temperature, clock, stop.signal)));
  }

  const before = engine.stats();
  const startMs = clock();
  const timings: RequestTiming[] = [];
  let next = 0;
  const client = async () => {
    for (let i = next++; i < requests.length && !stop.signal.aborted; i = next++) {
      timings.push(await timeRequest(engine, `bench-${i}`, requests[i] as WorkloadRequest, temperature, clock, stop.signal));
      onRequest(timings.length, requests.length);
    }
  };
  await together(client);
  const wallMs = clock() - startMs;
  const after = engine.stats();

  const steps = after.steps - before.steps;
  const perStep = (ms: number) => (steps === 0 ? 0 : ms / steps);
  const hostMs = after.hostMs - before.hostMs;
  const deviceMs = after.deviceMs - before.deviceMs;
  return {
    workload: summarizeWorkload(requests),
    temperature,
    metrics: vllmMetrics(timings, wallMs, options.concurrency),
    engine: {
      steps,
      hostMsPerStep: perStep(hostMs),
      deviceMsPerStep: perStep(deviceMs),
      otherMsPerStep: perStep(wallMs - hostMs - deviceMs),
      preemptions: after.numPreemptions - before.numPreemptions,
      cachedPromptTokens: timings.reduce((sum, t) => sum + t.cachedTokens, 0),
    },
  };
}

/**
 * vLLM's definitions: TTFT to the first token, E2EL to the last, TPOT = (E2EL − TTFT) / (tokens − 1) of requests with more
 * than one token, ITL every gap between a request's deltas.
 */
export function vllmMetrics(timings: readonly RequestTiming[], wallMs: number, maxConcurrency: number | null): VllmBenchResult {
  const ttft = timings.map((t) => (t.tokenMs[0] as number) - t.startMs);
  const e2el = timings.map((t) => (t.tokenMs[t.tokenMs.length - 1] as number) - t.startMs);
  const tpot = timings.flatMap((t, i) =>
    t.tokenMs.length < 2 ? [] : [((e2el[i] as number) - (ttft[i] as number)) / (t.tokenMs.length - 1)],
  );
  const itl = timings.flatMap((t) => t.deltaMs.slice(1).map((ms, i) => ms - (t.deltaMs[i] as number)));
  const input = timings.reduce((sum, t) => sum + t.promptTokens, 0);
  const output = timings.reduce((sum, t) => sum + t.tokenMs.length, 0);
  const seconds = wallMs / 1000;
  return {
    duration: seconds,
    completed: timings.length,
    total_input_tokens: input,
    total_output_tokens: output,
    request_throughput: timings.length / seconds,
    output_throughput: output / seconds,
    total_token_throughput: (input + output) / seconds,
    max_concurrency: maxConcurrency,
    ...metric("ttft", ttft),
    ...metric("tpot", tpot),
    ...metric("itl", itl),
    ...metric("e2el", e2el),
  };
}

/** Requests of one token have no TPOT and no ITL; vLLM reports 0 then. */
function metric<Name extends "ttft" | "tpot" | "itl" | "e2el">(name: Name, values: readonly number[]): VllmMetric<Name> {
  const s: Summary = summarize(values.length === 0 ? [0] : values);
  return Object.fromEntries(
    (["mean", "median", "std", "p90", "p99"] as const).map((stat) => [`${stat}_${name}_ms`, s[stat]]),
  ) as VllmMetric<Name>;
}
