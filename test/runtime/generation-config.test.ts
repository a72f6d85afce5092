import { describe, expect, it } from "vitest";
import { ManifestError } from "../../runtime/errors.ts";
import { parseGenerationConfig } from "../../runtime/generation-config.ts";

const parse = (value: unknown) => parseGenerationConfig(JSON.stringify(value), "generation_config.json");

describe("parseGenerationConfig", () => {
  it("takes the sampling defaults and the ids that end an output", () => {
    const config = {
      eos_token_id: [2, 0],
      temperature: 0.7,
      top_p: 0.9,
      top_k: 20,
      min_p: 0,
      repetition_penalty: 1.1,
      do_sample: true,
    };
    expect(parse(config)).toEqual({
      params: { temperature: 0.7, topP: 0.9, topK: 20, minP: 0, repetitionPenalty: 1.1 },
      eosTokenIds: [2, 0],
    });
    expect(parse({ eos_token_id: 5, temperature: null, max_new_tokens: 20 })).toEqual({ params: {}, eosTokenIds: [5] });
  });

  it("refuses what is out of range or not JSON, naming file and field", () => {
    expect(() => parse({ top_p: 2 })).toThrow("generation_config.json: top_p must be a number above 0 and up to 1, got 2");
    expect(() => parse({ top_p: 2 })).toThrow(ManifestError);
    expect(() => parse({ eos_token_id: "</s>" })).toThrow("eos_token_id must be a token id");
    expect(() => parse([])).toThrow("must hold an object");
    expect(() => parseGenerationConfig("{", "generation_config.json")).toThrow("is not JSON");
  });
});
