/** Tokenizer files that lie, break off or backtrack: a clear error each, and never a hang. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { ManifestError, RequestError } from "../../../runtime/errors.ts";
import { Tokenizer } from "../../../runtime/tokenizer/tokenizer.ts";
import { parseTokenizerConfig } from "../../../runtime/tokenizer/tokenizer-config.ts";
import { type Kind, kinds, readTokenizerJson } from "./golden-tokenizers.ts";

type Json = Record<string, unknown>;
const changed = (kind: Kind, change: Json, model: Json = {}): Json => {
  const json = readTokenizerJson(kind);
  return { ...json, model: { ...(json.model as Json), ...model }, ...change };
};
const split = (regex: string): Json => ({ type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false });
const backtracking = changed("llama3", { pre_tokenizer: split("(a+)+$") });

describe("a tokenizer.json", () => {
  const refused: readonly (readonly [string, unknown, RegExp])[] = [
    ["that is no object", [], /expected an object, found a list of 0/],
    ["without a model", changed("qwen2", { model: undefined }), /"model" to be an object, found nothing/],
    ["of another model type", changed("qwen2", {}, { type: "Unigram" }), /model\.type is "Unigram"; only "BPE" is supported/],
    ["without a vocabulary", changed("qwen2", {}, { vocab: undefined }), /model\.vocab to map tokens to ids, found nothing/],
    ["with an id out of bounds", changed("qwen2", {}, { vocab: { a: 2 ** 31 } }), /vocab\["a"\] is 2147483648; expected an id/],
    ["with a negative id", changed("qwen2", {}, { vocab: { a: -1 } }), /vocab\["a"\] is -1/],
    ["without merges", changed("qwen2", {}, { merges: undefined }), /model\.merges to be a list .* found nothing/],
    ["with half a merge", changed("qwen2", {}, { merges: [["a"]] }), /merges\[0\] is \["a"\]; expected \["left", "right"\]/],
    ["with a merge of unknown tokens", changed("qwen2", {}, { merges: [["h", "☃"]] }), /merges\[0\].* needs the token "☃"/],
    ["with dropout", changed("qwen2", {}, { dropout: 0.1 }), /model\.dropout/],
    ["with sub-word affixes", changed("qwen2", {}, { end_of_word_suffix: "</w>" }), /model\.end_of_word_suffix/],
    ["with an unknown unknown token", changed("llama2", {}, { unk_token: "<none>" }), /model\.unk_token "<none>" is not a token/],
    ["with an unknown normalizer", changed("qwen2", { normalizer: { type: "Nmt" } }), /normalizer.*"Nmt"/],
    ["with an unknown pre-tokenizer", changed("qwen2", { pre_tokenizer: { type: "Bert" } }), /pre_tokenizer.*"Bert"/],
    [
      "with a pattern that does not parse",
      changed("qwen2", { pre_tokenizer: split("(a") }),
      /pre_tokenizer step 1.*Unclosed group: \(a/,
    ],
    [
      "with a pattern too long",
      changed("qwen2", { pre_tokenizer: split("a".repeat(20_001)) }),
      /20001 characters, the limit is 20000/,
    ],
    [
      "with a pattern that calls itself",
      changed("qwen2", { pre_tokenizer: split("(?<a>x\\g<a>?)") }),
      /subroutine calls \(\\g\)/,
    ],
    ["with an endless sequence", changed("qwen2", { normalizer: nested(1000) }), /normalizer.*at most 64 steps/],
    [
      "whose template names no token",
      changed("llama2", {
        post_processor: {
          type: "TemplateProcessing",
          single: [{ SpecialToken: { id: "toString" } }, { Sequence: { id: "A" } }],
          special_tokens: {},
        },
      }),
      /names the special token "toString"/,
    ],
    [
      "whose template lacks the text",
      changed("llama2", { post_processor: { type: "TemplateProcessing", single: [], special_tokens: {} } }),
      /expected the sequence A exactly once/,
    ],
    ["with a strange added token", changed("qwen2", { added_tokens: [{ id: 1 }] }), /added_tokens\.0\.content/],
  ];

  it.each(refused)("%s is refused by name", (_, json, message) => {
    expect(() => new Tokenizer(json)).toThrow(ManifestError);
    expect(() => new Tokenizer(json)).toThrow(message);
  });

  it("whose pattern backtracks for ever stops at a limit that the message names, and goes on to serve other texts", () => {
    const tokenizer = new Tokenizer(backtracking);
    const start = performance.now();
    let message = "";
    try {
      tokenizer.encode(`${"a".repeat(60)}b`);
    } catch (error) {
      expect(error).toBeInstanceOf(RequestError);
      message = (error as RequestError).message;
    }
    expect(message).toMatch(/tokenizing 61 characters took longer than 2001 ms; the patterns in this model's tokenizer\.json/);
    expect(performance.now() - start).toBeLessThan(20_000);
    expect(tokenizer.decode(tokenizer.encode("b"), { skipSpecialTokens: true })).toBe("b");
  });

  it("meets a text too long with the numbers", () => {
    expect(() => new Tokenizer(readTokenizerJson("qwen2")).encode("x".repeat(2 ** 25 + 1))).toThrow(
      /33554433 characters .* limit is 33554432/,
    );
  });

  it("with any value replaced is read or refused, and nothing else", () => {
    const texts = kinds.map((kind) => smallJson(kind));
    const junk = fc.constantFrom<unknown>(null, -1, 1e9, "", "▁", [], {}, true, { type: "Sequence" }, "__proto__");
    fc.assert(
      fc.property(fc.constantFrom(...texts), fc.nat(), junk, (text, at, value) => {
        const json = JSON.parse(text);
        const places: [Json, string][] = [];
        collect(json, places);
        const [parent, key] = places[at % places.length]!;
        parent[key] = value;
        let tokenizer: Tokenizer;
        try {
          tokenizer = new Tokenizer(json);
        } catch (error) {
          expect(error).toBeInstanceOf(ManifestError);
          return;
        }
        const ids = tokenizer.encode("a the 12 <think>");
        for (const id of ids) expect(Number.isInteger(id)).toBe(true);
        expect(typeof tokenizer.decode(ids)).toBe("string");
      }),
      { numRuns: 3000 },
    );
  });
});

/** A recorded tokenizer with a few merges only, quick to build. */
function smallJson(kind: Kind): string {
  const json = readTokenizerJson(kind);
  const model = json.model as { vocab: Record<string, number>; merges: [string, string][] };
  model.merges = model.merges.slice(0, 3);
  const keep = new Set(model.merges.flatMap(([a, b]) => [a, b, a + b]));
  model.vocab = Object.fromEntries(
    Object.entries(model.vocab).filter(([token]) => token.length === 1 || keep.has(token) || token[0] === "<"),
  );
  return JSON.stringify(json);
}

