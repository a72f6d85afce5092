import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Graph } from "../../compiler/ir/graph.ts";
import { Interpreter } from "../../compiler/ir/interpret.ts";
import { oneSequenceStep } from "../../compiler/ir/step.ts";
import { findArchitecture } from "../../models/registry.ts";
import { readTensors, weightSource } from "../support/safetensors-lite.ts";

const model = join(import.meta.dirname, "../../models/pebble");
const reference = join(import.meta.dirname, "../../../shared/models/pebble");
const tokens = 96;

describe.skipIf(!existsSync(reference))("the sample model, interpreted in f32,", () => {
  it("has the reference's top token and its probability at every position", () => {
    const json: unknown = JSON.parse(readFileSync(join(model, "config.json"), "utf8"));
    const architecture = findArchitecture(json);
    const config = architecture.readConfig(json);
    const g = new Graph({
      maxModelLen: tokens,
      maxNumSeqs: 1,
      maxNumBatchedTokens: tokens,
      blockSize: 32,
    });
    architecture.build({ ...config, dtype: "float32" }, g);
    const recorded = readTensors(reference, "reference");
    const ids = Array.from(recorded.get("input_ids")!.subarray(0, tokens));
    const { logits } = new Interpreter(g, weightSource(model), tokens / 32).step(oneSequenceStep(ids, 0, 32, "all"));
    for (let t = 0; t < tokens; t++) {
      const row = logits.subarray(t * config.vocabSize, (t + 1) * config.vocabSize);
      const max = row.reduce((a, b) => Math.max(a, b));
      const top = row.indexOf(max);
      expect(top).toBe(recorded.get("top_ids")![t * 20]);
      const logprob = -Math.log(row.reduce((sum, v) => sum + Math.exp(v - max), 0));
      expect(Math.abs(logprob - recorded.get("top_logprobs")![t * 20]!)).toBeLessThan(1e-4);
    }
  });
});
