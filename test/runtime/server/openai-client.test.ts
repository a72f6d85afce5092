import OpenAI from "openai";
import { describe, expect, it } from "vitest";
import type { FakeLlmOptions } from "../../support/fake-llm.ts";
import { serveFake, until } from "./serve-fake.ts";

const messages = [{ role: "user" as const, content: "hello there" }];

async function client(options: FakeLlmOptions = {}) {
  const served = await serveFake(options, { apiKey: "sk-test" });
  return { ...served, openai: new OpenAI({ baseURL: `${served.url}/v1`, apiKey: "sk-test", maxRetries: 0 }) };
}

describe("the openai client, unmodified", () => {
  it("chats", async () => {
    const { openai } = await client();
    const completion = await openai.chat.completions.create({ model: "fake", messages, max_completion_tokens: 20 });
    expect(completion.choices[0]!.message.content).toBe("You said: hello there");
    expect(completion.usage?.prompt_tokens_details?.cached_tokens).toBe(3);
    expect(completion._request_id).toBe(completion.id.replace("chatcmpl-", ""));
  });

  it("streams a chat with usage", async () => {
    const { openai } = await client({ delayMs: 1 });
    const stream = await openai.chat.completions.create({
      model: "fake",
      messages,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    let tokens = 0;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      tokens = chunk.usage?.completion_tokens ?? tokens;
    }
    expect([text, tokens]).toEqual(["You said: hello there", 6]);
  });

  it("accumulates a stream with its own helper", async () => {
    const { openai } = await client();
    const runner = openai.chat.completions.stream({ model: "fake", messages, n: 2, logprobs: true, top_logprobs: 2 });
    const { choices } = await runner.finalChatCompletion();
    expect(choices.map((choice) => choice.message.content)).toEqual(["You said: hello there", "You said: hello there"]);
    expect(choices[0]!.logprobs?.content?.map((token) => token.token).join("")).toBe("You said: hello there");
    expect(choices[1]!.finish_reason).toBe("stop");
  });

  it("completes prompts, whole and streamed", async () => {
    const { openai } = await client({ reply: (prompt) => ` after ${prompt}` });
    const whole = await openai.completions.create({ model: "fake", prompt: ["a", "b"], logprobs: 1 });
    expect(whole.choices.map((choice) => choice.text)).toEqual([" after a", " after b"]);
    expect(whole.choices[0]!.logprobs?.tokens).toEqual([" after", " a"]);
    let text = "";
    for await (const chunk of await openai.completions.create({ model: "fake", prompt: "a", stream: true }))
      text += chunk.choices[0]!.text;
    expect(text).toBe(" after a");
  });

  it("lists and shows models", async () => {
    const { openai } = await client();
    const ids: string[] = [];
    for await (const model of openai.models.list()) ids.push(model.id);
    expect(ids).toEqual(["fake"]);
    expect((await openai.models.retrieve("fake")).owned_by).toBe("ingot");
  });

  it("stops a request by leaving the loop and by its signal", async () => {
    const { openai, llm } = await client({ reply: () => "word ".repeat(300), delayMs: 5 });
    for await (const _ of await openai.chat.completions.create({ model: "fake", messages, stream: true })) break;
    await until(() => llm.aborted.length === 1, "the first is aborted");
    const controller = new AbortController();
    const whole = openai.chat.completions.create({ model: "fake", messages }, { signal: controller.signal });
    await until(() => llm.numRunning === 1, "the second runs");
    controller.abort();
    await expect(whole).rejects.toBeInstanceOf(OpenAI.APIUserAbortError);
    await until(() => llm.aborted.length === 2, "the second is aborted");
  });

  it("throws its own error classes", async () => {
    const { openai, url, server } = await client();
    const create = (body: object) => openai.chat.completions.create({ model: "fake", messages, ...body } as never);
    await expect(create({ temperature: -1 })).rejects.toMatchObject({
      status: 400,
      param: "temperature",
      type: "invalid_request_error",
    });
    await expect(create({ temperature: -1 })).rejects.toBeInstanceOf(OpenAI.BadRequestError);
    await expect(create({ model: "gpt-4" })).rejects.toBeInstanceOf(OpenAI.NotFoundError);
    const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: "wrong", maxRetries: 0 });
    await expect(stranger.models.list()).rejects.toBeInstanceOf(OpenAI.AuthenticationError);
    await server.close();
    await expect(create({})).rejects.toBeInstanceOf(OpenAI.APIConnectionError);
  });

  it("throws when a stream breaks in the middle", async () => {
    const { openai } = await client({ failAfter: 2 });
    const stream = await openai.chat.completions.create({ model: "fake", messages, stream: true });
    let text = "";
    const read = async () => {
      for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
    };
    await expect(read()).rejects.toThrow("the engine failed: out of memory");
    expect(text).toBe("You said");
  });
});
