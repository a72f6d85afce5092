import { describe, expect, it } from "vitest";
import { RequestError } from "../../runtime/errors.ts";
import { defaultSamplingParams, samplingParams } from "../../runtime/sampling-params.ts";

describe("samplingParams", () => {
  it("fills up with the defaults, also where a field is undefined", () => {
    expect(samplingParams()).toEqual(defaultSamplingParams);
    expect(samplingParams({ temperature: undefined, maxTokens: 5 })).toEqual({ ...defaultSamplingParams, maxTokens: 5 });
  });

  it("takes vLLM's topK -1 for off", () => {
    expect(samplingParams({ topK: -1 }).topK).toBe(0);
  });

  it("does not share arrays with the caller", () => {
    const stop = ["a"];
    const params = samplingParams({ stop });
    stop.push("b");
    expect(params.stop).toEqual(["a"]);
  });

  const bad: [string, unknown, string][] = [
    ["temperature", -1, "temperature must be a number of at least 0 (0 is greedy), got -1"],
    ["temperature", Number.NaN, "got NaN"],
    ["temperature", 1e39, "got 1e+39"], // infinite in f32
    ["temperature", "0.5", 'got "0.5"'],
    ["n", 0, "n must be a whole number from 1 to 128, got 0"],
    ["n", 1.5, "got 1.5"],
    ["maxTokens", 0, "maxTokens must be a whole number of at least 1, or null, got 0"],
    ["minTokens", -1, "at least 0"],
    ["topK", -2, "topK must be"],
    ["topP", 0, "above 0 and up to 1"],
    ["topP", 1.01, "above 0 and up to 1"],
    ["minP", 1.1, "from 0 to 1"],
    ["repetitionPenalty", 0, "from 0.01 to 100 (1 is off)"],
    ["repetitionPenalty", 1e-38, "from 0.01"], // logits would overflow
    ["presencePenalty", 2.1, "from -2 to 2"],
    ["frequencyPenalty", -2.1, "from -2 to 2"],
    ["seed", 1.5, "whole number"],
    ["stop", "end", "strings of 1 to"],
    ["stop", [""], "strings of 1 to"],
    ["stop", ["x".repeat(1025)], "strings of 1 to"],
    ["stopTokenIds", [-1], "token ids"],
    ["ignoreEos", 1, "true or false"],
    ["skipSpecialTokens", null, "true or false"],
    ["includeStopStrInOutput", "yes", "true or false"],
    ["logitBias", { 5: 101 }, "biases from -100 to 100"],
    ["logitBias", { x: 1 }, "token ids"],
    ["logitBias", [1], "token ids"],
    ["logprobs", 21, "from 0 to 20, or null"],
    ["max_tokens", 5, "max_tokens is not a sampling parameter; known are n, maxTokens"],
    ["constructor", 5, "not a sampling parameter"],
  ];
  for (const [name, value, message] of bad) {
    it(`refuses ${name} ${JSON.stringify(value)?.slice(0, 30)} with 400, naming it`, () => {
      let error: unknown;
      try {
        samplingParams({ [name]: value });
      } catch (thrown) {
        error = thrown;
      }
      expect(error).toBeInstanceOf(RequestError);
      expect(error).toMatchObject({ status: 400, param: name, message: expect.stringContaining(message) });
    });
  }

  it("refuses minTokens above maxTokens", () => {
    expect(() => samplingParams({ minTokens: 6, maxTokens: 5 })).toThrow("minTokens must be at most maxTokens (5), got 6");
  });
});
