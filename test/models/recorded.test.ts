/**
 * Families against what transformers recorded of tiny models, each in its folder, made by the script of models/TUTORIAL.md.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { readGolden } from "../../compiler/cli/golden.ts";
import { Graph } from "../../compiler/ir/graph.ts";
import { Interpreter } from "../../compiler/ir/interpret.ts";
import { oneSequenceStep } from "../../compiler/ir/step.ts";
import { findArchitecture } from "../../models/registry.ts";
import { relativeError } from "../support/closeness.ts";
import { weightSource } from "../support/safetensors-lite.ts";

it.each(["olmo2", "smollm3"])("%s has the reference's logits and hidden states, interpreted in f32", (family) => {
  const folder = join(import.meta.dirname, family);
  const json: unknown = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
  const architecture = findArchitecture(json);
  const config = architecture.readConfig(json);
  const g = new Graph({ maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 64, blockSize: 16 });
  architecture.build({ ...config, dtype: "float32" }, g);
  for (const { ids, logits, hidden } of readGolden(folder).prompts) {
    const found = new Interpreter(g, weightSource(folder), 8).step(oneSequenceStep(ids, 0, 16, "all"));
    expect(relativeError(found.logits, logits)).toBeLessThan(1e-5);
    expect(hidden).toHaveLength(config.numLayers + 1);
    hidden.forEach((expected, l) => {
      expect(relativeError(found.taps.get(`hidden.${l}`)!, expected), `hidden.${l}`).toBeLessThan(1e-5);
    });
  }
});
