import { join } from "node:path";
import type { ChatCompletion } from "openai/resources/chat/completions";
import type { Completion } from "openai/resources/completions";
import { describe, expect, it, onTestFinished } from "vitest";
import { AsyncEngine } from "../../../runtime/async-engine.ts";
import { ChatTemplate } from "../../../runtime/chat/template.ts";
import type { ErrorBody } from "../../../runtime/server/error-body.ts";
import { createServer } from "../../../runtime/server/server.ts";
import type { ServerModel } from "../../../runtime/server/server-model.ts";
import { Tokenizer } from "../../../runtime/tokenizer/tokenizer.ts";
import { FakeDevice } from "../../support/fake-device.ts";
import { json, readEvents, until } from "./serve-fake.ts";

const folder = join(import.meta.dirname, "../../../models/pebble");

/** The sample model's tokenizer and template and the real engine loop; only the device is made up. */
async function serveEngine(stepMs = 0) {
  const tokenizer = await Tokenizer.load(folder);
  const template = (await ChatTemplate.load(folder))!;
  const during = () => (stepMs > 0 ? new Promise<void>((resolve) => setTimeout(resolve, stepMs)) : undefined);
  const device = new FakeDevice({ vocabSize: tokenizer.vocabSize, maxModelLen: 256, numBlocks: 64, blockSize: 16, during });
  const engine = new AsyncEngine(device, tokenizer, { eosTokenIds: [2], numLayers: 1 });
  const model: ServerModel = {
    modelName: "pebble",
    maxModelLen: engine.maxTotalTokens,
    tokenizer,
    defaultParams: { temperature: 0 },
    failure: undefined,
    renderChat: (request) => template.render(request),
    generate: (request) => engine.generate(request),
    stats: () => engine.stats(),
  };
  const server = createServer(model, { host: "127.0.0.1", port: 0, version: "0", drainTimeoutMs: 50 });
  const { url } = await server.listen();
  onTestFinished(async () => {
    await server.close();
    await engine.close();
  });
  const post = (path: string, body: object, init: RequestInit = {}) =>
    fetch(url + path, { method: "POST", body: JSON.stringify(body), ...init });
  return { engine, post };
}

const messages = [{ role: "user", content: "Tell me a story about a fox who lives under a hill and is often asleep." }];

describe("the server on the real engine loop", () => {
  it("streams what it gives whole, and finds the prompt in the prefix cache the second time", async () => {
    const { post } = await serveEngine();
    const body = { messages, max_tokens: 40, ignore_eos: true, logprobs: true, top_logprobs: 3 };
    const whole = await json<ChatCompletion>(post("/v1/chat/completions", body));
    const { message, logprobs, finish_reason } = whole.choices[0]!;
    expect(finish_reason).toBe("length");
    expect(whole.usage).toMatchObject({ completion_tokens: 40, prompt_tokens_details: { cached_tokens: 0 } });
    expect(logprobs!.content).toHaveLength(40);
    expect(logprobs!.content!.every((token) => token.top_logprobs[0]!.logprob === token.logprob)).toBe(true); // greedy

    const stream_options = { include_usage: true };
    const events = (await readEvents(await post("/v1/chat/completions", { ...body, stream: true, stream_options }))) as {
      choices: { delta: { content?: string } }[];
      usage: { prompt_tokens_details: { cached_tokens: number } } | null;
    }[];
    const text = events.map((event) => event.choices?.[0]?.delta.content ?? "").join("");
    expect(text).toBe(message.content);
    expect(events.at(-2)!.usage!.prompt_tokens_details.cached_tokens).toBe(16);
  });

  it("gives each token's bytes: together they are the text", async () => {
    const { post } = await serveEngine();
    const body = { prompt: "Once upon a time", max_tokens: 60, ignore_eos: true, logprobs: 1, skip_special_tokens: false };
    const { choices } = await json<Completion>(post("/v1/completions", body));
    const { tokens, text_offset } = choices[0]!.logprobs!;
    expect(tokens).toHaveLength(60);
    const points = [...choices[0]!.text];
    for (const [i, token] of tokens!.entries()) {
      if (token.startsWith("bytes:")) continue;
      expect(points.slice(text_offset![i], text_offset![i]! + [...token].length).join("")).toBe(token);
    }
  });

  it("gives the same text for the same seed, whoever else is there", async () => {
    const { post } = await serveEngine();
    const ask = async (seed: number) => {
      const body = { messages, max_tokens: 20, temperature: 1, seed, n: 2 };
      return (await json<ChatCompletion>(post("/v1/chat/completions", body))).choices.map((choice) => choice.message.content);
    };
    const alone = await ask(7);
    const together = await Promise.all([1, 7, 3, 7, 5].map(ask));
    expect(together[1]).toEqual(alone);
    expect(together[3]).toEqual(alone);
    expect(together[0]).not.toEqual(alone);
  });

  it("refuses what does not fit, in the words of the API and with the numbers", async () => {
    const { post } = await serveEngine();
    const refusal = async (path: string, body: object) => (await json<ErrorBody>(post(path, body))).error;
    expect(await refusal("/v1/chat/completions", { messages, max_completion_tokens: 1000 })).toMatchObject({
      message: expect.stringMatching(
        /^the prompt of \d+ tokens and max_completion_tokens 1000 make \d+, more than the context of 256 tokens/,
      ),
      param: "max_completion_tokens",
      code: "context_length_exceeded",
    });
    const long = [{ role: "user", content: "fox ".repeat(400) }];
    expect(await refusal("/v1/chat/completions", { messages: long, stream: true })).toMatchObject({
      message: expect.stringMatching(/^the prompt of \d+ tokens does not fit in the context of 256 tokens/),
      param: "messages",
    });
    expect(await refusal("/v1/completions", { prompt: [5, 99_999] })).toMatchObject({ param: "prompt" });
    expect(await refusal("/v1/completions", { prompt: "a", stop_token_ids: [99_999] })).toMatchObject({
      param: "stop_token_ids",
    });
  });

  it("ends a request in the engine when its client goes away", async () => {
    const { post, engine } = await serveEngine(5);
    const controller = new AbortController();
    const request = post("/v1/chat/completions", { messages, ignore_eos: true }, { signal: controller.signal });
    request.catch(() => {});
    await until(() => engine.stats().numRunning === 1, "it runs");
    controller.abort();
    await until(() => engine.stats().numRunning === 0, "it has ended");
    engine.checkIntegrity();
  });
});
