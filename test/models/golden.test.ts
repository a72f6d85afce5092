import { describe, expect, it } from "vitest";
import { Interpreter } from "../../compiler/ir/interpret.ts";
import { oneSequenceStep } from "../../compiler/ir/step.ts";
import { verifyGraph } from "../../compiler/ir/verify.ts";
import { relativeError } from "../support/closeness.ts";
import { FAMILIES, goldenFacts, goldenFolder, goldenGraph, hasGolden } from "../support/golden.ts";
import { readTensors, weightSource } from "../support/safetensors-lite.ts";

const tolerance = 1e-5;
const numBlocks = 16;
const blockSize = 16;

describe.skipIf(!hasGolden).each(FAMILIES)("%s, interpreted in f32,", (family) => {
  const weights = weightSource(goldenFolder(family));
  const golden = readTensors(goldenFolder(family), "golden");
  const facts = goldenFacts(family);

  it.each(["config.json", "config.v4.json"])("has the reference's logits and hidden states, read from %s", (file) => {
    const g = goldenGraph(family, file);
    verifyGraph(g);
    facts.prompts.forEach((prompt, i) => {
      const { logits, taps } = new Interpreter(g, weights, numBlocks).step(oneSequenceStep(prompt, 0, blockSize, "all"));
      const expected = golden.get(`p${i}.logits`) as Float32Array;
      expect(relativeError(logits, expected), `p${i}.logits`).toBeLessThan(tolerance);
      if (prompt.length > 33) return;
      for (const [name, value] of taps) {
        const hidden = golden.get(`p${i}.${name}`) as Float32Array;
        expect(relativeError(value, hidden), `p${i}.${name}`).toBeLessThan(tolerance);
      }
    });
  });

  it("continues prompts with the reference's greedy tokens, one by one over the cache", () => {
    const g = goldenGraph(family);
    facts.prompts.slice(0, 3).forEach((prompt, i) => {
      const interpreter = new Interpreter(g, weights, numBlocks);
      let logits = interpreter.step(oneSequenceStep(prompt, 0, blockSize, "last")).logits;
      const tokens: number[] = [];
      for (;;) {
        tokens.push(logits.indexOf(Math.max(...logits)));
        if (tokens.length === facts.greedy[i]!.length) break;
        const position = prompt.length + tokens.length - 1;
        logits = interpreter.step(oneSequenceStep(tokens.slice(-1), position, blockSize, "last")).logits;
      }
      expect(tokens).toEqual(facts.greedy[i]);
    });
  });
});
