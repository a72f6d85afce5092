/**
 * `/metrics`: the engine's counters and the server's request timings under vLLM's names, in Prometheus' text format.
 *
 * Names, labels and buckets are those of vLLM's `v1/metrics/loggers.py`, so that dashboards and autoscalers made for it work.
 */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { EngineStats, FinishReason } from "../request.ts";

const TTFT_BUCKETS = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
];
const TOKEN_BUCKETS = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80];
const REQUEST_BUCKETS = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680];

const LABELS = ["model_name", "engine"] as const;

export class ServerMetrics {
  readonly #registry = new Registry();
  readonly #labels: { readonly model_name: string; readonly engine: string };
  readonly #success: Counter<"model_name" | "engine" | "finished_reason">;
  readonly #timeToFirstToken: Histogram<string>;
  readonly #interTokenLatency: readonly Histogram<string>[];
  readonly #timePerOutputToken: Histogram<string>;
  readonly #e2eLatency: Histogram<string>;
  readonly #phases: { readonly [K in keyof Phases]: Histogram<string> };
  readonly #promptTokens: Histogram<string>;
  readonly #generationTokens: Histogram<string>;
  readonly #paramsN: Histogram<string>;
  readonly #paramsMaxTokens: Histogram<string>;

  constructor(modelName: string, maxModelLen: number, stats: () => EngineStats) {
    this.#labels = { model_name: modelName, engine: "0" };
    const gauge = (name: string, help: string, read: (stats: EngineStats) => number) =>
      this.#read(Gauge, name, help, stats, read);
    const counter = (name: string, help: string, read: (stats: EngineStats) => number) =>
      this.#read(Counter, name, help, stats, read);
    gauge("vllm:num_requests_running", "Number of requests in model execution batches.", (s) => s.numRunning);
    gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.", (s) => s.numWaiting);
    gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", (s) => s.kvCacheUsage);
    counter(
      "vllm:prefix_cache_queries_total",
      "Prefix cache queries, in terms of number of queried tokens.",
      (s) => s.prefixCacheQueries,
    );
    counter("vllm:prefix_cache_hits_total", "Prefix cache hits, in terms of number of cached tokens.", (s) => s.prefixCacheHits);
    counter("vllm:num_preemptions_total", "Cumulative number of preemption from the engine.", (s) => s.numPreemptions);
    counter("vllm:prompt_tokens_total", "Number of prefill tokens processed.", (s) => s.promptTokens);
    counter("vllm:generation_tokens_total", "Number of generation tokens processed.", (s) => s.generationTokens);
    counter("ingot:engine_steps_total", "Steps of the engine.", (s) => s.steps);
    counter("ingot:host_seconds_total", "Time of scheduling, batch building and post-processing.", (s) => s.hostMs / 1000);
    counter("ingot:device_seconds_total", "Time the device computed.", (s) => s.deviceMs / 1000);

    this.#success = new Counter({
      name: "vllm:request_success_total",
      help: "Count of successfully processed requests.",
      labelNames: [...LABELS, "finished_reason"],
      registers: [this.#registry],
    });
    const reasons: readonly FinishReason[] = ["stop", "length", "abort"];
    for (const finished_reason of reasons) this.#success.inc({ ...this.#labels, finished_reason }, 0);
    const tokens = buckets125(maxModelLen);
    this.#timeToFirstToken = this.#histogram(
      "time_to_first_token_seconds",
      "Histogram of time to first token in seconds.",
      TTFT_BUCKETS,
    );
    // The second is the older name of the first; dashboards still ask for it.
    this.#interTokenLatency = ["inter_token_latency_seconds", "time_per_output_token_seconds"].map((name) =>
      this.#histogram(name, "Histogram of inter-token latency in seconds.", TOKEN_BUCKETS),
    );
    this.#timePerOutputToken = this.#histogram(
      "request_time_per_output_token_seconds",
      "Histogram of time_per_output_token_seconds per request.",
      TOKEN_BUCKETS,
    );
    this.#e2eLatency = this.#histogram(
      "e2e_request_latency_seconds",
      "Histogram of e2e request latency in seconds.",
      REQUEST_BUCKETS,
    );
    const phase = (name: string, what: string) =>
      this.#histogram(`request_${name}_time_seconds`, `Histogram of time spent in ${what} phase for request.`, REQUEST_BUCKETS);
    this.#phases = {
      queue: phase("queue", "WAITING"),
      prefill: phase("prefill", "PREFILL"),
      decode: phase("decode", "DECODE"),
      inference: phase("inference", "RUNNING"),
    };
    this.#promptTokens = this.#histogram("request_prompt_tokens", "Number of prefill tokens processed.", tokens);
    this.#generationTokens = this.#histogram("request_generation_tokens", "Number of generation tokens processed.", tokens);
    this.#paramsN = this.#histogram("request_params_n", "Histogram of the n request parameter.", [1, 2, 5, 10, 20]);
    this.#paramsMaxTokens = this.#histogram(
      "request_params_max_tokens",
      "Histogram of the max_tokens request parameter.",
      tokens,
    );
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  text(): Promise<string> {
    return this.#registry.metrics();
  }

  /** A request begins; its choices report to the result. */
  request(promptTokens: number, n: number, maxTokens: number | null): void {
    this.#promptTokens.observe(this.#labels, promptTokens);
    this.#paramsN.observe(this.#labels, n);
    if (maxTokens !== null) this.#paramsMaxTokens.observe(this.#labels, maxTokens);
  }

  /** The clock of one choice, started when its request arrived (`performance.now()`). */
  choice(startMs: number): ChoiceClock {
    return new ChoiceClock(startMs, {
      first: (seconds) => this.#timeToFirstToken.observe(this.#labels, seconds),
      next: (seconds) => {
        for (const histogram of this.#interTokenLatency) histogram.observe(this.#labels, seconds);
      },
      end: (finished_reason, tokens, seconds, secondsPerToken, phases) => {
        if (phases) {
          for (const [name, spent] of Object.entries(phases)) this.#phases[name as keyof Phases].observe(this.#labels, spent);
        }
        this.#success.inc({ ...this.#labels, finished_reason });
        this.#generationTokens.observe(this.#labels, tokens);
        this.#e2eLatency.observe(this.#labels, seconds);
        if (secondsPerToken !== undefined) this.#timePerOutputToken.observe(this.#labels, secondsPerToken);
      },
    });
  }

  #histogram(name: string, help: string, buckets: readonly number[]): Histogram<string> {
    const histogram = new Histogram({
      name: `vllm:${name}`,
      help,
      labelNames: LABELS,
      buckets: [...buckets],
      registers: [this.#registry],
    });
    histogram.zero(this.#labels);
    return histogram;
  }

  /** A metric that is read from the engine whenever it is asked for. */
  #read(
    Kind: typeof Gauge | typeof Counter,
    name: string,
    help: string,
    stats: () => EngineStats,
    read: (stats: EngineStats) => number,
  ): void {
    const labels = this.#labels;
    const metric: Gauge | Counter = new Kind({
      name,
      help,
      labelNames: LABELS,
      registers: [this.#registry],
      collect: () => {
        metric.reset();
        metric.inc(labels, read(stats()));
      },
    });
  }
}

/** Seconds of a choice: until its first step, from there to its first token, from that to its last, and the last two together. */
interface Phases {
  readonly queue: number;
  readonly prefill: number;
  readonly decode: number;
  readonly inference: number;
}

interface ClockEvents {
  first(seconds: number): void;
  next(seconds: number): void;
  /** Without tokens there are no phases. */
  end(
    reason: FinishReason,
    tokens: number,
    seconds: number,
    secondsPerToken: number | undefined,
    phases: Phases | undefined,
  ): void;
}

/** Times of one choice as its client sees them. */
export class ChoiceClock {
  readonly #startMs: number;
  readonly #events: ClockEvents;
  #startedMs = 0;
  #firstMs = 0;
  #lastMs = 0;
  #tokens = 0;
  #isOver = false;

  constructor(startMs: number, events: ClockEvents) {
    this.#startMs = startMs;
    this.#events = events;
  }

  /** `count` tokens arrived now, of a sequence whose first step was scheduled at `startedMs`. */
  tokens(count: number, startedMs: number | null): void {
    if (count === 0) return;
    const now = performance.now();
    if (this.#tokens === 0) {
      this.#startedMs = startedMs ?? now;
      this.#firstMs = now;
      this.#events.first((now - this.#startMs) / 1000);
    } else {
      for (let i = 0; i < count; i++) this.#events.next((now - this.#lastMs) / count / 1000);
    }
    this.#lastMs = now;
    this.#tokens += count;
  }

  /** The choice ended; only the first call counts. */
  end(reason: FinishReason): void {
    if (this.#isOver) return;
    this.#isOver = true;
    const perToken = this.#tokens > 1 ? (this.#lastMs - this.#firstMs) / (this.#tokens - 1) / 1000 : undefined;
    this.#events.end(reason, this.#tokens, (performance.now() - this.#startMs) / 1000, perToken, this.#phases());
  }

  #phases(): Phases | undefined {
    if (this.#tokens === 0) return undefined;
    const seconds = (from: number, to: number) => Math.max(0, to - from) / 1000;
    return {
      queue: seconds(this.#startMs, this.#startedMs),
      prefill: seconds(this.#startedMs, this.#firstMs),
      decode: seconds(this.#firstMs, this.#lastMs),
      inference: seconds(this.#startedMs, this.#lastMs),
    };
  }
}

/** 1, 2, 5, 10, 20, 50, … up to `most`. */
function buckets125(most: number): readonly number[] {
  const buckets: number[] = [];
  for (let power = 1; ; power *= 10) {
    for (const mantissa of [1, 2, 5]) {
      if (mantissa * power > most) return buckets.length > 0 ? buckets : [1];
      buckets.push(mantissa * power);
    }
  }
}
