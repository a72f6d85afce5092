import type { ChatCompletion } from "openai/resources/chat/completions";
import { describe, expect, it } from "vitest";
import { hello, json, serveFake } from "./serve-fake.ts";

describe("models", () => {
  it("are the one that is served", async () => {
    const { url } = await serveFake({}, { servedModelName: "org/name" });
    const card = {
      id: "org/name",
      object: "model",
      created: expect.any(Number),
      owned_by: "ingot",
      root: "fake",
      parent: null,
      max_model_len: 512,
    };
    expect(await (await fetch(`${url}/v1/models`)).json()).toEqual({ object: "list", data: [card] });
    expect(await (await fetch(`${url}/v1/models/org/name`)).json()).toEqual(card);
    expect(await (await fetch(`${url}/v1/models/org%2Fname`)).json()).toEqual(card);
  });
});

describe("tokenize and detokenize", () => {
  it("are inverse, in vLLM's shapes", async () => {
    const { post } = await serveFake();
    const tokenized = await json<{ tokens: number[] }>(post("/tokenize", { prompt: "one é", return_token_strs: true }));
    expect(tokenized).toEqual({
      count: 5,
      max_model_len: 512,
      tokens: [256, 257, 258, 0xc3, 0xa9],
      token_strs: ["<|end|>", "one", " ", "<0xC3>", "<0xA9>"],
    });
    expect(await (await post("/detokenize", { tokens: tokenized.tokens })).json()).toEqual({ prompt: "<|end|>one é" });
    const plain = await (await post("/tokenize", { prompt: "one", add_special_tokens: false })).json();
    expect(plain).toMatchObject({ count: 1, token_strs: null });
  });

  it("count a conversation as the chat route does", async () => {
    const { post } = await serveFake();
    const { count } = await json<{ count: number }>(post("/tokenize", hello));
    const { usage } = await json<ChatCompletion>(post("/v1/chat/completions", hello));
    expect(count).toBe(usage?.prompt_tokens);
  });
});

describe("health and version", () => {
  it("answer, also to HEAD", async () => {
    const { url } = await serveFake();
    expect(await (await fetch(`${url}/version`)).json()).toEqual({ version: "1.2.3" });
    expect(await (await fetch(`${url}/health`)).json()).toEqual({ status: "ok" });
    const head = await fetch(`${url}/health`, { method: "HEAD" });
    expect([head.status, await head.text()]).toEqual([200, ""]);
  });
});

describe("health", () => {
  it("is 503 after the engine has stopped, and stays 200 when one request fails", async () => {
    const broken = await serveFake({ failAfter: 1 });
    expect((await broken.post("/v1/chat/completions", hello)).status).toBe(500);
    expect((await fetch(`${broken.url}/health`)).status).toBe(503);
    const whole = await serveFake({ failRequestAfter: 1 });
    expect((await whole.post("/v1/chat/completions", hello)).status).toBe(500);
    expect((await fetch(`${whole.url}/health`)).status).toBe(200);
  });
});

describe("metrics", () => {
  it("have vLLM's names, the engine's counters and the requests' timings", async () => {
    const { url, post } = await serveFake({ reply: () => "one two three", delayMs: 2 });
    await post("/v1/chat/completions", { ...hello, n: 2, max_tokens: 10 });
    await post("/v1/completions", { prompt: "a b", max_tokens: 2 });
    const response = await fetch(`${url}/metrics`);
    expect(response.headers.get("content-type")).toMatch(/^text\/plain; version=0\.0\.4/);
    const values = new Map(
      (await response.text())
        .split("\n")
        .filter((line) => line !== "" && !line.startsWith("#"))
        .map((line) => [line.slice(0, line.lastIndexOf(" ")), Number(line.slice(line.lastIndexOf(" ") + 1))]),
    );
    const value = (name: string, label = "") => values.get(`vllm:${name}{${label}model_name="fake",engine="0"}`);
    expect(value("num_requests_running")).toBe(0);
    expect(value("num_requests_waiting")).toBe(0);
    expect(value("kv_cache_usage_perc")).toBe(0.25);
    expect(value("prefix_cache_queries_total")).toBe(100);
    expect(value("prefix_cache_hits_total")).toBe(40);
    expect(value("num_preemptions_total")).toBe(3);
    expect(value("prompt_tokens_total")).toBe(10);
    expect(value("generation_tokens_total")).toBe(10);
    expect(values.get('vllm:request_success_total{model_name="fake",engine="0",finished_reason="stop"}')).toBe(2);
    expect(values.get('vllm:request_success_total{model_name="fake",engine="0",finished_reason="length"}')).toBe(1);
    expect(values.get('vllm:request_success_total{model_name="fake",engine="0",finished_reason="abort"}')).toBe(0);
    expect(value("time_to_first_token_seconds_count")).toBe(3);
    expect(value("inter_token_latency_seconds_count")).toBe(7);
    expect(value("time_per_output_token_seconds_count")).toBe(7);
    expect(value("request_time_per_output_token_seconds_count")).toBe(3);
    expect(value("e2e_request_latency_seconds_count")).toBe(3);
    expect(["queue", "prefill", "decode", "inference"].map((p) => value(`request_${p}_time_seconds_count`))).toEqual([
      3, 3, 3, 3,
    ]);
    expect(value("request_decode_time_seconds_sum")).toBeGreaterThan(0.007);
    expect(value("request_inference_time_seconds_sum")).toBeCloseTo(
      value("request_prefill_time_seconds_sum")! + value("request_decode_time_seconds_sum")!,
      9,
    );
    expect(value("request_prompt_tokens_sum")).toBe(10);
    expect(value("request_generation_tokens_sum")).toBe(10);
    expect(value("inter_token_latency_seconds_sum")).toBeGreaterThan(0.007);
    expect(value("time_to_first_token_seconds_bucket", 'le="+Inf",')).toBe(3);
  });
});
