/**
 * `generation_config.json`: what a model's authors recommend to sample with, and the ids that end its output.
 *
 * Read are the fields that vLLM takes its defaults from, but for `max_new_tokens`: a request that names no maximum goes up to the
 * context's end instead of being cut at a number nobody asked for.
 */
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { ManifestError, RequestError } from "./errors.ts";
import { type SamplingParams, samplingParams } from "./sampling-params.ts";

const MAX_BYTES = 1 << 20;
const MAX_EOS_TOKENS = 1024;

const FIELDS = {
  temperature: "temperature",
  top_k: "topK",
  top_p: "topP",
  min_p: "minP",
  repetition_penalty: "repetitionPenalty",
} as const satisfies Record<string, keyof SamplingParams>;

export interface GenerationConfig {
  /** Defaults for requests that say nothing. */
  readonly params: Partial<SamplingParams>;
  readonly eosTokenIds: readonly number[];
}

/** Reads the file of an engine folder; without one there are no recommendations. @throws ManifestError when it is not what it should be. */
export function loadGenerationConfig(folder: string): GenerationConfig {
  const path = join(folder, "generation_config.json");
  if (!existsSync(path)) return { params: {}, eosTokenIds: [] };
  const { size } = statSync(path);
  if (size > MAX_BYTES) throw new ManifestError(`${path} has ${size} bytes; a generation config has at most ${MAX_BYTES}`);
  return parseGenerationConfig(readFileSync(path, "utf8"), path);
}

/** @throws ManifestError naming `path`, the field and what was expected. */
export function parseGenerationConfig(text: string, path: string): GenerationConfig {
  let config: unknown;
  try {
    config = JSON.parse(text);
  } catch (cause) {
    throw new ManifestError(`${path} is not JSON: ${(cause as Error).message}`, { cause });
  }
  if (typeof config !== "object" || config === null || Array.isArray(config)) {
    throw new ManifestError(`${path} must hold an object`);
  }
  const fields = new Map(Object.entries(config).filter(([, value]) => value !== null));
  const params: Record<string, unknown> = {};
  for (const [theirs, ours] of Object.entries(FIELDS)) {
    if (!fields.has(theirs)) continue;
    try {
      params[ours] = samplingParams({ [ours]: fields.get(theirs) })[ours];
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      throw new ManifestError(
        `${path}: ${error.message.replace(ours, theirs)}; correct it, or load the engine without this file`,
      );
    }
  }
  const eos = fields.get("eos_token_id") ?? [];
  const eosTokenIds: readonly unknown[] = Array.isArray(eos) ? eos : [eos];
  if (eosTokenIds.length > MAX_EOS_TOKENS || !eosTokenIds.every((id) => Number.isInteger(id) && (id as number) >= 0)) {
    throw new ManifestError(`${path}: eos_token_id must be a token id or a list of at most ${MAX_EOS_TOKENS}`);
  }
  return { params, eosTokenIds: eosTokenIds as readonly number[] };
}
