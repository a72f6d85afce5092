import { describe, expect, it } from "vitest";
import type { ErrorBody } from "../../../runtime/server/error-body.ts";
import { hello, json, serveFake } from "./serve-fake.ts";

const CHAT = "/v1/chat/completions";
const COMPLETIONS = "/v1/completions";
const prompt = { prompt: "hi" };
const user = (content: unknown) => ({ messages: [{ role: "user", content }] });

/** path, body, param, and what the message says. */
const REFUSED: readonly [path: string, body: object, param: string | null, message: RegExp][] = [
  // unknown
  [CHAT, { ...hello, max_token: 5 }, "max_token", /max_token is not a field of this request; did you mean max_tokens\?/],
  [CHAT, { ...hello, frobnicate: 1 }, "frobnicate", /frobnicate is not a field of this request$/],
  [CHAT, JSON.parse('{"messages":[],"__proto__":1}'), "__proto__", /__proto__ is not a field/],
  [CHAT, { messages: [{ role: "user", content: "x", mood: 1 }] }, "messages[0].mood", /messages\[0\]\.mood is not a field/],
  [CHAT, { ...hello, stream: true, stream_options: { usage: true } }, "stream_options.usage", /not a field/],
  // known, not supported
  [
    CHAT,
    { ...hello, tools: [{ type: "function" }] },
    "tools",
    /tools is not supported yet \(got .*\); leave it out or send \[\]/,
  ],
  [CHAT, { ...hello, tool_choice: "required" }, "tool_choice", /not supported yet/],
  [CHAT, { ...hello, functions: [{}] }, "functions", /not supported yet/],
  [CHAT, { ...hello, response_format: { type: "json_object" } }, "response_format", /not supported yet/],
  [CHAT, { ...hello, modalities: ["audio"] }, "modalities", /not supported yet/],
  [CHAT, { ...hello, audio: { voice: "x" } }, "audio", /not supported yet.*leave it out$/],
  [CHAT, { ...hello, store: true }, "store", /not supported yet/],
  [CHAT, { ...hello, reasoning_effort: "high" }, "reasoning_effort", /not supported yet/],
  [CHAT, { ...hello, structured_outputs: { regex: "a" } }, "structured_outputs", /not supported yet/],
  [COMPLETIONS, { ...prompt, echo: true }, "echo", /not supported yet/],
  [COMPLETIONS, { ...prompt, suffix: "x" }, "suffix", /not supported yet/],
  [COMPLETIONS, { ...prompt, best_of: 3 }, "best_of", /not supported yet/],
  [COMPLETIONS, { ...prompt, prompt_logprobs: 1 }, "prompt_logprobs", /not supported yet/],
  [
    CHAT,
    user([{ type: "image_url", image_url: { url: "x" } }]),
    "messages[0].content[0].type",
    /must be "text" \(images, audio and files are not supported\), got "image_url"/,
  ],
  [CHAT, { messages: [{ role: "tool", content: "x" }] }, "messages[0].role", /must be one of "system".*got "tool"/],
  [
    CHAT,
    { messages: [{ role: "assistant", content: "", tool_calls: [{}] }] },
    "messages[0].tool_calls",
    /an empty list \(tool calls are not supported yet\)/,
  ],
  // missing
  [CHAT, {}, "messages", /messages is missing; expected a list/],
  [CHAT, { messages: [] }, "messages", /messages must be not empty, got \[\]/],
  [
    CHAT,
    { messages: [{ role: "user" }] },
    "messages[0].content",
    /messages\[0\]\.content is missing; expected a string or a list/,
  ],
  [COMPLETIONS, {}, "prompt", /prompt is missing; expected a string, a list of token ids, or a list/],
  // wrong type
  [CHAT, { ...hello, temperature: "hot" }, "temperature", /temperature must be a number, got "hot"/],
  [CHAT, { ...hello, max_tokens: 1.5 }, "max_tokens", /max_tokens must be a whole number, got 1.5/],
  [CHAT, { ...hello, stream: "yes" }, "stream", /stream must be true or false, got "yes"/],
  [CHAT, { ...hello, stop: [1] }, "stop[0]", /stop\[0\] must be a string, got 1/],
  [CHAT, { ...hello, logit_bias: { "5": "x" } }, "logit_bias.5", /must be a number/],
  [CHAT, { ...hello, logprobs: 3 }, "logprobs", /logprobs must be true or false, got 3/],
  [CHAT, { messages: "hi" }, "messages", /messages must be a list, got "hi"/],
  [CHAT, user(5), "messages[0].content", /must be a string or a list, got 5/],
  [COMPLETIONS, { prompt: ["a", 1] }, "prompt", /prompt must be a string, .* got \["a",1\]/],
  [COMPLETIONS, { prompt: [] }, "prompt", /got \[\]/],
  [COMPLETIONS, { ...prompt, logprobs: true }, "logprobs", /logprobs must be a whole number, got true/],
  ["/tokenize", { prompt: 3 }, "prompt", /prompt must be a string, got 3/],
  ["/detokenize", { tokens: ["a"] }, "tokens[0]", /tokens\[0\] must be a whole number/],
  ["/detokenize", { tokens: [99_999] }, "tokens[0]", /99999, which is not an id of this vocabulary/],
  // out of range, in the words of the API
  [CHAT, { ...hello, temperature: -1 }, "temperature", /temperature must be a number of at least 0 .*got -1/],
  [CHAT, { ...hello, top_p: 0 }, "top_p", /^top_p must be a number above 0/],
  [CHAT, { ...hello, n: 0 }, "n", /n must be a whole number from 1/],
  [CHAT, { ...hello, max_completion_tokens: 0 }, "max_completion_tokens", /^max_completion_tokens must be/],
  [CHAT, { ...hello, min_tokens: 9, max_tokens: 3 }, "min_tokens", /^min_tokens must be at most max_tokens \(3\), got 9/],
  [CHAT, { ...hello, logprobs: true, top_logprobs: 21 }, "top_logprobs", /^top_logprobs must be/],
  [COMPLETIONS, { ...prompt, logprobs: 21 }, "logprobs", /^logprobs must be/],
  [CHAT, { ...hello, stop: "" }, "stop", /stop must be/],
  [CHAT, { ...hello, logit_bias: { x: 1 } }, "logit_bias", /logit_bias must be/],
  // do not go together
  [CHAT, { ...hello, top_logprobs: 3 }, "top_logprobs", /top_logprobs needs logprobs: true/],
  [CHAT, { ...hello, stream_options: { include_usage: true } }, "stream_options", /stream_options needs stream: true/],
  [CHAT, { ...hello, max_tokens: 3, max_completion_tokens: 4 }, "max_tokens", /say different things/],
  [CHAT, { ...hello, chat_template_kwargs: { messages: [] } }, "chat_template_kwargs.messages", /set by the request itself/],
  // refused further down
  [CHAT, user("refuse me"), "messages", /the chat template refused the messages/],
  [
    COMPLETIONS,
    { ...prompt, max_tokens: 600 },
    "max_tokens",
    /the prompt of 2 tokens and max_tokens 600 make 602, more than 512/,
  ],
  [CHAT, { ...hello, stream: true, max_tokens: 600 }, "max_tokens", /^the prompt of 7 tokens and max_tokens 600 make/],
  [COMPLETIONS, { prompt: Array.from({ length: 100 }, () => "a"), n: 100 }, "n", /100 prompts with n 100 make 10000 choices/],
];

