/**
 * `POST /v1/chat/completions`, streamed and whole.
 */
import type { OutputDelta } from "../request.ts";
import { parseChatRequest } from "./chat-request.ts";
import { EventStream } from "./event-stream.ts";
import { type Exchange, sendJson } from "./exchange.ts";
import { checkModel, type Generation } from "./generation.ts";
import { type ChatTokenLogprob, chatLogprobs, textLogprobs } from "./logprobs.ts";
import { inWireNames } from "./sampling-fields.ts";
import type { ServerContext } from "./server-context.ts";

interface ChatChoice {
  content: string;
  readonly logprobs: ChatTokenLogprob[];
  finishReason: string | null;
  stopReason: string | number | null;
}

/** Answers a chat request. @throws RequestError naming what is wrong with it. */
export async function chatCompletions(context: ServerContext, exchange: Exchange): Promise<void> {
  const startMs = performance.now();
  const { llm, modelName } = context;
  const request = parseChatRequest(await context.readJson(exchange), llm.defaultParams);
  checkModel(request.model, modelName);
  const wireNames = { ...request.wireNames, prompt: "messages" };
  const text = llm.renderChat(request.render);
  const prompt = inWireNames(wireNames, () => context.encodePrompt(text, request.addSpecialTokens));
  const head = {
    id: `chatcmpl-${exchange.requestId}`,
    object: request.stream.isStreamed ? "chat.completion.chunk" : "chat.completion",
    created: Math.floor(Date.now() / 1000),
    model: modelName,
    system_fingerprint: context.fingerprint,
  };
  await context.generate(
    exchange,
    { id: head.id, prompts: [prompt], sampling: { ...request, wireNames }, cacheSalt: request.cacheSalt, startMs },
    async (generation) => {
      if (!request.stream.isStreamed) {
        const choices = await collect(context, generation, request.params.logprobs !== null);
        sendJson(exchange.res, 200, { ...head, choices, usage: generation.usage });
        return;
      }
      await stream(context, exchange, generation, head, request);
    },
  );
}

async function collect(context: ServerContext, generation: Generation, hasLogprobs: boolean): Promise<unknown[]> {
  const choices = Array.from(
    { length: generation.numChoices },
    (): ChatChoice => ({ content: "", logprobs: [], finishReason: null, stopReason: null }),
  );
  await generation.consume((index, delta, params) => {
    const choice = choices[index]!;
    choice.content += delta.text;
    if (hasLogprobs) choice.logprobs.push(...chatLogprobs(context.llm.tokenizer, textLogprobs(delta, params)).content);
    choice.finishReason = delta.finishReason;
    choice.stopReason = delta.stopReason;
    return undefined;
  });
  return choices.map((choice, index) => ({
    index,
    message: { role: "assistant", content: choice.content, refusal: null },
    logprobs: hasLogprobs ? { content: choice.logprobs, refusal: null } : null,
    finish_reason: choice.finishReason,
    stop_reason: choice.stopReason,
  }));
}

async function stream(
  context: ServerContext,
  exchange: Exchange,
  generation: Generation,
  head: object,
  request: ReturnType<typeof parseChatRequest>,
): Promise<void> {
  const { includeUsage, continuousUsage } = request.stream;
  const hasLogprobs = request.params.logprobs !== null;
  const events = new EventStream(exchange.res);
  const usage = () => (continuousUsage ? { usage: generation.usage } : includeUsage ? { usage: null } : {});
  const chunk = (index: number, delta: object, logprobs: object | null, end: Partial<OutputDelta> = {}) =>
    events.send({
      ...head,
      choices: [
        {
          index,
          delta,
          logprobs,
          finish_reason: end.finishReason ?? null,
          ...(end.finishReason ? { stop_reason: end.stopReason ?? null } : {}),
        },
      ],
      ...usage(),
    });
  await context.streaming(exchange, events, async () => {
    for (let i = 0; i < generation.numChoices; i++) chunk(i, { role: "assistant", content: "" }, null);
    await generation.consume(async (index, delta, params) => {
      const logprobs = hasLogprobs ? chatLogprobs(context.llm.tokenizer, textLogprobs(delta, params)) : null;
      if (delta.text !== "" || (logprobs?.content.length ?? 0) > 0) await chunk(index, { content: delta.text }, logprobs);
      if (delta.finishReason !== null) await chunk(index, {}, null, delta);
    });
    if (includeUsage) events.send({ ...head, choices: [], usage: generation.usage });
  });
}