function collect(value: unknown, places: [Json, string][]): void {
  if (typeof value !== "object" || value === null) return;
  for (const key of Object.keys(value)) {
    places.push([value as Json, key]);
    collect((value as Json)[key], places);
  }
}

function nested(depth: number): Json {
  let step: Json = { type: "NFC" };
  for (let i = 0; i < depth; i++) step = { type: "Sequence", normalizers: [step] };
  return step;
}

describe("a folder", () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "tokenizer-"));
  });
  afterEach(() => rm(folder, { recursive: true }));

  it("with a file that breaks off is refused by path", async () => {
    await writeFile(join(folder, "tokenizer.json"), JSON.stringify(readTokenizerJson("qwen2")).slice(0, 5000));
    await expect(Tokenizer.load(folder)).rejects.toThrow(/tokenizer\.json is not JSON: .*Copy it again/);
  });

  it("with a directory in a file's place is refused by path", async () => {
    await mkdir(join(folder, "tokenizer.json"));
    await expect(Tokenizer.load(folder)).rejects.toThrow(/tokenizer\.json cannot be read \(EISDIR\)/);
  });

  it("adds the tokens that only tokenizer_config.json has", async () => {
    const json = readTokenizerJson("qwen2");
    const config = {
      added_tokens_decoder: {
        "0": { content: "<other>", special: true }, // an id that is taken
        "2002": { content: "<tool>", special: true },
      },
    };
    await writeFile(join(folder, "tokenizer.json"), JSON.stringify(json));
    await writeFile(join(folder, "tokenizer_config.json"), JSON.stringify(config));
    const tokenizer = await Tokenizer.load(folder);
    expect(tokenizer.encode("<tool>")).toEqual([2002]);
    expect(tokenizer.specialIds.has(2002)).toBe(true);
    expect(tokenizer.idToToken(0)).toBe("<|endoftext|>");
    expect(tokenizer.vocabSize).toBe(2003);
  });

  it("with a lying tokenizer_config.json is refused by field", () => {
    expect(() => parseTokenizerConfig({ added_tokens_decoder: { "9999999": { content: "x" } } })).toThrow(
      /has the id 9999999; expected at most/,
    );
    expect(() => parseTokenizerConfig({ added_tokens_decoder: { x: { content: "x" } } })).toThrow(/added_tokens_decoder/);
    expect(() => parseTokenizerConfig({ bos_token: 7 })).toThrow(/tokenizer_config\.json: bos_token/);
  });
});
