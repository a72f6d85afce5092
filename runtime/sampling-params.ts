/**
 * Sampling parameters in vLLM's words (camelCased) and their check.
 *
 * Values come from clients: `samplingParams` refuses what is unknown or out of range and names it. Limits that depend on the engine
 * (context length, vocabulary) are checked by `AsyncEngine`.
 */
import { MAX_LOGPROBS } from "./batch.ts";
import { RequestError } from "./errors.ts";

export interface SamplingParams {
  /** Completions per prompt. */
  readonly n: number;
  /** Most tokens to generate; null: up to the context's end. */
  readonly maxTokens: number | null;
  readonly minTokens: number;
  /** 0 is greedy. */
  readonly temperature: number;
  /** 0 is off. */
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  /** null draws a fresh one. Completion i of a request draws with seed + i. */
  readonly seed: number | null;
  readonly stop: readonly string[];
  readonly stopTokenIds: readonly number[];
  readonly includeStopStrInOutput: boolean;
  readonly ignoreEos: boolean;
  readonly skipSpecialTokens: boolean;
  /** Token id → bias added to its logit, −100 … 100. */
  readonly logitBias: Readonly<Record<number, number>>;
  /** null: none; else the number of alternatives beside the sampled token, 0 … 20. */
  readonly logprobs: number | null;
}

/** Most completions one request may ask for. */
export const MAX_N = 128;
/** Most stop strings of a request, and the longest of them in UTF-16 units. */
export const MAX_STOP_STRINGS = 64;
export const MAX_STOP_LENGTH = 1024;
/** Most entries of `stopTokenIds` and of `logitBias`. */
export const MAX_TOKEN_ENTRIES = 1024;

/** What a request gets where it says nothing: one completion, temperature 1, the whole vocabulary, up to the context's end. */
export const defaultSamplingParams: SamplingParams = Object.freeze({
  n: 1,
  maxTokens: null,
  minTokens: 0,
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  seed: null,
  stop: [],
  stopTokenIds: [],
  includeStopStrInOutput: false,
  ignoreEos: false,
  skipSpecialTokens: true,
  logitBias: {},
  logprobs: null,
});

type Check = (value: unknown) => string | undefined; // what was expected, when it is not

const integer =
  (least: number, most: number): Check =>
  (value) =>
    Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most
      ? undefined
      : most === Number.MAX_SAFE_INTEGER
        ? `a whole number of at least ${least}`
        : `a whole number from ${least} to ${most}`;

// The kernels compute in f32: what rounds to 0 or overflows there is out of range here.
const real =
  (test: (value: number) => boolean, range: string): Check =>
  (value) =>
    typeof value === "number" && Number.isFinite(Math.fround(value)) && test(Math.fround(value))
      ? undefined
      : `a number ${range}`;

const boolean: Check = (value) => (typeof value === "boolean" ? undefined : "true or false");

const orNull =
  (check: Check): Check =>
  (value) => {
    const expected = value === null ? undefined : check(value);
    return expected && `${expected}, or null`;
  };

const isTokenId = (value: unknown): boolean => Number.isInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 31;

const CHECKS: { readonly [K in keyof SamplingParams]: Check } = {
  n: integer(1, MAX_N),
  maxTokens: orNull(integer(1, Number.MAX_SAFE_INTEGER)),
  minTokens: integer(0, Number.MAX_SAFE_INTEGER),
  temperature: real((x) => x >= 0, "of at least 0 (0 is greedy)"),
  topK: integer(0, 2 ** 31 - 1),
  topP: real((x) => x > 0 && x <= 1, "above 0 and up to 1"),
  minP: real((x) => x >= 0 && x <= 1, "from 0 to 1"),
  repetitionPenalty: real((x) => x >= 0.01 && x <= 100, "from 0.01 to 100 (1 is off)"),
  presencePenalty: real((x) => x >= -2 && x <= 2, "from -2 to 2"),
  frequencyPenalty: real((x) => x >= -2 && x <= 2, "from -2 to 2"),
  seed: orNull(integer(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)),
  stop: (value) =>
    Array.isArray(value) &&
    value.length <= MAX_STOP_STRINGS &&
    value.every((text) => typeof text === "string" && text.length > 0 && text.length <= MAX_STOP_LENGTH)
      ? undefined
      : `at most ${MAX_STOP_STRINGS} strings of 1 to ${MAX_STOP_LENGTH} characters`,
  stopTokenIds: (value) =>
    Array.isArray(value) && value.length <= MAX_TOKEN_ENTRIES && value.every(isTokenId)
      ? undefined
      : `at most ${MAX_TOKEN_ENTRIES} token ids`,
  includeStopStrInOutput: boolean,
  ignoreEos: boolean,
  skipSpecialTokens: boolean,
  logitBias: (value) =>
    typeof value === "object" &&
    value !== null &&
    !Array.isArray(value) &&
    Object.keys(value).length <= MAX_TOKEN_ENTRIES &&
    Object.entries(value).every(
      ([id, bias]) => /^\d+$/.test(id) && isTokenId(Number(id)) && typeof bias === "number" && bias >= -100 && bias <= 100,
    )
      ? undefined
      : `at most ${MAX_TOKEN_ENTRIES} token ids with biases from -100 to 100`,
  logprobs: orNull(integer(0, MAX_LOGPROBS)),
};

/**
 * Fills `partial` up with the defaults and checks every field; a field that is undefined counts as absent, a `topK` of −1 as 0.
 *
 * @throws RequestError 400 naming the field (`param`), the range and the value, also for a field that does not exist.
 */
export function samplingParams(partial: Partial<SamplingParams> = {}): SamplingParams {
  const params: Record<string, unknown> = { ...defaultSamplingParams };
  for (const [name, given] of Object.entries(partial)) {
    if (given === undefined) continue;
    if (!Object.hasOwn(CHECKS, name)) {
      throw refusal(name, `${name} is not a sampling parameter; known are ${Object.keys(CHECKS).join(", ")}`);
    }
    const value = name === "topK" && given === -1 ? 0 : given; // vLLM's clients say −1 for off
    const expected = CHECKS[name as keyof SamplingParams](value);
    if (expected) throw refusal(name, `${name} must be ${expected}, got ${show(given)}`);
    params[name] = Array.isArray(value) ? [...value] : value;
  }
  const checked = params as unknown as SamplingParams;
  if (checked.maxTokens !== null && checked.minTokens > checked.maxTokens) {
    throw refusal("minTokens", `minTokens must be at most maxTokens (${checked.maxTokens}), got ${checked.minTokens}`);
  }
  return Object.freeze(checked);
}

function refusal(param: string, message: string): RequestError {
  return new RequestError(400, message, { param, code: "invalid_value" });
}

function show(value: unknown): string {
  if (typeof value === "number" || typeof value === "bigint") return String(value);
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}
