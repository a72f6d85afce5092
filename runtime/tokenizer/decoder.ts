/**
 * What a tokenizer.json's `decoder` makes of each token: text or bytes, and what happens to the start of the whole text.
 *
 * A plan, not the decoding itself (`decode-stream.ts`). Chains are reduced to one canonical form so that a text can be
 * decoded token by token; a chain that has none (a strip at the end, a replace across tokens) is refused.
 */
import { ManifestError } from "../errors.ts";
import { fromByteChars } from "./byte-level.ts";
import { compilePattern } from "./pattern.ts";
import type { DecoderStep } from "./tokenizer-json.ts";

/**
 * One token, decoded.
 *
 * `text` stands by itself. `bytes` join the bytes before and after them, and what is not UTF-8 becomes U+FFFD (byte-level).
 * `byte` is one `<0xXX>`: a run of them is text if it is UTF-8 as a whole, else one U+FFFD each (byte fallback).
 */
export type Piece =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "bytes"; readonly bytes: Buffer }
  | { readonly kind: "byte"; readonly byte: number };

export interface DecoderPlan {
  /** Decodes one token; `isFirst` marks the first of a text. */
  readonly piece: (token: string, isFirst: boolean) => Piece;
  /** Whether `piece` looks at `isFirst`. */
  readonly minds: boolean;
  /** Stands between tokens: a space where there is no decoder. */
  readonly separator: string;
  /** Removed from the start of the whole text, at most `count` times. */
  readonly strip: { readonly char: string; readonly count: number } | null;
}

/** Reads the plan from the steps of `decoder` (null: none). Throws `ManifestError` on a chain that cannot be decoded token by token. */
export function buildDecoder(steps: readonly DecoderStep[] | null): DecoderPlan {
  if (steps === null) return { piece: (text) => ({ kind: "text", text }), minds: false, separator: " ", strip: null };
  const onToken: ((token: string, isFirst: boolean) => string)[] = [];
  let byteLevel = false;
  let byteFallback = false;
  let fused = false;
  let minds = false;
  let strip: DecoderPlan["strip"] = null;
  steps.forEach((step, i) => {
    const refuse = (why: string) =>
      new ManifestError(
        `tokenizer.json: decoder step ${i + 1} (${step.type}) ${why}; supported are ByteLevel, and Replace, Metaspace, Strip, ByteFallback, Fuse, Strip in this order`,
      );
    if (byteLevel && step.type !== "Fuse") throw refuse("follows ByteLevel");
    switch (step.type) {
      case "ByteLevel":
        if (onToken.length > 0 || byteFallback || fused) throw refuse("must come first");
        byteLevel = true;
        break;
      case "Fuse":
        fused = true;
        break;
      case "ByteFallback":
        if (fused || byteFallback) throw refuse("comes too late");
        byteFallback = true;
        break;
      case "Replace": {
        if (fused || byteFallback) throw refuse("works across tokens");
        const regex = compilePattern(step.pattern, `decoder step ${i + 1}`);
        onToken.push((token) => token.replace(regex, () => step.content));
        break;
      }
      case "Metaspace": {
        if (fused || byteFallback) throw refuse("works across tokens");
        const drops = (step.prepend_scheme ?? (step.add_prefix_space === false ? "never" : "always")) !== "never";
        onToken.push((token, isFirst) => token.replaceAll(step.replacement, drops && isFirst ? "" : " "));
        minds ||= drops;
        break;
      }
      case "Strip": {
        if (step.stop > 0 || strip !== null) throw refuse("strips more than the start");
        if (!fused) throw refuse("strips each token");
        strip = { char: step.content, count: step.start };
        break;
      }
    }
  });
  const piece = (token: string, isFirst: boolean): Piece => {
    if (byteLevel) return { kind: "bytes", bytes: fromByteChars(token) };
    const text = onToken.reduce((t, change) => change(t, isFirst), token);
    // Rust parses two hexadecimal digits of either case.
    if (byteFallback && /^<0x[0-9a-fA-F]{2}>$/.test(text)) return { kind: "byte", byte: Number.parseInt(text.slice(3, 5), 16) };
    return { kind: "text", text };
  };
  return { piece, minds, separator: "", strip };
}
