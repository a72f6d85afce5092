/**
 * `POST /v1/completions`, streamed and whole, of one prompt or many.
 */
import { parseCompletionRequest } from "./completion-request.ts";
import { EventStream } from "./event-stream.ts";
import { type Exchange, sendJson } from "./exchange.ts";
import { checkModel, type Generation } from "./generation.ts";
import { type CompletionLogprobs, CompletionLogprobsBuilder, joinCompletionLogprobs, textLogprobs } from "./logprobs.ts";
import type { ServerContext } from "./server-context.ts";

interface CompletionChoice {
  text: string;
  readonly logprobs: CompletionLogprobs[];
  finishReason: string | null;
  stopReason: string | number | null;
}

/** Answers a completion request. @throws RequestError naming what is wrong with it. */
export async function completions(context: ServerContext, exchange: Exchange): Promise<void> {
  const startMs = performance.now();
  const { llm, modelName } = context;
  const request = parseCompletionRequest(await context.readJson(exchange), llm.defaultParams);
  checkModel(request.model, modelName);
  const { addSpecialTokens } = request;
  const prompts = request.prompts.map((prompt) =>
    typeof prompt === "string" ? context.encodePrompt(prompt, addSpecialTokens) : prompt,
  );
  const head = {
    id: `cmpl-${exchange.requestId}`,
    object: "text_completion",
    created: Math.floor(Date.now() / 1000),
    model: modelName,
    system_fingerprint: context.fingerprint,
  };
  await context.generate(
    exchange,
    { id: head.id, prompts, sampling: request, cacheSalt: request.cacheSalt, startMs },
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

/** One for each choice; none when nobody asked, so that an engine without a tokenizer serves ids. */
function logprobsBuilders(
  context: ServerContext,
  generation: Generation,
  hasLogprobs: boolean,
): readonly CompletionLogprobsBuilder[] {
  return Array.from(
    { length: hasLogprobs ? generation.numChoices : 0 },
    () => new CompletionLogprobsBuilder(context.llm.tokenizer),
  );
}

async function collect(context: ServerContext, generation: Generation, hasLogprobs: boolean): Promise<unknown[]> {
  const builders = logprobsBuilders(context, generation, hasLogprobs);
  const choices = Array.from(
    { length: generation.numChoices },
    (): CompletionChoice => ({ text: "", logprobs: [], finishReason: null, stopReason: null }),
  );
  await generation.consume((index, delta, params) => {
    const choice = choices[index]!;
    choice.text += delta.text;
    if (hasLogprobs) choice.logprobs.push(builders[index]!.next(textLogprobs(delta, params)));
    choice.finishReason = delta.finishReason;
    choice.stopReason = delta.stopReason;
    return undefined;
  });
  return choices.map((choice, index) => ({
    index,
    text: choice.text,
    logprobs: hasLogprobs ? joinCompletionLogprobs(choice.logprobs) : null,
    finish_reason: choice.finishReason,
    stop_reason: choice.stopReason,
  }));
}

async function stream(
  context: ServerContext,
  exchange: Exchange,
  generation: Generation,
  head: object,
  request: ReturnType<typeof parseCompletionRequest>,
): Promise<void> {
  const { includeUsage, continuousUsage } = request.stream;
  const builders = logprobsBuilders(context, generation, request.params.logprobs !== null);
  const events = new EventStream(exchange.res);
  const usage = () => (continuousUsage ? { usage: generation.usage } : includeUsage ? { usage: null } : {});
  await context.streaming(exchange, events, async () => {
    await generation.consume(async (index, delta, params) => {
      const logprobs = builders[index]?.next(textLogprobs(delta, params)) ?? null;
      if (delta.text === "" && delta.finishReason === null && (logprobs?.tokens.length ?? 0) === 0) return;
      const { text, finishReason, stopReason } = delta;
      await events.send({
        ...head,
        choices: [{ index, text, logprobs, finish_reason: finishReason, ...(finishReason ? { stop_reason: stopReason } : {}) }],
        ...usage(),
      });
    });
    if (includeUsage) events.send({ ...head, choices: [], usage: generation.usage });
  });
}
