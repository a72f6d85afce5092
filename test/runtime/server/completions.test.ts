import type { Completion } from "openai/resources/completions";
import { describe, expect, it } from "vitest";
import { json, readEvents, serveFake } from "./serve-fake.ts";

const PATH = "/v1/completions";

describe("a whole completion", () => {
  it("has OpenAI's shape", async () => {
    const { post } = await serveFake({ reply: (prompt) => ` after ${prompt}` });
    const body = await (await post(PATH, { model: "fake", prompt: "one two" })).json();
    expect(body).toMatchObject({
      id: expect.stringMatching(/^cmpl-[0-9a-f]{32}$/),
      object: "text_completion",
      model: "fake",
      choices: [{ index: 0, text: " after one two", logprobs: null, finish_reason: "stop" }],
      usage: { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 }, // the special token at the start counts
    });
  });

  it("stops after 16 tokens unless told otherwise, or where the context ends", async () => {
    const { post, llm } = await serveFake({ reply: () => "word ".repeat(100) });
    const { choices } = await json<Completion>(post(PATH, { prompt: "x" }));
    expect(choices[0]!.finish_reason).toBe("length");
    expect(llm.requests[0]!.params.maxTokens).toBe(16);
    expect((await post(PATH, { prompt: Array.from({ length: 502 }, () => 65) })).status).toBe(200);
    expect(llm.requests[1]!.params.maxTokens).toBe(10); // of the context's 512
  });

  it("takes a text, token ids, and lists of both, n of each", async () => {
    const { post, llm } = await serveFake({ reply: (prompt, index) => `${prompt}${index}` });
    const texts = async (prompt: unknown, more: object = {}) => {
      const body = await json<Completion>(post(PATH, { prompt, add_special_tokens: false, ...more }));
      return body.choices.map((choice) => `${choice.index}:${choice.text}`);
    };
    expect(await texts("a")).toEqual(["0:a0"]);
    expect(await texts([72, 105])).toEqual(["0:Hi0"]);
    expect(await texts(["a", "b"], { n: 2 })).toEqual(["0:a0", "1:a1", "2:b0", "3:b1"]);
    expect(await texts([[72], [105]])).toEqual(["0:H0", "1:i0"]);
    expect(llm.requests.at(-1)!.promptTokenIds).toEqual([105]);
    expect(new Set(llm.requests.map((request) => request.requestId)).size).toBe(6);
  });

  it("gives logprobs in parallel lists with text offsets", async () => {
    const { post } = await serveFake({ reply: () => "Hi é go" });
    const { choices } = await json<Completion>(post(PATH, { prompt: "x", logprobs: 2 }));
    expect(choices[0]!.text).toBe("Hi é go");
    expect(choices[0]!.logprobs).toEqual({
      tokens: ["Hi", " ", "bytes:\\xc3", "bytes:\\xa9", " go"],
      token_logprobs: [-0.25, -0.25, -0.25, -0.25, -0.25],
      top_logprobs: [
        { Hi: -0.25, "!": -2 },
        { " ": -0.25, "!": -2 },
        { "bytes:\\xc3": -0.25, "!": -2 },
        { "bytes:\\xa9": -0.25, "!": -2 },
        { " go": -0.25, "!": -2 },
      ],
      text_offset: [0, 2, 3, 3, 4],
    });
  });

  it("gives the sampled token alone for logprobs 0", async () => {
    const { post } = await serveFake({ reply: () => "Hi" });
    const { choices } = await json<Completion>(post(PATH, { prompt: "x", logprobs: 0 }));
    expect(choices[0]!.logprobs!.top_logprobs).toEqual([{ Hi: -0.25 }]);
  });
});

describe("a streamed completion", () => {
  it("streams every prompt's choices and their ends", async () => {
    const { post } = await serveFake({ reply: (prompt) => `of ${prompt} x`, delayMs: 1 });
    const response = await post(PATH, {
      prompt: ["a", "b"],
      stream: true,
      logprobs: 0,
      stream_options: { include_usage: true },
    });
    const events = (await readEvents(response)).slice(0, -1) as {
      choices: { index: number; text: string; finish_reason: string | null; logprobs: { text_offset: number[] } | null }[];
      usage: object | null;
    }[];
    const texts = ["", ""];
    const offsets: number[][] = [[], []];
    const ends: (string | null)[] = [null, null];
    for (const { choices } of events.slice(0, -1)) {
      const choice = choices[0]!;
      texts[choice.index] += choice.text;
      offsets[choice.index]!.push(...(choice.logprobs?.text_offset ?? []));
      ends[choice.index] ??= choice.finish_reason;
    }
    expect(texts).toEqual(["of a x", "of b x"]);
    expect(offsets).toEqual([
      [0, 2, 4],
      [0, 2, 4],
    ]);
    expect(ends).toEqual(["stop", "stop"]);
    expect(events.at(-1)).toMatchObject({ choices: [], usage: { prompt_tokens: 4, completion_tokens: 8 } });
  });

  it("stops all prompts when one fails", async () => {
    const { post, llm } = await serveFake({ failAfter: 1, delayMs: 5 });
    const events = await readEvents(await post(PATH, { prompt: ["a", "b", "c"], stream: true, max_tokens: 50 }));
    expect(events.at(-1)).toMatchObject({ error: { code: "engine_error" } });
    expect(llm.numRunning).toBe(0);
  });
});
