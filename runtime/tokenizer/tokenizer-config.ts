/**
 * What a model folder says about its tokenizer beside tokenizer.json: names of special tokens, more added tokens, chat templates.
 *
 * Reads tokenizer_config.json and, for names it lacks, special_tokens_map.json; both may be absent. The class named there is
 * not followed: tokenizer.json alone says how text is cut. `clean_up_tokenization_spaces` is not applied, because it changes
 * text that the model wrote and cannot be undone.
 */
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { ManifestError } from "../errors.ts";
import { type AddedTokenEntry, maxTokenId } from "./tokenizer-json.ts";

const specialTokenNames = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"] as const;

/** transformers' names of special tokens. */
export type SpecialTokenName = (typeof specialTokenNames)[number];

const tokenSchema = z.union([z.string(), z.object({ content: z.string() }).transform((token) => token.content), z.null()]);
const namesSchema = z.object(
  Object.fromEntries(specialTokenNames.map((name) => [name, tokenSchema.optional()])) as Record<
    SpecialTokenName,
    z.ZodOptional<typeof tokenSchema>
  >,
);
const flag = z.boolean().default(false);
const configSchema = namesSchema.extend({
  chat_template: z.union([z.string(), z.array(z.object({ name: z.string(), template: z.string() }))]).nullish(),
  added_tokens_decoder: z
    .record(
      z.string().regex(/^\d{1,7}$/, "expected token ids as keys"),
      z.object({
        content: z.string().max(10_000),
        single_word: flag,
        lstrip: flag,
        rstrip: flag,
        normalized: flag,
        special: flag,
      }),
    )
    .optional(),
});

export interface TokenizerConfig {
  readonly specialTokens: Readonly<Partial<Record<SpecialTokenName, string>>>;
  /** `chat_template` as transformers reads it: named templates, a single one named "default"; empty where there is none. */
  readonly chatTemplates: Readonly<Record<string, string>>;
  readonly addedTokens: readonly AddedTokenEntry[];
}

/** Checks a parsed tokenizer_config.json (undefined: absent) and special_tokens_map.json. Throws `ManifestError`. */
export function parseTokenizerConfig(config: unknown, specialTokensMap?: unknown): TokenizerConfig {
  const checked = check(configSchema, config ?? {}, "tokenizer_config.json");
  const names = check(namesSchema, specialTokensMap ?? {}, "special_tokens_map.json");
  const specialTokens: Partial<Record<SpecialTokenName, string>> = {};
  for (const name of specialTokenNames) {
    const token = checked[name] === undefined ? names[name] : checked[name];
    if (token !== undefined && token !== null) specialTokens[name] = token;
  }
  const template = checked.chat_template ?? [];
  const addedTokens = Object.entries(checked.added_tokens_decoder ?? {}).map(([id, token]) => ({ id: Number(id), ...token }));
  const tooLarge = addedTokens.find((token) => token.id > maxTokenId);
  if (tooLarge !== undefined) {
    throw new ManifestError(
      `tokenizer_config.json: added_tokens_decoder has the id ${tooLarge.id}; expected at most ${maxTokenId}`,
    );
  }
  return {
    specialTokens,
    chatTemplates:
      typeof template === "string" ? { default: template } : Object.fromEntries(template.map((t) => [t.name, t.template])),
    addedTokens,
  };
}

/** Reads both files of a model or engine folder; an absent one counts as empty. Throws `ManifestError`. */
export async function loadTokenizerConfig(folder: string): Promise<TokenizerConfig> {
  const [config, names] = await Promise.all([
    readJson(folder, "tokenizer_config.json", 64 * 2 ** 20),
    readJson(folder, "special_tokens_map.json", 2 ** 20),
  ]);
  return parseTokenizerConfig(config, names);
}

/** Reads a text file of a model folder, undefined where there is none. Throws `ManifestError` over `maxBytes` or when it cannot be read. */
export async function readModelFile(folder: string, name: string, maxBytes: number): Promise<string | undefined> {
  const path = join(folder, name);
  try {
    const { size } = await stat(path);
    if (size > maxBytes) throw new ManifestError(`${path} is ${size} bytes; expected at most ${maxBytes}`);
    return await readFile(path, "utf8");
  } catch (error) {
    if (error instanceof ManifestError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return undefined;
    throw new ManifestError(`${path} cannot be read (${code}); expected a readable file`, { cause: error });
  }
}

/** Parses a JSON file of a model folder, undefined where there is none. Throws `ManifestError` when it is not JSON. */
export async function readJson(folder: string, name: string, maxBytes: number): Promise<unknown> {
  const text = await readModelFile(folder, name, maxBytes);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new ManifestError(`${join(folder, name)} is not JSON: ${why}. Copy it again from the model's source`, { cause: error });
  }
}

function check<T>(schema: z.ZodType<T>, value: unknown, file: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  throw new ManifestError(`${file}: ${issue.path.join(".") || "the file"}: ${issue.message}`);
}
