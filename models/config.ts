/**
 * Reads `config.json`, which is untrusted: every field is checked and bounded before anything is built from it.
 *
 * Both spellings are read: transformers 5 (`dtype`, `rope_parameters`) and transformers 4 (`torch_dtype`, `rope_theta`,
 * `rope_scaling`). What is common to all families stands here; a family adds its own fields to the schema.
 */
import { z } from "zod";
import type { ModelConfig } from "../compiler/architecture.ts";
import { CompileError, likeness, UnsupportedError } from "../compiler/errors.ts";

const extent = (most: number) => z.int().min(1).max(most);
const tokenId = z
  .int()
  .min(0)
  .max(2 ** 31 - 1);

/** Fields every decoder's config.json has. Absent, `rms_norm_eps` is 1e-6: `commonFields.rms_norm_eps.default(1e-5)` says otherwise. */
export const commonFields = {
  hidden_size: extent(2 ** 18),
  intermediate_size: extent(2 ** 20),
  num_hidden_layers: extent(1024),
  num_attention_heads: extent(4096),
  num_key_value_heads: extent(4096).nullish(),
  head_dim: extent(4096).nullish(),
  vocab_size: extent(2 ** 24),
  max_position_embeddings: extent(2 ** 26),
  rms_norm_eps: z.number().positive().max(1).default(1e-6),
  tie_word_embeddings: z.boolean().nullish(),
  hidden_act: z.string().default("silu"),
  dtype: z.string().nullish(),
  torch_dtype: z.string().nullish(),
  bos_token_id: tokenId.nullish(),
  eos_token_id: z.union([tokenId, z.array(tokenId).max(64)]).nullish(),
  quantization_config: z.record(z.string(), z.unknown()).nullish(),
};

type CommonFields = z.output<z.ZodObject<typeof commonFields>>;

/** Checks `json` against `schema`, ignoring fields it does not name. Throws `CompileError` naming each field that is wrong. */
export function readFields<S extends z.ZodType>(json: unknown, schema: S, at = ""): z.output<S> {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const valueAt = (path: readonly PropertyKey[]) =>
    path.reduce<unknown>((value, key) => (value as Record<PropertyKey, unknown> | undefined)?.[key], json);
  const lines = result.error.issues.map((issue) => {
    const found = valueAt(issue.path);
    const field = [...(at ? [at] : []), ...issue.path].join(".") || "the file";
    if (found !== undefined || issue.code !== "invalid_type" || issue.path.length === 0)
      return `config.json: ${field}: ${issue.message}; found ${describe(found)}`;
    const meant = misspelt(String(issue.path.at(-1)), valueAt(issue.path.slice(0, -1)));
    const remedy =
      meant === undefined ? "give it, or have the schema say what an absent one means: .default(…)" : `is ${meant} meant?`;
    return `config.json: ${field}: expected ${issue.expected}; found nothing: ${remedy}`;
  });
  throw new CompileError(lines.join("\n"));
}

/** The field of `object` that is spelt most like `name`, where one is. */
function misspelt(name: string, object: unknown): string | undefined {
  const [best] = Object.keys(object ?? {})
    .filter((field) => field !== name)
    .map((field) => ({ field, likeness: likeness(field, name) / Math.max(field.length, name.length) }))
    .sort((a, b) => b.likeness - a.likeness);
  return best !== undefined && best.likeness >= 0.75 ? best.field : undefined;
}

/** What a family says that config.json may leave out. */
export interface FamilyDefaults {
  readonly tieWordEmbeddings: boolean;
  /** Key and value heads when the field is absent; null means as many as query heads. */
  readonly numKvHeads: number | null;
  /** Head size when the field is absent; null means hiddenSize / numHeads. */
  readonly headDim: number | null;
  readonly bosTokenId: number | null;
  readonly eosTokenIds: readonly number[];
}

/** The facts common to all families. Throws `CompileError` for numbers that do not fit together, `UnsupportedError` for what is not done. */
export function readModelFacts(
  fields: Omit<CommonFields, "hidden_act"> & { hidden_act?: string },
  defaults: FamilyDefaults,
): Omit<ModelConfig, "architecture" | "numParameters"> & { readonly rmsNormEps: number } {
  if (fields.hidden_act !== undefined) requireActivation("hidden_act", fields.hidden_act, "silu");
  if (fields.quantization_config) {
    const method = describe(fields.quantization_config.quant_method);
    throw new UnsupportedError(
      `config.json: quantization_config: the checkpoint is quantized (${method}); only f32, f16 and bf16 weights are supported`,
    );
  }
  const numHeads = fields.num_attention_heads;
  // An explicit null means "as many as", an absent field the family's default.
  const numKvHeads = (fields.num_key_value_heads === undefined ? defaults.numKvHeads : fields.num_key_value_heads) ?? numHeads;
  if (numHeads % numKvHeads !== 0) {
    throw new CompileError(
      `config.json: num_attention_heads: expected a multiple of num_key_value_heads (${numKvHeads}); found ${numHeads}`,
    );
  }
  const headDim = (fields.head_dim === undefined ? defaults.headDim : fields.head_dim) ?? fields.hidden_size / numHeads;
  if (!Number.isInteger(headDim)) {
    throw new CompileError(
      `config.json: hidden_size: expected a multiple of num_attention_heads (${numHeads}) where head_dim is absent; found ${fields.hidden_size}`,
    );
  }
  // An explicit null means none, an absent field the family's default.
  const eos = fields.eos_token_id === undefined ? defaults.eosTokenIds : (fields.eos_token_id ?? []);
  return {
    hiddenSize: fields.hidden_size,
    intermediateSize: fields.intermediate_size,
    numLayers: fields.num_hidden_layers,
    numHeads,
    numKvHeads,
    headDim,
    vocabSize: fields.vocab_size,
    maxPositionEmbeddings: fields.max_position_embeddings,
    tieWordEmbeddings: fields.tie_word_embeddings ?? defaults.tieWordEmbeddings,
    dtype: readDType(fields),
    bosTokenId: fields.bos_token_id === undefined ? defaults.bosTokenId : fields.bos_token_id,
    eosTokenIds: typeof eos === "number" ? [eos] : eos,
    rmsNormEps: fields.rms_norm_eps,
  };
}

/** Throws `UnsupportedError` unless a family's activation is the one it has always had. */
export function requireActivation(field: string, found: string, expected: string): void {
  if (found !== expected) {
    throw new UnsupportedError(`config.json: ${field}: expected ${describe(expected)}; found ${describe(found)}`);
  }
}

function readDType(fields: Pick<CommonFields, "dtype" | "torch_dtype">): ModelConfig["dtype"] {
  const found = fields.dtype ?? fields.torch_dtype ?? "float32";
  const dtype = found.replace(/^torch\./, "");
  if (dtype === "float32" || dtype === "float16" || dtype === "bfloat16") return dtype;
  const field = fields.dtype ? "dtype" : "torch_dtype";
  throw new UnsupportedError(`config.json: ${field}: expected float32, float16 or bfloat16; found ${describe(found)}`);
}

/** A value as an error message shows it: short, whatever the file holds. */
export function describe(value: unknown): string {
  if (value === undefined) return "nothing";
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}
