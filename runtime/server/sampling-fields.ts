/**
 * The sampling fields that both completion routes share, in the words of the API, and their way into `SamplingParams`.
 *
 * Fields are OpenAI's and vLLM's. Ranges are checked by `samplingParams`; its errors come back in the words of the API.
 */
import { z } from "zod";
import { RequestError } from "../errors.ts";
import { type SamplingParams, samplingParams } from "../sampling-params.ts";
import { neutral, ONLY_NULL, type UnsupportedFields, wholeNumber } from "./validate.ts";

/** Null counts as absent, as in OpenAI's API. */
export const samplingShape = {
  n: wholeNumber().nullish(),
  stop: z.union([z.string(), z.array(z.string())]).nullish(),
  seed: wholeNumber().nullish(),
  max_tokens: wholeNumber().nullish(),
  min_tokens: wholeNumber().nullish(),
  temperature: z.number().nullish(),
  top_p: z.number().nullish(),
  top_k: wholeNumber().nullish(),
  min_p: z.number().nullish(),
  presence_penalty: z.number().nullish(),
  frequency_penalty: z.number().nullish(),
  repetition_penalty: z.number().nullish(),
  logit_bias: z.record(z.string(), z.number()).nullish(),
  stop_token_ids: z.array(wholeNumber()).nullish(),
  ignore_eos: z.boolean().nullish(),
  skip_special_tokens: z.boolean().nullish(),
  include_stop_str_in_output: z.boolean().nullish(),
};

/** What else both routes take. `user` and its kin identify an end user and change nothing. */
export const commonShape = {
  model: z.string().nullish(),
  stream: z.boolean().nullish(),
  stream_options: z
    .strictObject({
      include_usage: z.boolean().nullish(),
      continuous_usage_stats: z.boolean().nullish(),
      include_obfuscation: z.literal(false).nullish(),
    })
    .nullish(),
  user: z.string().nullish(),
  cache_salt: z.string().min(1).nullish(),
};

/** Fields of vLLM and OpenAI on both routes that we do not have. */
export const commonUnsupported: UnsupportedFields = {
  response_format: neutral({ type: "text" }),
  structured_outputs: ONLY_NULL,
  guided_json: ONLY_NULL,
  guided_regex: ONLY_NULL,
  guided_choice: ONLY_NULL,
  guided_grammar: ONLY_NULL,
  prompt_logprobs: ONLY_NULL,
  bad_words: neutral([]),
  allowed_token_ids: ONLY_NULL,
  truncate_prompt_tokens: ONLY_NULL,
  use_beam_search: neutral(false),
  best_of: neutral(1),
  length_penalty: neutral(1),
  early_stopping: neutral(false),
  spaces_between_special_tokens: neutral(true),
  return_tokens_as_token_ids: neutral(false),
  return_token_ids: neutral(false),
  logits_processors: neutral([]),
  priority: neutral(0),
  request_id: ONLY_NULL, // the X-Request-Id header is for that
  kv_transfer_params: ONLY_NULL,
  vllm_xargs: ONLY_NULL,
  service_tier: neutral("auto", "default"),
  metadata: neutral({}),
};

type SamplingFields = z.infer<z.ZodObject<typeof samplingShape>>;

export interface SamplingRequest {
  readonly fields: SamplingFields;
  /** Most tokens to generate and the field that said so; null: the model's default, else up to the context's end. */
  readonly maxTokens: { readonly value: number | null; readonly field: string };
  /** Alternatives per token and the field that said so. */
  readonly logprobs: { readonly value: number | null; readonly field: string };
  /** The model's own defaults. */
  readonly defaults: Partial<SamplingParams>;
}

/** Names of `SamplingParams` (and of the engine's limits) → names in the API. */
export type WireNames = Readonly<Record<string, string>>;

export interface CheckedSampling {
  readonly params: SamplingParams;
  /** The client did not say how many tokens it wants: what the default says gives way to the context's end. */
  readonly isMaxTokensDefault: boolean;
  readonly wireNames: WireNames;
}

/** @throws RequestError 400 naming the field in the words of the API. */
export function toSamplingParams({ fields, maxTokens, logprobs, defaults }: SamplingRequest): CheckedSampling {
  const wireNames: WireNames = {
    maxTokens: maxTokens.field,
    logprobs: logprobs.field,
    minTokens: "min_tokens",
    topK: "top_k",
    topP: "top_p",
    minP: "min_p",
    repetitionPenalty: "repetition_penalty",
    presencePenalty: "presence_penalty",
    frequencyPenalty: "frequency_penalty",
    logitBias: "logit_bias",
    stopTokenIds: "stop_token_ids",
  };
  const given: { readonly [K in keyof SamplingParams]: SamplingParams[K] | null | undefined } = {
    n: fields.n,
    maxTokens: maxTokens.value,
    minTokens: fields.min_tokens,
    temperature: fields.temperature,
    topK: fields.top_k,
    topP: fields.top_p,
    minP: fields.min_p,
    repetitionPenalty: fields.repetition_penalty,
    presencePenalty: fields.presence_penalty,
    frequencyPenalty: fields.frequency_penalty,
    seed: fields.seed,
    stop: typeof fields.stop === "string" ? [fields.stop] : fields.stop,
    stopTokenIds: fields.stop_token_ids,
    includeStopStrInOutput: fields.include_stop_str_in_output,
    ignoreEos: fields.ignore_eos,
    skipSpecialTokens: fields.skip_special_tokens,
    logitBias: fields.logit_bias,
    logprobs: logprobs.value,
  };
  const asked = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null && value !== undefined));
  const params = inWireNames(wireNames, () => samplingParams({ ...defaults, ...asked }));
  return { params, isMaxTokensDefault: maxTokens.value === null, wireNames };
}

/** Runs `check`; a `RequestError` it throws comes out with its parameter in the words of the API. */
export function inWireNames<T>(names: WireNames, check: () => T): T {
  try {
    return check();
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    const message = Object.entries(names).reduce(
      // "the prompt of 20 tokens" is plain English, whatever the field is called
      (text, [name, wireName]) => (name === "prompt" ? text : text.replaceAll(new RegExp(`\\b${name}\\b`, "g"), wireName)),
      error.message,
    );
    const param = error.param === null ? null : (names[error.param] ?? error.param);
    throw new RequestError(error.status, message, { param, code: error.code, cause: error });
  }
}
