/** Recorded encodings and decodings of every published kind of tokenizer, and what holds for all of them. */
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Tokenizer } from "../../../runtime/tokenizer/tokenizer.ts";
import { goldenFolder, kinds, loadGolden, readCases, readTokenizerJson } from "./golden-tokenizers.ts";

const evalText = readFileSync("../shared/models/eval.txt", "utf8");

describe.each(kinds)("%s", (kind) => {
  const tokenizer = loadGolden(kind);
  const cases = readCases(kind);
  // What a tokenizer's own rules change: qwen2 composes, the SentencePiece-style ones write spaces as "▁" and cannot tell
  // them apart again, and mistral takes one leading space for the one that it prepends.
  const roundTrip = (text: string): string => {
    if (kind === "qwen2") return text.normalize("NFC");
    if (kind !== "gemma" && kind !== "llama2" && kind !== "mistral") return text;
    const spaced = text.replaceAll("▁", " ");
    return kind === "mistral" && spaced.startsWith(" ") ? spaced.slice(1) : spaced;
  };

  it("has recorded cases", () => expect(cases.length).toBeGreaterThan(50));

  it.each(cases.map((c) => [JSON.stringify(c.text).slice(0, 60), c] as const))("encodes and decodes %s as recorded", (_, c) => {
    expect(tokenizer.encode(c.text, { addSpecialTokens: false })).toEqual(c.ids);
    expect(tokenizer.encode(c.text)).toEqual(c.ids_with_special);
    expect(tokenizer.decode(c.ids)).toBe(c.decoded);
    expect(tokenizer.decode(c.ids_with_special, { skipSpecialTokens: true })).toBe(c.decoded_skip_special);
    c.pieces?.forEach((piece, i) => {
      expect(tokenizer.decode(c.ids.slice(0, i + 1))).toBe(piece);
    });
  });

  it("names its tokens both ways", () => {
    for (let id = 0; id < tokenizer.vocabSize; id++) {
      const token = tokenizer.idToToken(id);
      expect(token).toBeDefined();
      expect(tokenizer.tokenToId(token!)).toBe(id);
    }
    expect(tokenizer.idToToken(tokenizer.vocabSize)).toBeUndefined();
    expect(tokenizer.tokenToId("no such token")).toBeUndefined();
  });

  it("leaves out special tokens on request and unknown ids always", () => {
    for (const id of tokenizer.specialIds) {
      expect(tokenizer.decode([id], { skipSpecialTokens: true })).toBe("");
      expect(tokenizer.decode([id])).not.toBe("");
    }
    expect(tokenizer.decode([tokenizer.vocabSize, 1e9, -1, Number.NaN])).toBe("");
  });

  it("gives each token's bytes, which add up to the text of their run", () => {
    for (const c of cases) {
      const text = Buffer.concat(c.ids.map((id) => tokenizer.tokenBytes(id))).toString("utf8");
      // The decoders of llama2 and mistral strip the first space of a whole text.
      expect(text === c.decoded || text === ` ${c.decoded}`).toBe(true);
    }
    expect(tokenizer.tokenBytes(tokenizer.vocabSize)).toHaveLength(0);
  });

  it("encodes any text without losing a character", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", maxLength: 80 }), (text) => {
        const decoded = tokenizer.decode(tokenizer.encode(text), { skipSpecialTokens: true });
        expect(decoded).toBe(roundTrip(text));
      }),
      { numRuns: 300 },
    );
  });

  it("takes a lone surrogate for U+FFFD", () => {
    expect(tokenizer.encode("a\ud800b")).toEqual(tokenizer.encode("a\ufffdb"));
  });

  it("refuses a text of more tokens than asked for, and takes one of as many", () => {
    const ids = tokenizer.encode(evalText.slice(0, 1000));
    expect(tokenizer.encode(evalText.slice(0, 1000), { maxTokens: ids.length })).toEqual(ids);
    expect(() => tokenizer.encode(evalText.slice(0, 1000), { maxTokens: 50 })).toThrow("has more than 50 tokens");
    const special = [...tokenizer.specialIds].map((id) => tokenizer.idToToken(id)!)[0];
    if (special !== undefined) {
      expect(() => tokenizer.encode(special.repeat(60), { maxTokens: 50 })).toThrow("has more than 50 tokens");
    }
  });

  it("encodes long texts without loss, in time that grows with their length", () => {
    const timeOf = (text: string): number => {
      const start = performance.now();
      const ids = tokenizer.encode(text, { addSpecialTokens: false });
      const ms = performance.now() - start;
      expect(tokenizer.decode(ids)).toBe(roundTrip(text));
      return ms;
    };
    timeOf(evalText.slice(0, 10_000));
    // Quadratic time would be tens of seconds here; the bounds leave room for a busy machine.
    expect(timeOf(evalText.repeat(4))).toBeLessThan(5_000);
    for (const unit of ["a", " ", "ab", "\n", "é", "😀", "x "]) {
      expect(timeOf(unit.repeat(100_000 / unit.length))).toBeLessThan(5_000);
    }
  });
});

describe("a folder", () => {
  it("gives the tokenizer its special tokens and a model's chat its ids", async () => {
    const tokenizer = await Tokenizer.load("../shared/models/pebble");
    expect(tokenizer.eosToken).toBe("<|im_end|>");
    expect(tokenizer.bosToken).toBeUndefined();
    expect(tokenizer.vocabSize).toBe(4096);
    const reference = JSON.parse(readFileSync("../shared/models/pebble/reference.json", "utf8"));
    expect(reference.completions).toHaveLength(4);
    for (const completion of reference.completions) {
      expect(tokenizer.encode(completion.prompt)).toEqual(completion.ids);
      expect(tokenizer.decode(completion.greedy, { skipSpecialTokens: true })).toBe(completion.text);
    }
    for (const chat of reference.chats) {
      expect(tokenizer.decode(chat.greedy, { skipSpecialTokens: true })).toBe(chat.text);
    }
  });

  it("needs no tokenizer_config.json", async () => {
    const tokenizer = await Tokenizer.load(goldenFolder("qwen2"));
    expect(tokenizer.specialTokens).toEqual({});
    expect(tokenizer.decode(tokenizer.encode("Hello"))).toBe("Hello");
  });

  it("without a tokenizer.json is refused with the remedy", async () => {
    await expect(Tokenizer.load("../shared/golden/llama")).rejects.toThrow(/tokenizer\.json is missing;.*save_pretrained/);
  });
});

describe("merges", () => {
  it("give the same ids when a SentencePiece-style text is not cut at its spaces", () => {
    for (const kind of ["llama2", "mistral", "gemma"] as const) {
      const json = readTokenizerJson(kind);
      const model = json.model as { vocab: Record<string, number>; merges: [string, string][] };
      // A merge that joins a letter to a following space, of a character that the text does not have.
      const id = Math.max(...Object.values(model.vocab)) + 100;
      model.vocab["\ue000"] = id;
      model.vocab["\ue000▁"] = id + 1;
      model.merges.push(["\ue000", "▁"]);
      const uncut = new Tokenizer(json);
      const cut = loadGolden(kind);
      expect(uncut.encode(evalText)).toEqual(cut.encode(evalText));
    }
  });
});
