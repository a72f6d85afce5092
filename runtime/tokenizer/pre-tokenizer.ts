/** Cuts normalized text into the pieces that BPE merges within. */
import { toByteChars } from "./byte-level.ts";
import { compilePattern, type SplitBehavior, splitByPattern } from "./pattern.ts";
import type { PreTokenizerStep } from "./tokenizer-json.ts";

/** GPT-2's own pattern (openai/gpt-2, src/encoder.py), which a ByteLevel step uses unless told otherwise. */
const gpt2Pattern = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** Pieces in, pieces out; `isStart` says that the first piece begins the whole text. */
type Cut = (pieces: readonly string[], isStart: boolean) => string[];

export interface PreTokenizer {
  readonly cut: (text: string, isStart: boolean) => string[];
  /** The pieces are plain text that BPE is to read as byte characters; a last ByteLevel step is left to it, for its cache. */
  readonly byteLevel: boolean;
}

/** Chains the steps of a tokenizer.json's `pre_tokenizer`. */
export function buildPreTokenizer(steps: readonly PreTokenizerStep[]): PreTokenizer {
  const byteLevel = steps.at(-1)?.type === "ByteLevel";
  const chain = steps.map((step, i) => buildStep(step, `pre_tokenizer step ${i + 1}`, i === steps.length - 1));
  return { cut: (text, isStart) => chain.reduce<string[]>((pieces, cut) => cut(pieces, isStart), [text]), byteLevel };
}

function buildStep(step: PreTokenizerStep, where: string, isLast: boolean): Cut {
  switch (step.type) {
    case "Split":
      return cutter(compilePattern(step.pattern, where), step.behavior, step.invert);
    case "Digits":
      return cutter(/\p{N}/gu, step.individual_digits ? "Isolated" : "Contiguous", false);
    case "Punctuation":
      return cutter(/[!-/:-@[-`{-~]|\p{P}/gu, step.behavior, false);
    case "ByteLevel": {
      const words = step.use_regex ? cutter(compilePattern({ Regex: gpt2Pattern }, where), "Isolated", false) : null;
      return (pieces, isStart) => {
        const spaced = step.add_prefix_space ? pieces.map((p) => (p.startsWith(" ") ? p : ` ${p}`)) : [...pieces];
        const cut = words === null ? spaced : words(spaced, isStart);
        return isLast ? cut : cut.map(toByteChars);
      };
    }
    case "Metaspace": {
      const mark = step.replacement;
      const scheme = step.prepend_scheme ?? (step.add_prefix_space === false ? "never" : "always");
      const words = step.split ? cutter(compilePattern({ String: mark }, where), "MergedWithNext", false) : null;
      return (pieces, isStart) => {
        const marked = pieces.map((piece, i) => {
          const text = piece.replaceAll(" ", mark);
          const prepends = scheme === "always" || (scheme === "first" && isStart && i === 0);
          return prepends && !text.startsWith(mark) ? mark + text : text;
        });
        return words === null ? marked : words(marked, isStart);
      };
    }
  }
}

function cutter(regex: RegExp, behavior: SplitBehavior, invert: boolean): Cut {
  return (pieces) => pieces.flatMap((piece) => splitByPattern(piece, regex, behavior, invert));
}
