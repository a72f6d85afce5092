import type { ChatCompletion } from "openai/resources/chat/completions";
import { describe, expect, it } from "vitest";
import { hello, json, readEvents, serveFake } from "./serve-fake.ts";

const PATH = "/v1/chat/completions";

describe("a whole chat completion", () => {
  it("has OpenAI's shape, with usage and cached tokens", async () => {
    const { post } = await serveFake();
    const response = await post(PATH, hello, { headers: { "X-Request-Id": "abc-1" } });
    expect(response.status).toBe(200);
    expect(response.headers.get("x-request-id")).toBe("abc-1");
    const body = await response.json();
    expect(body).toEqual({
      id: "chatcmpl-abc-1",
      object: "chat.completion",
      created: expect.closeTo(Date.now() / 1000, -1),
      model: "fake",
      system_fingerprint: "ingot-1.2.3",
      choices: [
        {
          index: 0,
          message: { role: "assistant", content: "You said: hello there", refusal: null },
          logprobs: null,
          finish_reason: "stop",
          stop_reason: null,
        },
      ],
      usage: { prompt_tokens: 7, completion_tokens: 6, total_tokens: 13, prompt_tokens_details: { cached_tokens: 3 } },
    });
  });

  it("gives n choices", async () => {
    const { post } = await serveFake({ reply: (_, index) => `answer ${index}` });
    const { choices, usage } = await json<ChatCompletion>(post(PATH, { ...hello, n: 3 }));
    expect(choices.map((choice) => [choice.index, choice.message.content])).toEqual([
      [0, "answer 0"],
      [1, "answer 1"],
      [2, "answer 2"],
    ]);
    expect(usage?.completion_tokens).toBe(9);
  });

  it("gives logprobs with the bytes of each token, also of a part of a character", async () => {
    const { post } = await serveFake({ reply: () => "Hi é" });
    const { choices } = await json<ChatCompletion>(post(PATH, { ...hello, logprobs: true, top_logprobs: 20 }));
    const { content, refusal } = choices[0]!.logprobs!;
    expect(refusal).toBeNull();
    expect(choices[0]!.message.content).toBe("Hi é");
    expect(content!.map((token) => [token.token, token.bytes])).toEqual([
      ["Hi", [72, 105]],
      [" ", [32]],
      ["\\xc3", [0xc3]],
      ["\\xa9", [0xa9]],
    ]);
    expect(content![0]!.logprob).toBe(-0.25);
    expect(content![0]!.top_logprobs).toHaveLength(20);
    expect(content![0]!.top_logprobs[0]).toEqual({ token: "Hi", logprob: -0.25, bytes: [72, 105] });
    expect(content![0]!.top_logprobs[19]!.logprob).toBe(-9999); // −∞ in JSON
  });

  it("gives only the sampled token's logprob without top_logprobs", async () => {
    const { post, llm } = await serveFake();
    const { choices } = await json<ChatCompletion>(post(PATH, { ...hello, logprobs: true }));
    expect(choices[0]!.logprobs!.content![0]).toMatchObject({ token: "You", top_logprobs: [] });
    expect(llm.requests[0]!.params.logprobs).toBe(0);
  });

  it("ends at a stop string and says which", async () => {
    const { post } = await serveFake();
    const { choices } = await json<ChatCompletion>(post(PATH, { ...hello, stop: [" hello"] }));
    expect(choices[0]).toMatchObject({ message: { content: "You said:" }, finish_reason: "stop", stop_reason: " hello" });
  });

  it("hands every parameter to the engine", async () => {
    const { post, llm } = await serveFake({ defaultParams: { temperature: 0.7, topP: 0.9 } });
    await post(PATH, {
      ...hello,
      model: "fake",
      n: 2,
      stop: "x",
      seed: 7,
      max_completion_tokens: 5,
      min_tokens: 1,
      temperature: 0,
      top_k: -1,
      min_p: 0.1,
      presence_penalty: 0.5,
      frequency_penalty: -0.5,
      repetition_penalty: 1.1,
      logit_bias: { "42": -100 },
      stop_token_ids: [3],
      ignore_eos: true,
      skip_special_tokens: false,
      include_stop_str_in_output: true,
      user: "someone",
      cache_salt: "salt",
    });
    expect(llm.requests[0]).toMatchObject({
      cacheSalt: "salt",
      params: {
        n: 2,
        stop: ["x"],
        seed: 7,
        maxTokens: 5,
        minTokens: 1,
        temperature: 0,
        topK: 0,
        topP: 0.9, // the model's own default
        minP: 0.1,
        presencePenalty: 0.5,
        frequencyPenalty: -0.5,
        repetitionPenalty: 1.1,
        logitBias: { "42": -100 },
        stopTokenIds: [3],
        ignoreEos: true,
        skipSpecialTokens: false,
        includeStopStrInOutput: true,
      },
    });
  });

  it("takes the model's defaults where the client says nothing, null included", async () => {
    const { post, llm } = await serveFake({ defaultParams: { temperature: 0.7 } });
    expect((await post(PATH, { ...hello, temperature: null, stop: null, max_tokens: null })).status).toBe(200);
    expect(llm.requests[0]!.params).toMatchObject({ temperature: 0.7, maxTokens: null, stop: [] });
  });

  it("joins text parts, knows the developer role, and takes back an answer as it came", async () => {
    const { post, llm } = await serveFake();
    const parts = [
      { type: "text", text: "hel" },
      { type: "text", text: "lo" },
    ];
    const first = await json<ChatCompletion>(post(PATH, hello));
    const messages = [
      { role: "developer", content: "be brief" },
      { role: "user", content: parts, name: "ann" },
      { ...first.choices[0]!.message, tool_calls: [], annotations: [], audio: null },
      { role: "user", content: "and?" },
    ];
    const chat_template_kwargs = { enable_thinking: false };
    expect((await post(PATH, { messages, add_generation_prompt: false, chat_template_kwargs })).status).toBe(200);
    expect(llm.rendered[1]).toEqual({
      messages: [
        { role: "system", content: "be brief" },
        { role: "user", content: "hello", name: "ann" },
        { role: "assistant", content: "You said: hello there" },
        { role: "user", content: "and?" },
      ],
      addGenerationPrompt: false,
      templateKwargs: { enable_thinking: false },
    });
  });
});

