/**
 * Benchmark results as text for a terminal. Results are plain objects, so JSON needs no code here.
 */
import type { LatencyResult } from "./latency.ts";
import type { Summary } from "./statistics.ts";
import { formatTable } from "./text-table.ts";
import type { ThroughputResult } from "./throughput.ts";

/** Three significant digits at least, no exponent: 0.0123, 4.56, 78.9, 1234. */
export function formatNumber(x: number): string {
  if (!Number.isFinite(x)) return String(x);
  const magnitude = x === 0 ? 0 : Math.floor(Math.log10(Math.abs(x)));
  return x.toFixed(Math.max(0, Math.min(6, 2 - magnitude)));
}

const quartiles = (s: Summary) => `${formatNumber(s.q1)}-${formatNumber(s.q3)}`;
const percent = (share: number | null) => (share === null ? "not probed" : `${(100 * share).toFixed(0)} %`);

/** The rows of `bench latency`: prefill, then decode by depth with GB/s and its share of the probed bandwidth. */
export function formatLatency(result: LatencyResult): string {
  const { prefill, decode, repeats, warmup, readBandwidthGBs } = result;
  const probed = readBandwidthGBs === null ? "not probed" : `${formatNumber(readBandwidthGBs)} GB/s`;
  const prefillTable = formatTable(
    ["prefill", "tok/s", "quartiles", "TTFT ms", "p99 ms"],
    [
      [
        `${prefill.promptTokens} tokens`,
        formatNumber(prefill.tokensPerSecond.median),
        quartiles(prefill.tokensPerSecond),
        formatNumber(prefill.ttftMs.median),
        formatNumber(prefill.ttftMs.p99),
      ],
    ],
  );
  const decodeTable = formatTable(
    ["decode", "tok/s", "quartiles", "ms/token", "p90", "p99", "MB/token", "GB/s", "of read bandwidth"],
    decode.map((d) => [
      `${d.outputTokens} tokens at depth ${d.depth}`,
      formatNumber(d.tokensPerSecond.median),
      quartiles(d.tokensPerSecond),
      formatNumber(d.tokenMs.median),
      formatNumber(d.tokenMs.p90),
      formatNumber(d.tokenMs.p99),
      formatNumber(d.bytesPerStep / 1e6),
      formatNumber(d.effectiveGBs),
      percent(d.bandwidthShare),
    ]),
  );
  const note =
    `Medians of ${repeats} runs after ${warmup} to warm up. Read bandwidth: ${probed}. ` +
    "A token reads the weights that the manifest predicts, of experts only the active ones, and its sequence's cache.";
  return `${prefillTable}\n\n${decodeTable}\n\n${note}`;
}

/** The rows of `bench throughput`: totals, then each latency metric, then the engine's steps. */
export function formatThroughput(result: ThroughputResult): string {
  const { metrics: m, engine, workload } = result;
  const totals = formatTable(
    ["throughput", "value"],
    [
      ["requests", String(m.completed)],
      ["in flight at most", m.max_concurrency === null ? "all" : String(m.max_concurrency)],
      ["input tokens", String(m.total_input_tokens)],
      ["output tokens", String(m.total_output_tokens)],
      ["duration s", formatNumber(m.duration)],
      ["output tok/s", formatNumber(m.output_throughput)],
      ["total tok/s", formatNumber(m.total_token_throughput)],
      ["steps", String(engine.steps)],
      ["host ms/step", formatNumber(engine.hostMsPerStep)],
      ["device ms/step", formatNumber(engine.deviceMsPerStep)],
      ["other ms/step", formatNumber(engine.otherMsPerStep)],
      ["preemptions", String(engine.preemptions)],
      ["cached prompt tokens", String(engine.cachedPromptTokens)],
    ],
  );
  const row = (title: string, values: readonly number[]) => [title, ...values.map(formatNumber)];
  const times = formatTable(
    ["ms", "mean", "median", "std", "p90", "p99"],
    [
      row("TTFT", [m.mean_ttft_ms, m.median_ttft_ms, m.std_ttft_ms, m.p90_ttft_ms, m.p99_ttft_ms]),
      row("TPOT", [m.mean_tpot_ms, m.median_tpot_ms, m.std_tpot_ms, m.p90_tpot_ms, m.p99_tpot_ms]),
      row("ITL", [m.mean_itl_ms, m.median_itl_ms, m.std_itl_ms, m.p90_itl_ms, m.p99_itl_ms]),
      row("E2EL", [m.mean_e2el_ms, m.median_e2el_ms, m.std_e2el_ms, m.p90_e2el_ms, m.p99_e2el_ms]),
    ],
  );
  return `${totals}\n\n${times}\n\nWorkload ${workload.sha256.slice(0, 16)}, temperature ${result.temperature}.`;
}