describe("a request is refused with a 400 that names the field", () => {
  it.each(REFUSED)("%s %j", async (path, body, param, message) => {
    const { post, errors } = await serveFake();
    const response = await post(path, body);
    const { error } = await json<ErrorBody>(response);
    expect(error.message).toMatch(message);
    expect(error).toEqual({ message: expect.any(String), type: "invalid_request_error", param, code: expect.any(String) });
    expect(response.status).toBe(400);
    expect(errors).toEqual([]);
  });

  it("also when it is far too long, without being read to its end", async () => {
    const { post } = await serveFake();
    const long = "a b ".repeat(6000);
    const messages = Array.from({ length: 16_385 }, () => ({}));
    for (const [path, body, param, message] of [
      [COMPLETIONS, { prompt: long }, "prompt", /^the text of 24000 characters has more than 2048 tokens/],
      [CHAT, user(long), "messages", /has more than 2048 tokens/],
      [CHAT, { messages }, "messages", /^messages must be at most 16384 messages/],
    ] as const) {
      const response = await post(path, body);
      const { error } = await json<ErrorBody>(response);
      expect([response.status, error.param]).toEqual([400, param]);
      expect(error.message).toMatch(message);
    }
  });

  it("is not refused for values that change nothing", async () => {
    const { post } = await serveFake();
    const neutral = {
      tools: [],
      tool_choice: "none",
      parallel_tool_calls: true,
      functions: null,
      response_format: { type: "text" },
      modalities: ["text"],
      store: false,
      metadata: null,
      service_tier: "auto",
      best_of: 1,
      echo: false,
      audio: null,
      reasoning_effort: null,
    };
    expect((await post(CHAT, { ...hello, ...neutral })).status).toBe(200);
  });
});

