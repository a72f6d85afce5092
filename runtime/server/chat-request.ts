/**
 * What `/v1/chat/completions` (and `/tokenize` with messages) takes: the schema and its way into messages and parameters.
 */
import { z } from "zod";
import { RequestError } from "../errors.ts";
import type { SamplingParams } from "../sampling-params.ts";
import { type CheckedSampling, commonShape, commonUnsupported, samplingShape, toSamplingParams } from "./sampling-fields.ts";
import type { RenderChatRequest, ServerChatMessage } from "./server-model.ts";
import { neutral, ONLY_NULL, type UnsupportedFields, validate, wholeNumber } from "./validate.ts";

const textPart = z.strictObject({
  type: z.literal("text", { error: '"text" (images, audio and files are not supported)' }),
  text: z.string(),
});
const content = z.union([z.string(), z.array(textPart)]);
const emptyList = z.tuple([], { error: "an empty list (tool calls are not supported yet)" });
const said = { content, name: z.string().nullish() };

const message = z.discriminatedUnion("role", [
  z.strictObject({ role: z.literal("system"), ...said }),
  z.strictObject({ role: z.literal("developer"), ...said }),
  z.strictObject({ role: z.literal("user"), ...said }),
  z.strictObject({
    role: z.literal("assistant"),
    ...said,
    content: content.nullish(),
    reasoning_content: z.string().nullish(),
    // What the API itself puts into an answer, so that an answer can be sent back as it came.
    refusal: z.null().optional(),
    tool_calls: emptyList.nullish(),
    annotations: emptyList.nullish(),
    function_call: z.null().optional(),
    audio: z.null().optional(),
  }),
]);

/** More do not fit in any context, and checking and rendering them takes its time. */
const MAX_MESSAGES = 16_384;
const messages = z
  .array(z.unknown())
  .max(MAX_MESSAGES, { error: `at most ${MAX_MESSAGES} messages` })
  .pipe(z.array(message).min(1));

/** What decides how messages become a prompt. */
export const renderShape = {
  messages,
  add_generation_prompt: z.boolean().nullish(),
  chat_template_kwargs: z.record(z.string(), z.unknown()).nullish(),
};

/** Fields that would change the rendering and that we do not have. */
export const renderUnsupported: UnsupportedFields = {
  tools: neutral([]),
  continue_final_message: neutral(false),
  chat_template: ONLY_NULL,
  documents: neutral([]),
  mm_processor_kwargs: ONLY_NULL,
};

const chatSchema = z.strictObject({
  ...commonShape,
  ...samplingShape,
  ...renderShape,
  max_completion_tokens: wholeNumber().nullish(),
  logprobs: z.boolean().nullish(),
  top_logprobs: wholeNumber().nullish(),
  add_special_tokens: z.boolean().nullish(),
  // They say how a hosted service may use or log the request; here they change nothing.
  safety_identifier: z.string().nullish(),
  prompt_cache_key: z.string().nullish(),
  parallel_tool_calls: z.boolean().nullish(), // there are no tools to call
});

const chatUnsupported: UnsupportedFields = {
  ...commonUnsupported,
  ...renderUnsupported,
  tool_choice: neutral("none", "auto"),
  functions: neutral([]),
  function_call: neutral("none", "auto"),
  modalities: neutral(["text"]),
  store: neutral(false),
  audio: ONLY_NULL,
  prediction: ONLY_NULL,
  reasoning_effort: ONLY_NULL,
  verbosity: neutral("medium"),
  web_search_options: ONLY_NULL,
  moderation: ONLY_NULL,
  prompt_cache_retention: neutral("in_memory"),
  prompt_cache_options: ONLY_NULL,
  include_reasoning: neutral(true),
  echo: neutral(false),
};

type RenderFields = z.infer<z.ZodObject<typeof renderShape>>;

/** Names that the template gets from us. */
const RESERVED_KWARGS = ["messages", "tools", "documents", "add_generation_prompt"];

