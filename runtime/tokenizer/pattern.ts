/**
 * The patterns of a tokenizer.json as JavaScript regular expressions.
 *
 * Published patterns are written for Oniguruma (`(?i:…)`, possessive quantifiers, `\s` as Unicode White_Space); their
 * translation is oniguruma-to-es's. Matching them against hostile text is limited by whoever runs them (`time-limit.ts`).
 */
import { toRegExp } from "oniguruma-to-es";
import { ManifestError } from "../errors.ts";

/** `{"String": …}` matches literally, `{"Regex": …}` is an Oniguruma pattern. */
export type Pattern = { readonly String: string } | { readonly Regex: string };

const maxPatternLength = 20_000;

/** Compiles a pattern into a global RegExp; `where` names its place in tokenizer.json. Throws `ManifestError` on one that cannot be compiled. */
export function compilePattern(pattern: Pattern, where: string): RegExp {
  if ("String" in pattern) {
    if (pattern.String === "") throw new ManifestError(`tokenizer.json: ${where} is an empty string; it matches nothing`);
    return new RegExp(pattern.String.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"), "gu");
  }
  const source = pattern.Regex;
  const fail = (why: string, cause?: unknown) =>
    new ManifestError(`tokenizer.json: ${where} is not a pattern that can be compiled: ${why}: ${source.slice(0, 200)}`, {
      cause,
    });
  if (source.length > maxPatternLength) throw fail(`${source.length} characters, the limit is ${maxPatternLength}`);
  // Their expansion can be exponential, and no published pattern has one.
  if (/\\g[<']/.test(source)) throw fail("subroutine calls (\\g) are not supported");
  try {
    // Only the bounds of matches are read, so the hidden captures of a subclass are not needed.
    const regex = toRegExp(source, { global: true, avoidSubclass: true, target: "ES2024", rules: { recursionLimit: 20 } });
    regex.test(""); // V8 compiles lazily: a pattern that is too large for it shows here
    regex.lastIndex = 0;
    return regex;
  } catch (error) {
    throw fail(error instanceof Error ? error.message : String(error), error);
  }
}

export type SplitBehavior = "Removed" | "Isolated" | "MergedWithPrevious" | "MergedWithNext" | "Contiguous";

/** Cuts `text` at the matches of `regex` as tokenizers' `SplitDelimiterBehavior` says; empty pieces are dropped. */
export function splitByPattern(text: string, regex: RegExp, behavior: SplitBehavior, invert: boolean): string[] {
  const starts: number[] = [];
  const isMatch: boolean[] = [];
  let end = 0;
  for (const match of text.matchAll(regex)) {
    const start = match.index;
    if (match[0].length === 0) continue;
    if (start > end) {
      starts.push(end);
      isMatch.push(invert);
    }
    starts.push(start);
    isMatch.push(!invert);
    end = start + match[0].length;
  }
  if (end < text.length) {
    starts.push(end);
    isMatch.push(invert);
  }
  const pieces: string[] = [];
  // A piece is the run of segments first … i; `joins` says whether segment i + 1 continues it.
  const joins = (i: number): boolean => {
    if (behavior === "MergedWithPrevious") return isMatch[i + 1]! && !isMatch[i]!;
    if (behavior === "MergedWithNext") return isMatch[i]! && !isMatch[i + 1]!;
    if (behavior === "Contiguous") return isMatch[i] === isMatch[i + 1];
    return false;
  };
  let first = 0;
  for (let i = 0; i < starts.length; i++) {
    if (i + 1 < starts.length && joins(i)) continue;
    if (behavior !== "Removed" || !isMatch[i]!) pieces.push(text.slice(starts[first], starts[i + 1] ?? text.length));
    first = i + 1;
  }
  return pieces;
}
