import { describe, expect, it } from "vitest";
import { AsyncEngine } from "../../../runtime/async-engine.ts";
import { type LatencyOptions, runLatency } from "../../../runtime/bench/latency.ts";
import { formatLatency, formatNumber, formatThroughput } from "../../../runtime/bench/report.ts";
import { median, percentile, summarize } from "../../../runtime/bench/statistics.ts";
import { runThroughput, vllmMetrics } from "../../../runtime/bench/throughput.ts";
import { fixedWorkload } from "../../../runtime/bench/workload.ts";
import { FakeDevice, fakeTokenizer } from "../../support/fake-device.ts";
import { LockstepEngine } from "./lockstep-engine.ts";

describe("statistics", () => {
  it("interpolates percentiles as numpy does", () => {
    // np.percentile([15, 20, 35, 40, 50], [0, 25, 40, 75, 90, 99, 100])
    const values = [40, 15, 50, 20, 35];
    const expected = [15, 20, 29, 40, 46, 49.6, 50];
    for (const [i, p] of [0, 25, 40, 75, 90, 99, 100].entries()) expect(percentile(values, p)).toBeCloseTo(expected[i] ?? 0, 12);
    expect(median([1, 2, 3, 10])).toBe(2.5);
    expect(values).toEqual([40, 15, 50, 20, 35]);
  });

  it("summarizes with the population's deviation", () => {
    expect(summarize([2, 4, 4, 4, 5, 5, 7, 9])).toMatchObject({
      count: 8,
      mean: 5,
      std: 2,
      min: 2,
      median: 4.5,
      q3: 5.5,
      max: 9,
    });
  });

  it("refuses an empty sample", () => {
    expect(() => median([])).toThrow(/percentile 50 of 0 values/);
  });
});

describe("latency", () => {
  const options: LatencyOptions = {
    promptTokens: 512,
    depths: [32, 2048],
    outputTokens: 9,
    warmup: 1,
    repeats: 3,
    maxTokenId: 1000,
    seed: 0,
    costs: { weightBytesPerStep: 1_000_000_000, kvBytesPerToken: 100_000, readBandwidthGBs: 100 },
  };
  // 2 ms for each prompt token, 40 ms for a decode step, of which 1 ms is the host's.
  const newEngine = (more: { cachedTokens?: number; maxModelTokens?: number } = {}) =>
    new LockstepEngine({ hostMs: 1, deviceMs: (prompt) => (prompt > 0 ? 2 * prompt - 1 : 39), ...more });

  it("tells prefill from decode", async () => {
    const engine = newEngine();
    const { prefill, decode } = await runLatency(engine, options, engine.clock);
    expect(prefill.ttftMs).toMatchObject({ count: 3, median: 1024, std: 0 });
    expect(prefill.tokensPerSecond.median).toBe(500);
    expect(decode.map((d) => [d.depth, d.tokensPerSecond.median, d.tokenMs.median, d.tokenMs.count])).toEqual([
      [32, 25, 40, 24],
      [2048, 25, 40, 24],
    ]);
  });

  it("states decode in bytes a second, the KV of the mean context included", async () => {
    const engine = newEngine();
    const { decode } = await runLatency(engine, options, engine.clock);
    // Steps read contexts of depth + 1 … depth + 8.
    const mean = (1 + 8) / 2;
    expect(decode[0]?.bytesPerStep).toBe(1e9 + 1e5 * (32 + mean));
    expect(decode[1]?.effectiveGBs).toBeCloseTo(((1e9 + 1e5 * (2048 + mean)) * 25) / 1e9, 12);
    expect(decode[1]?.bandwidthShare).toBeCloseTo((decode[1]?.effectiveGBs ?? 0) / 100, 12);
  });

  it("never sends a prefill prompt twice, sends greedy requests that ignore EOS, and reports each run", async () => {
    const engine = newEngine();
    const seen: string[] = [];
    await runLatency(engine, options, engine.clock, (done, total) => seen.push(`${done}/${total}`));
    const prefills = engine.requests.filter((r) => r.params.maxTokens === 1);
    expect(new Set(prefills.map((r) => r.promptTokenIds.join())).size).toBe(4);
    expect(engine.requests.every((r) => r.params.ignoreEos && r.params.temperature === 0)).toBe(true);
    expect([seen.length, seen[0], seen.at(-1)]).toEqual([12, "1/12", "12/12"]);
  });

  it("refuses to time a prompt that the prefix cache held", async () => {
    const engine = newEngine({ cachedTokens: 496 });
    await expect(runLatency(engine, options, engine.clock)).rejects.toThrow(/496 of 512 prompt tokens were in the prefix cache/);
  });

  it("refuses to count a request that ended early", async () => {
    const engine = newEngine({ maxModelTokens: 4 });
    await expect(runLatency(engine, options, engine.clock)).rejects.toThrow(/gave 4 output tokens, expected 9/);
  });

  it("prints one row for each depth with its share of the bandwidth", async () => {
    const engine = newEngine();
    const text = formatLatency(await runLatency(engine, options, engine.clock));
    expect(text).toMatch(/^512 tokens\s+500\s+500-500\s+1024\s+1024$/m);
    expect(text).toMatch(/^9 tokens at depth 2048\s+25\.0 .* 30\.1\s+30 %$/m);
  });
});