/** @throws RequestError 400 when `chat_template_kwargs` would replace what the request itself says. */
export function toRenderRequest(fields: RenderFields): RenderChatRequest {
  const templateKwargs = fields.chat_template_kwargs ?? {};
  const reserved = RESERVED_KWARGS.find((name) => Object.hasOwn(templateKwargs, name));
  if (reserved !== undefined) {
    const param = `chat_template_kwargs.${reserved}`;
    throw new RequestError(400, `${param} is set by the request itself; leave it out`, { param, code: "invalid_value" });
  }
  return { messages: fields.messages.map(toMessage), addGenerationPrompt: fields.add_generation_prompt ?? true, templateKwargs };
}

function toMessage(given: z.infer<typeof message>): ServerChatMessage {
  const { role, content, name } = given;
  const reasoning = given.role === "assistant" ? given.reasoning_content : undefined;
  return {
    role: role === "developer" ? "system" : role, // OpenAI's newer word; templates know the older one
    content: typeof content === "string" ? content : (content ?? []).map((part) => part.text).join(""),
    ...(typeof name === "string" ? { name } : {}),
    ...(typeof reasoning === "string" ? { reasoning_content: reasoning } : {}),
  };
}

export interface StreamFlags {
  readonly isStreamed: boolean;
  /** A last event with the usage of the whole request. */
  readonly includeUsage: boolean;
  /** The usage so far with every event (vLLM). */
  readonly continuousUsage: boolean;
}

/** @throws RequestError 400 when `stream_options` is given without `stream`. */
export function toStreamFlags(fields: z.infer<z.ZodObject<typeof commonShape>>): StreamFlags {
  const isStreamed = fields.stream ?? false;
  const options = fields.stream_options;
  if (options && !isStreamed) {
    throw new RequestError(400, "stream_options needs stream: true", { param: "stream_options", code: "invalid_value" });
  }
  return {
    isStreamed,
    includeUsage: options?.include_usage ?? false,
    continuousUsage: options?.continuous_usage_stats ?? false,
  };
}

export interface ChatRequest extends CheckedSampling {
  readonly model: string | null | undefined;
  readonly render: RenderChatRequest;
  readonly addSpecialTokens: boolean;
  readonly cacheSalt: string | undefined;
  readonly stream: StreamFlags;
}

/** Checks a body of `/v1/chat/completions`. @throws RequestError 400 naming the field. */
export function parseChatRequest(body: Record<string, unknown>, defaults: Partial<SamplingParams>): ChatRequest {
  const fields = validate(chatSchema, chatUnsupported, body);
  const topLogprobs = fields.top_logprobs ?? null;
  if (topLogprobs !== null && topLogprobs !== 0 && !fields.logprobs) {
    throw new RequestError(400, "top_logprobs needs logprobs: true", { param: "top_logprobs", code: "invalid_value" });
  }
  const sampling = toSamplingParams({
    fields,
    maxTokens: chatMaxTokens(fields.max_tokens, fields.max_completion_tokens),
    logprobs: { value: fields.logprobs ? (topLogprobs ?? 0) : null, field: "top_logprobs" },
    defaults,
  });
  return {
    ...sampling,
    model: fields.model,
    render: toRenderRequest(fields),
    addSpecialTokens: fields.add_special_tokens ?? false, // the template writes them itself
    cacheSalt: fields.cache_salt ?? undefined,
    stream: toStreamFlags(fields),
  };
}

/** OpenAI renamed the field; both are understood. */
function chatMaxTokens(
  older: number | null | undefined,
  newer: number | null | undefined,
): { value: number | null; field: string } {
  if (typeof older === "number" && typeof newer === "number" && older !== newer) {
    const message = `max_tokens (${older}) and max_completion_tokens (${newer}) say different things; send one of them`;
    throw new RequestError(400, message, { param: "max_tokens", code: "invalid_value" });
  }
  if (typeof newer === "number") return { value: newer, field: "max_completion_tokens" };
  return { value: older ?? null, field: "max_tokens" };
}
