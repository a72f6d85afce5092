/**
 * What `/v1/completions` takes: the schema and its way into prompts and parameters.
 */
import { z } from "zod";
import type { SamplingParams } from "../sampling-params.ts";
import { type StreamFlags, toStreamFlags } from "./chat-request.ts";
import { type CheckedSampling, commonShape, commonUnsupported, samplingShape, toSamplingParams } from "./sampling-fields.ts";
import { neutral, type UnsupportedFields, validate, wholeNumber } from "./validate.ts";

/** What a request without `max_tokens` gets: OpenAI's and vLLM's number. */
const DEFAULT_MAX_TOKENS = 16;

/** Most prompts of one request. */
const MAX_PROMPTS = 2048;

/** A text, or token ids. */
export type Prompt = string | readonly number[];

const isTokenIds = (value: unknown): value is number[] =>
  Array.isArray(value) && value.length > 0 && value.every(Number.isSafeInteger);

const isPrompts = (value: unknown): value is string | string[] | number[] | number[][] =>
  typeof value === "string" ||
  isTokenIds(value) ||
  (Array.isArray(value) &&
    value.length > 0 &&
    value.length <= MAX_PROMPTS &&
    (value.every((prompt) => typeof prompt === "string") || value.every(isTokenIds)));

const completionSchema = z.strictObject({
  ...commonShape,
  ...samplingShape,
  prompt: z.custom<string | string[] | number[] | number[][]>(isPrompts, {
    error: `a string, a list of token ids, or a list of at most ${MAX_PROMPTS} strings or lists of token ids`,
  }),
  logprobs: wholeNumber().nullish(),
  add_special_tokens: z.boolean().nullish(),
});

const completionUnsupported: UnsupportedFields = { ...commonUnsupported, echo: neutral(false), suffix: neutral("") };

export interface CompletionRequest extends CheckedSampling {
  readonly model: string | null | undefined;
  readonly prompts: readonly Prompt[];
  readonly addSpecialTokens: boolean;
  readonly cacheSalt: string | undefined;
  readonly stream: StreamFlags;
}

/** Checks a body of `/v1/completions`. @throws RequestError 400 naming the field. */
export function parseCompletionRequest(body: Record<string, unknown>, defaults: Partial<SamplingParams>): CompletionRequest {
  const fields = validate(completionSchema, completionUnsupported, body);
  const sampling = toSamplingParams({
    fields,
    maxTokens: { value: fields.max_tokens ?? null, field: "max_tokens" },
    logprobs: { value: fields.logprobs ?? null, field: "logprobs" },
    defaults: { ...defaults, maxTokens: defaults.maxTokens ?? DEFAULT_MAX_TOKENS },
  });
  return {
    ...sampling,
    model: fields.model,
    prompts: toPrompts(fields.prompt),
    addSpecialTokens: fields.add_special_tokens ?? true,
    cacheSalt: fields.cache_salt ?? undefined,
    stream: toStreamFlags(fields),
  };
}

function toPrompts(given: string | string[] | number[] | number[][]): readonly Prompt[] {
  if (typeof given === "string") return [given];
  return isTokenIds(given) ? [given] : (given as string[] | number[][]);
}
