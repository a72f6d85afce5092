/** The recorded tokenizers and their cases (`../shared/golden/README.md`, "Tokenizers"). */
import { readFileSync } from "node:fs";
import { Tokenizer } from "../../../runtime/tokenizer/tokenizer.ts";

export const kinds = ["gemma", "glm4", "gpt2", "llama2", "llama3", "mistral", "opt", "qwen2"] as const;
export type Kind = (typeof kinds)[number];

export interface GoldenCase {
  readonly text: string;
  readonly ids: readonly number[];
  readonly ids_with_special: readonly number[];
  readonly decoded: string;
  readonly decoded_skip_special: string;
  /** Decodings of the first 1, 2, … ids; null for long texts. */
  readonly pieces: readonly string[] | null;
}

/** The folder of a recorded tokenizer, relative to the repository root, where the tests run. */
export const goldenFolder = (kind: Kind): string => `../shared/golden/tokenizers/${kind}`;

/** A fresh, mutable copy of a recorded tokenizer.json. */
export const readTokenizerJson = (kind: Kind): Record<string, unknown> =>
  JSON.parse(readFileSync(`${goldenFolder(kind)}/tokenizer.json`, "utf8"));

export const readCases = (kind: Kind): GoldenCase[] => JSON.parse(readFileSync(`${goldenFolder(kind)}/cases.json`, "utf8"));

export const loadGolden = (kind: Kind): Tokenizer => new Tokenizer(readTokenizerJson(kind));
