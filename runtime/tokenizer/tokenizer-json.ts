/**
 * The shape of a tokenizer.json that this runtime can run, and its validator.
 *
 * The file is untrusted: sizes and ids are bounded, sections outside the subset that language models use (Unigram, WordPiece,
 * sub-word affixes, …) are refused by name. Source: the serialization of tokenizers 0.23. `truncation` and `padding` are
 * ignored, as transformers does for a prompt.
 */
import { z } from "zod";
import { ManifestError } from "../errors.ts";

/** Ids are table indices here; the largest published vocabulary has 262,144. */
export const maxTokenId = 2 ** 22;

const patternSchema = z.union([z.object({ String: z.string() }), z.object({ Regex: z.string() })]);
const behaviorSchema = z.enum(["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]);

const normalizerSchema = z.discriminatedUnion("type", [
  z.object({ type: z.enum(["NFC", "NFD", "NFKC", "NFKD", "Lowercase"]) }),
  z.object({ type: z.literal("Strip"), strip_left: z.boolean(), strip_right: z.boolean() }),
  z.object({ type: z.literal("Prepend"), prepend: z.string() }),
  z.object({ type: z.literal("Replace"), pattern: patternSchema, content: z.string() }),
]);

const metaspaceSchema = z.object({
  type: z.literal("Metaspace"),
  replacement: z.string().refine((s) => [...s].length === 1, "expected one character"),
  prepend_scheme: z.enum(["always", "first", "never"]).optional(),
  add_prefix_space: z.boolean().optional(), // before tokenizers 0.15: true is "always", false is "never"
  split: z.boolean().default(true),
});

const preTokenizerSchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("Split"), pattern: patternSchema, behavior: behaviorSchema, invert: z.boolean().default(false) }),
  z.object({ type: z.literal("ByteLevel"), add_prefix_space: z.boolean().default(true), use_regex: z.boolean().default(true) }),
  metaspaceSchema,
  z.object({ type: z.literal("Digits"), individual_digits: z.boolean().default(false) }),
  z.object({ type: z.literal("Punctuation"), behavior: behaviorSchema.default("Isolated") }),
]);

const templatePieceSchema = z.union([
  z.object({ SpecialToken: z.object({ id: z.string() }) }),
  z.object({ Sequence: z.object({ id: z.enum(["A", "B"]) }) }),
]);
const postProcessorSchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("ByteLevel") }), // only moves offsets
  z.object({
    type: z.literal("TemplateProcessing"),
    single: z.array(templatePieceSchema).max(64),
    special_tokens: z.record(z.string(), z.object({ ids: z.array(z.int().min(0).max(maxTokenId)).max(64) })),
  }),
]);

const decoderSchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("ByteLevel") }),
  z.object({ type: z.literal("ByteFallback") }),
  z.object({ type: z.literal("Fuse") }),
  z.object({ type: z.literal("Replace"), pattern: patternSchema, content: z.string() }),
  z.object({ type: z.literal("Strip"), content: z.string(), start: z.int().min(0).max(1024), stop: z.int().min(0).max(1024) }),
  metaspaceSchema,
]);

const addedTokenSchema = z.object({
  id: z.int().min(0).max(maxTokenId),
  content: z.string().max(10_000),
  single_word: z.boolean().default(false),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
  normalized: z.boolean().default(true),
  special: z.boolean().default(false),
});

const modelSchema = z.object({
  dropout: z.null({ error: "expected null: encoding must be deterministic" }).or(z.literal(0)).optional(),
  unk_token: z.string().nullable().default(null),
  continuing_subword_prefix: z.literal("").nullable().optional(),
  end_of_word_suffix: z.literal("").nullable().optional(),
  fuse_unk: z.boolean().default(false),
  byte_fallback: z.boolean().default(false),
  ignore_merges: z.boolean().default(false),
});

export type NormalizerStep = z.infer<typeof normalizerSchema>;
export type PreTokenizerStep = z.infer<typeof preTokenizerSchema>;
export type PostProcessorStep = z.infer<typeof postProcessorSchema>;
export type DecoderStep = z.infer<typeof decoderSchema>;
export type AddedTokenEntry = z.infer<typeof addedTokenSchema>;

/** A checked tokenizer.json: every section that may be absent, single or a sequence is a list of steps. */
export interface TokenizerJson {
  readonly normalizer: readonly NormalizerStep[];
  readonly preTokenizer: readonly PreTokenizerStep[];
  readonly postProcessor: readonly PostProcessorStep[];
  /** null where the file has none: tokens are then joined with spaces. */
  readonly decoder: readonly DecoderStep[] | null;
  readonly model: z.infer<typeof modelSchema>;
  readonly vocab: ReadonlyMap<string, number>;
  readonly merges: readonly (readonly [string, string])[];
  readonly addedTokens: readonly AddedTokenEntry[];
}

