/** Streamed decoding: adds up to the whole, and shows nothing that is not complete. */
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Tokenizer } from "../../../runtime/tokenizer/tokenizer.ts";
import { kinds, loadGolden, readCases, readTokenizerJson } from "./golden-tokenizers.ts";

const streamed = (tokenizer: Tokenizer, ids: readonly number[], skipSpecialTokens = false): string[] => {
  const stream = tokenizer.stream({ skipSpecialTokens });
  return [...ids.map((id) => stream.push(id)), stream.flush()];
};

/** Decodes the way tokenizers does: from the vocabulary's spelling and the whole list of tokens, with no state between them. */
function decodeAtOnce(tokenizer: Tokenizer, kind: string, ids: readonly number[], skipSpecialTokens: boolean): string {
  const tokens = ids
    .filter((id) => !(skipSpecialTokens && tokenizer.specialIds.has(id)))
    .flatMap((id) => tokenizer.idToToken(id) ?? []);
  if (kind !== "gemma" && kind !== "llama2" && kind !== "mistral") {
    const alphabet = readAlphabet();
    const bytes = tokens.flatMap((token) => {
      const mapped = [...token].map((char) => alphabet.get(char));
      return mapped.every((b) => b !== undefined) ? mapped : [...Buffer.from(token)];
    });
    return Buffer.from(bytes).toString("utf8");
  }
  let text = "";
  let run: number[] = [];
  const endRun = (): void => {
    const decoded = Buffer.from(run).toString("utf8");
    text += Buffer.from(decoded).equals(Buffer.from(run)) ? decoded : "\ufffd".repeat(run.length);
    run = [];
  };
  for (const token of tokens) {
    const byte = /^<0x([0-9A-F]{2})>$/.exec(token);
    if (byte) run.push(Number.parseInt(byte[1]!, 16));
    else {
      endRun();
      text += token.replaceAll("▁", " ");
    }
  }
  endRun();
  return kind !== "gemma" && text.startsWith(" ") ? text.slice(1) : text;
}

/** GPT-2's byte characters, rebuilt as its source does: printable Latin-1 stands for itself, the rest follow from U+0100. */
function readAlphabet(): Map<string, number> {
  const alphabet = new Map<string, number>();
  let n = 0;
  for (let b = 0; b < 256; b++) {
    const isPrintable = /[!-~¡-¬®-ÿ]/.test(String.fromCharCode(b));
    alphabet.set(String.fromCharCode(isPrintable ? b : 256 + n++), b);
  }
  return alphabet;
}

describe.each(kinds)("%s", (kind) => {
  const tokenizer = loadGolden(kind);
  const cases = readCases(kind);

  it("adds up to every recorded decoding", () => {
    for (const c of cases) {
      expect(streamed(tokenizer, c.ids).join("")).toBe(c.decoded);
      expect(streamed(tokenizer, c.ids_with_special, true).join("")).toBe(c.decoded_skip_special);
    }
  });

  it("shows at each token a part of the recorded decoding so far, none of it broken", () => {
    for (const c of cases) {
      if (c.pieces === null || c.decoded.includes("\ufffd")) continue;
      let shown = "";
      streamed(tokenizer, c.ids).forEach((text, i) => {
        shown += text;
        expect(shown).not.toContain("\ufffd");
        expect(c.decoded.startsWith(shown)).toBe(true);
        // Nothing is held back that is certain: a decoding that ends in whole characters, outside a run of bytes, is shown.
        const piece = c.pieces?.[i];
        const isByte = /^<0x..>$/.test(tokenizer.idToToken(c.ids[i] ?? -1) ?? "");
        if (piece !== undefined && !piece.includes("\ufffd") && !isByte) expect(shown).toBe(piece);
      });
    }
  });

  const textIds = cases.flatMap((c) => [...c.ids]);
  const anyId = fc.oneof(
    fc.nat(tokenizer.vocabSize - 1),
    fc.nat(300), // bytes, and pieces of characters
    fc.nat(textIds.length - 1).map((i) => textIds[i]!),
    fc.constantFrom(...tokenizer.specialIds, tokenizer.vocabSize + 5),
  );

  it("adds up to the decoding of the whole for random ids", () => {
    fc.assert(
      fc.property(fc.array(anyId, { maxLength: 40 }), fc.boolean(), (ids, skipSpecialTokens) => {
        const whole = decodeAtOnce(tokenizer, kind, ids, skipSpecialTokens);
        expect(streamed(tokenizer, ids, skipSpecialTokens).join("")).toBe(whole);
        expect(tokenizer.decode(ids, { skipSpecialTokens })).toBe(whole);
      }),
      { numRuns: 1000 },
    );
  });

  it("never splits a surrogate pair", () => {
    fc.assert(
      fc.property(fc.array(anyId, { maxLength: 40 }), (ids) => {
        for (const text of streamed(tokenizer, ids)) expect(text).not.toMatch(/\p{Cs}/u);
      }),
      { numRuns: 300 },
    );
  });

  it("starts anew after a flush", () => {
    const stream = tokenizer.stream();
    for (const c of cases.slice(0, 20)) {
      const text = c.ids.map((id) => stream.push(id)).join("") + stream.flush();
      expect(text).toBe(c.decoded);
    }
  });

  it("keeps up with 256 sequences", () => {
    const streams = Array.from({ length: 256 }, () => tokenizer.stream());
    const ids = tokenizer.encode(readFileSync("../shared/models/eval.txt", "utf8").slice(0, 20_000)).slice(0, 1000);
    let shown = 0;
    const start = performance.now();
    for (const id of ids) for (const stream of streams) shown += stream.push(id).length;
    const usPerToken = ((performance.now() - start) * 1000) / (ids.length * streams.length);
    expect(shown).toBeGreaterThan(ids.length * 100);
    expect(usPerToken).toBeLessThan(100); // decoding a whole sequence anew for each token takes longer
  });
});

describe("older decoders", () => {
  it("of Metaspace drop the first token's marks and keep the others", () => {
    for (const decoder of [
      { type: "Metaspace", replacement: "▁", add_prefix_space: true },
      { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: false },
    ]) {
      const tokenizer = new Tokenizer({ ...readTokenizerJson("mistral"), decoder });
      const ids = tokenizer.encode("Hello world the the", { addSpecialTokens: false });
      expect(streamed(tokenizer, ids).join("")).toBe("Hello world the the");
      const the = tokenizer.tokenToId("▁the")!;
      expect(streamed(tokenizer, [the, the])).toEqual(["the", " the", ""]);
    }
  });

  it("that are absent leave spaces between tokens", () => {
    const tokenizer = new Tokenizer({ ...readTokenizerJson("mistral"), decoder: null });
    expect(streamed(tokenizer, [tokenizer.tokenToId("a")!, tokenizer.tokenToId("▁the")!])).toEqual(["a", " ▁the", ""]);
  });

  it("that cannot be run token by token are refused", () => {
    const json = readTokenizerJson("llama2");
    for (const [decoders, message] of [
      [
        [{ type: "Fuse" }, { type: "Replace", pattern: { String: "a" }, content: "b" }],
        /decoder step 2 \(Replace\) works across tokens/,
      ],
      [
        [{ type: "Fuse" }, { type: "Strip", content: " ", start: 0, stop: 1 }],
        /decoder step 2 \(Strip\) strips more than the start/,
      ],
      [[{ type: "WordPiece", prefix: "##", cleanup: true }], /decoder\.decoders\[0\].*WordPiece/],
    ] as const) {
      expect(() => new Tokenizer({ ...json, decoder: { type: "Sequence", decoders } })).toThrow(message);
    }
  });
});