describe("a streamed chat completion", () => {
  it("begins with the role, goes on with content, ends with a reason and [DONE]", async () => {
    const { post } = await serveFake({ reply: () => "one two" });
    const response = await post(PATH, { ...hello, stream: true }, { headers: { "X-Request-Id": "s" } });
    expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    const events = await readEvents(response);
    const chunk = (delta: object, end: object = { finish_reason: null }) => ({
      id: "chatcmpl-s",
      object: "chat.completion.chunk",
      created: expect.any(Number),
      model: "fake",
      system_fingerprint: "ingot-1.2.3",
      choices: [{ index: 0, delta, logprobs: null, ...end }],
    });
    expect(events).toEqual([
      chunk({ role: "assistant", content: "" }),
      chunk({ content: "one" }),
      chunk({ content: " two" }),
      chunk({}, { finish_reason: "stop", stop_reason: null }),
      "[DONE]",
    ]);
  });

  it("reports usage in a last chunk when asked, and null before it", async () => {
    const { post } = await serveFake({ reply: () => "one two" });
    const events = (await readEvents(await post(PATH, { ...hello, stream: true, stream_options: { include_usage: true } }))) as {
      choices: unknown[];
      usage: unknown;
    }[];
    expect(events.slice(0, -2).every((event) => event.usage === null)).toBe(true);
    expect(events.at(-2)).toMatchObject({ choices: [], usage: { prompt_tokens: 7, completion_tokens: 3, total_tokens: 10 } });
  });

  it("reports the usage so far with every chunk when asked", async () => {
    const { post } = await serveFake({ reply: () => "one two" });
    const stream_options = { include_usage: true, continuous_usage_stats: true };
    const events = (await readEvents(await post(PATH, { ...hello, stream: true, stream_options }))) as {
      usage?: { completion_tokens: number };
    }[];
    expect(events.slice(0, -1).map((event) => event.usage?.completion_tokens)).toEqual([0, 1, 2, 3, 3]);
  });

  it("carries logprobs chunk by chunk", async () => {
    const { post } = await serveFake({ reply: () => "a é" });
    const events = (await readEvents(await post(PATH, { ...hello, stream: true, logprobs: true, top_logprobs: 1 }))).slice(
      0,
      -1,
    ) as {
      choices: { delta: { content?: string }; logprobs: { content: { token: string }[] } | null }[];
    }[];
    const seen = events.map(({ choices: [choice] }) => [
      choice!.delta.content,
      choice!.logprobs?.content.map((token) => token.token),
    ]);
    // The first byte of é shows no text, yet its logprob is told.
    expect(seen).toEqual([
      ["", undefined],
      ["a", ["a"]],
      [" ", [" "]],
      ["", ["\\xc3"]],
      ["é", ["\\xa9"]],
      [undefined, undefined],
    ]);
  });

  it("streams n choices, each with its role and its end", async () => {
    const { post } = await serveFake({ reply: (_, index) => `answer ${index}` });
    const events = (await readEvents(await post(PATH, { ...hello, stream: true, n: 2 }))).slice(0, -1) as {
      choices: { index: number; delta: { role?: string; content?: string }; finish_reason: string | null }[];
    }[];
    const texts = ["", ""];
    const ends: (string | null)[] = [null, null];
    for (const { choices } of events) {
      const { index, delta, finish_reason } = choices[0]!;
      texts[index] += delta.content ?? "";
      ends[index] ??= finish_reason;
    }
    expect(texts).toEqual(["answer 0", "answer 1"]);
    expect(ends).toEqual(["stop", "stop"]);
    expect(events.filter(({ choices }) => choices[0]!.delta.role === "assistant")).toHaveLength(2);
  });

  it("tells an error in the middle as an event and does not pretend to be complete", async () => {
    const { post, errors, url } = await serveFake({ failAfter: 2 });
    const events = await readEvents(await post(PATH, { ...hello, stream: true }));
    expect(events).toHaveLength(4);
    expect(events.at(-1)).toEqual({
      error: { message: "the engine failed: out of memory", type: "server_error", param: null, code: "engine_error" },
    });
    expect(errors).toHaveLength(1);
    expect((await fetch(`${url}/health`)).status).toBe(503); // an engine that failed does not come back
  });
});