/** Checks a parsed tokenizer.json. Throws `ManifestError` naming the section, what was expected and what was found. */
export function parseTokenizerJson(json: unknown): TokenizerJson {
  if (!isRecord(json)) throw new ManifestError(`tokenizer.json: expected an object, found ${kindOf(json)}`);
  const model = json.model;
  if (!isRecord(model))
    throw new ManifestError(`tokenizer.json: expected the section "model" to be an object, found ${kindOf(model)}`);
  const type = model.type ?? (Array.isArray(model.merges) ? "BPE" : undefined);
  if (type !== "BPE") {
    throw new ManifestError(
      `tokenizer.json: model.type is ${JSON.stringify(type)}; only "BPE" is supported. Convert the tokenizer with transformers (a fast tokenizer saves as BPE where it can)`,
    );
  }
  const decoder = steps(decoderSchema, json.decoder, "decoder", "decoders");
  return {
    normalizer: steps(normalizerSchema, json.normalizer, "normalizer", "normalizers"),
    preTokenizer: steps(preTokenizerSchema, json.pre_tokenizer, "pre_tokenizer", "pretokenizers"),
    postProcessor: steps(postProcessorSchema, json.post_processor, "post_processor", "processors"),
    decoder: json.decoder === null || json.decoder === undefined ? null : decoder,
    model: check(modelSchema, model, "model"),
    vocab: parseVocab(model.vocab),
    merges: parseMerges(model.merges),
    addedTokens: check(z.array(addedTokenSchema).max(maxTokenId), json.added_tokens ?? [], "added_tokens"),
  };
}

/** Flattens `null`, one step, or `{type: "Sequence", [key]: […]}` (nested at most 8 deep) into checked steps. */
function steps<T>(schema: z.ZodType<T>, section: unknown, where: string, key: string, depth = 0): T[] {
  if (section === null || section === undefined) return [];
  if (!isRecord(section) || section.type !== "Sequence") return [check(schema, section, where)];
  const list = section[key];
  if (!Array.isArray(list) || list.length > 64 || depth > 8) {
    throw new ManifestError(`tokenizer.json: expected ${where}.${key} to be a list of at most 64 steps, found ${kindOf(list)}`);
  }
  return list.flatMap((step, i) => steps(schema, step, `${where}.${key}[${i}]`, key, depth + 1));
}

function check<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const path = [where, ...issue.path].join(".");
  const found = isRecord(value) && issue.path.length <= 1 ? ` (type ${JSON.stringify(value.type)})` : "";
  throw new ManifestError(`tokenizer.json: ${path}${found} is not supported: ${issue.message}`);
}

// By hand: a schema library takes seconds over 200,000 entries.
function parseVocab(vocab: unknown): Map<string, number> {
  if (!isRecord(vocab)) {
    throw new ManifestError(`tokenizer.json: expected model.vocab to map tokens to ids, found ${kindOf(vocab)}`);
  }
  const ids = new Map<string, number>();
  for (const [token, id] of Object.entries(vocab)) {
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) > maxTokenId) {
      throw new ManifestError(
        `tokenizer.json: model.vocab[${JSON.stringify(token)}] is ${JSON.stringify(id)}; expected an id of 0 to ${maxTokenId}`,
      );
    }
    ids.set(token, id as number);
  }
  return ids;
}

/** Both spellings: `["a", "b"]`, and `"a b"` before tokenizers 0.20. */
function parseMerges(merges: unknown): (readonly [string, string])[] {
  if (!Array.isArray(merges) || merges.length > maxTokenId) {
    throw new ManifestError(
      `tokenizer.json: expected model.merges to be a list of at most ${maxTokenId} pairs, found ${kindOf(merges)}`,
    );
  }
  return merges.map((merge: unknown, rank) => {
    const pair: unknown = typeof merge === "string" ? merge.split(" ") : merge;
    if (!Array.isArray(pair) || pair.length !== 2 || typeof pair[0] !== "string" || typeof pair[1] !== "string") {
      throw new ManifestError(
        `tokenizer.json: model.merges[${rank}] is ${JSON.stringify(merge)?.slice(0, 100)}; expected ["left", "right"] or "left right"`,
      );
    }
    return [pair[0], pair[1]] as const;
  });
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function kindOf(value: unknown): string {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  return Array.isArray(value) ? `a list of ${value.length}` : typeof value;
}