describe("throughput", () => {
  const newEngine = (more: { maxModelTokens?: number } = {}) =>
    new LockstepEngine({ hostMs: 0.25, deviceMs: () => 9.75, ...more });
  const requests = fixedWorkload({ numSeqs: 6, inputTokens: 10, outputTokens: 5, maxTokenId: 100, seed: 0 });

  it("counts tokens over the wall time of all requests, warm-up excluded", async () => {
    const engine = newEngine();
    const { metrics, engine: account } = await runThroughput(
      engine,
      requests,
      { concurrency: null, temperature: 0.6 },
      engine.clock,
    );
    expect(metrics).toMatchObject({ completed: 6, total_input_tokens: 60, total_output_tokens: 30, max_concurrency: null });
    expect(metrics.duration).toBeCloseTo(0.05, 12);
    expect(metrics.output_throughput).toBeCloseTo(600, 9);
    expect(metrics.total_token_throughput).toBeCloseTo(1800, 9);
    expect(metrics).toMatchObject({ mean_ttft_ms: 10, p99_tpot_ms: 10, median_itl_ms: 10, std_itl_ms: 0, median_e2el_ms: 50 });
    expect(account).toMatchObject({ steps: 5, hostMsPerStep: 0.25, deviceMsPerStep: 9.75, otherMsPerStep: 0 });
  });

  it("keeps no more requests in flight than asked", async () => {
    const engine = newEngine();
    const { metrics, engine: account } = await runThroughput(engine, requests, { concurrency: 2, temperature: 0 }, engine.clock);
    expect(account.steps).toBe(15);
    expect(metrics.output_throughput).toBeCloseTo(200, 9);
  });

  it("aborts the others when one request ends early", async () => {
    const engine = newEngine({ maxModelTokens: 3 });
    const uneven = requests.map((r, i) => ({ ...r, outputTokens: i === 0 ? 4 : 3 }));
    const more = [...uneven, ...fixedWorkload({ numSeqs: 4, inputTokens: 10, outputTokens: 3, maxTokenId: 100, seed: 1 })];
    const run = runThroughput(engine, more, { concurrency: 2, temperature: 0 }, engine.clock);
    await expect(run).rejects.toThrow(/bench-0 .* gave 3 output tokens, expected 4/);
    expect(engine.requests.filter((r) => !r.requestId.startsWith("bench-warmup")).length).toBeLessThan(more.length);
    expect(engine.aborted).toBe(1);
  });

  it("aborts the others when one request of the warm-up ends early", async () => {
    const engine = newEngine({ maxModelTokens: 1 });
    const run = runThroughput(engine, requests, { concurrency: 3, temperature: 0 }, engine.clock);
    await expect(run).rejects.toThrow(/bench-warmup .* gave 1 output tokens, expected 2/);
    expect(engine.requests).toHaveLength(3);
  });

  it("defines TPOT and ITL as vLLM does", () => {
    // Two deltas, the second of three tokens: ITL counts gaps between deltas, TPOT divides by tokens.
    const timing = { promptTokens: 7, cachedTokens: 0, startMs: 100, tokenMs: [110, 140, 140, 140], deltaMs: [110, 140] };
    const single = { promptTokens: 7, cachedTokens: 0, startMs: 100, tokenMs: [120], deltaMs: [120] };
    const metrics = vllmMetrics([timing, single], 50, null);
    expect(metrics).toMatchObject({
      mean_ttft_ms: 15,
      mean_tpot_ms: 10,
      mean_itl_ms: 30,
      mean_e2el_ms: 30,
      request_throughput: 40,
    });
  });

  it("drives the engine loop itself: every token arrives, its own counters account for the steps", async () => {
    const device = new FakeDevice({ maxNumSeqs: 4 });
    const engine = new AsyncEngine(device, fakeTokenizer(), { eosTokenIds: [0], numLayers: 2 });
    const work = fixedWorkload({ numSeqs: 8, inputTokens: 12, outputTokens: 6, maxTokenId: 63, seed: 0 });
    let now = 0;
    const options = { concurrency: null, temperature: 0.6 };
    const { metrics, engine: account } = await runThroughput(engine, work, options, () => now++);
    expect(metrics).toMatchObject({ completed: 8, total_input_tokens: 96, total_output_tokens: 48 });
    expect(account.steps).toBe(12); // four at a time, six steps each
    expect(device.steps).toBeGreaterThan(12); // and the warm-up's
    expect(account.hostMsPerStep).toBeGreaterThan(0);
    expect(metrics.median_e2el_ms).toBeGreaterThan(metrics.median_ttft_ms);
    await engine.close();
  });

  it("prints totals and percentiles", async () => {
    const engine = newEngine();
    const text = formatThroughput(await runThroughput(engine, requests, { concurrency: null, temperature: 0 }, engine.clock));
    expect(text).toMatch(/^output tok\/s\s+600$/m);
    expect(text).toMatch(/^host ms\/step\s+0\.250$/m);
    expect(text).toMatch(/^TPOT\s+10\.0\s+10\.0\s+0(\.00)?\s+10\.0\s+10\.0$/m);
  });
});

describe("formatNumber", () => {
  it("keeps three significant digits without an exponent", () => {
    expect([0.01234, 0.5, 4.567, 78.94, 1234.5, 123456, 0].map(formatNumber)).toEqual([
      "0.0123",
      "0.500",
      "4.57",
      "78.9",
      "1235",
      "123456",
      "0.00",
    ]);
  });
});