describe("what is not even a request", () => {
  it.each([
    ["no body", "", /the body is empty/],
    ["no JSON", "{nope", /not valid JSON: /],
    ["a list", "[1]", /must be a JSON object, got a list/],
    ["null", "null", /must be a JSON object, got null/],
    ["deep nesting", `{"a":${"[".repeat(200_000)}`, /not valid JSON/],
    ["deep and valid nesting", `{"tools":${"[".repeat(200_000)}${"]".repeat(200_000)}}`, /nested deeper than 100 levels/],
  ])("%s is a 400", async (_, body, message) => {
    const { post } = await serveFake();
    const response = await post(CHAT, body);
    expect(response.status).toBe(400);
    expect((await json<ErrorBody>(response)).error.message).toMatch(message);
  });

  it("broken UTF-8 is a 400", async () => {
    const { url } = await serveFake();
    const response = await fetch(url + CHAT, { method: "POST", body: Buffer.from([0x7b, 0xff, 0x7d]) });
    expect((await json<ErrorBody>(response)).error.message).toMatch(/not valid UTF-8/);
  });

  it.each([2_000, 1_000_000])("a body of %i bytes over a limit of 1000 is a 413", async (size) => {
    const { post } = await serveFake({}, { maxBodyBytes: 1000 });
    const response = await post(CHAT, { ...hello, user: "x".repeat(size) });
    expect(response.status).toBe(413);
    expect((await json<ErrorBody>(response)).error).toMatchObject({
      code: "request_too_large",
      message: expect.stringContaining("1000 bytes"),
    });
  });

  it("a body over 1 MiB and 64 bytes a token of the context is a 413", async () => {
    const { post } = await serveFake();
    expect((await post(CHAT, { ...hello, user: "x".repeat(2 ** 20) })).status).toBe(200);
    expect((await post(CHAT, { ...hello, user: "x".repeat(2 ** 20 + 64 * 512) })).status).toBe(413);
  });

  it("another model is a 404 that names the one there is", async () => {
    const { post, url } = await serveFake({}, { servedModelName: "org/my-model" });
    for (const response of [await post(CHAT, { ...hello, model: "gpt-4" }), await fetch(`${url}/v1/models/gpt-4`)]) {
      expect(response.status).toBe(404);
      expect((await json<ErrorBody>(response)).error).toMatchObject({
        message: 'the model "gpt-4" does not exist here; this server has "org/my-model"',
        param: "model",
        code: "model_not_found",
      });
    }
    expect((await post(CHAT, { ...hello, model: "org/my-model" })).status).toBe(200);
  });

  it("an unknown path is a 404, a wrong method a 405 with Allow", async () => {
    const { url } = await serveFake();
    const unknown = await fetch(`${url}/v1/embeddings`, { method: "POST", body: "{}" });
    expect(unknown.status).toBe(404);
    expect((await json<ErrorBody>(unknown)).error).toMatchObject({
      code: "unknown_url",
      message: expect.stringContaining("/v1/embeddings"),
    });
    const wrong = await fetch(url + CHAT);
    expect([wrong.status, wrong.headers.get("allow")]).toEqual([405, "POST"]);
    expect((await fetch(`${url}/health`, { method: "DELETE" })).headers.get("allow")).toBe("GET, HEAD");
    expect((await fetch(`${url}/%`)).status).toBe(404);
  });
});
