import { describe, expect, it } from "vitest";
import type { Graph } from "../../compiler/ir/graph.ts";
import { Interpreter } from "../../compiler/ir/interpret.ts";
import type { Node } from "../../compiler/ir/ops.ts";
import { oneSequenceStep } from "../../compiler/ir/step.ts";
import { runPasses } from "../../compiler/passes/pass.ts";
import { passesFor } from "../../compiler/pipeline.ts";
import { relativeError } from "../support/closeness.ts";
import { FAMILIES, goldenFacts, goldenFolder, goldenGraph, goldenLimits, hasGolden } from "../support/golden.ts";
import { readTensors, weightSource } from "../support/safetensors-lite.ts";

const passes = (linearInput: "f32" | "bf16") => passesFor({ linearInput: (w) => (w === "bf16" ? linearInput : "f32") });

/** Dense and expert layers, and linears of their shared experts, where they are not two dense ones. */
const LAYERS: Partial<Record<(typeof FAMILIES)[number], { dense: number; experts: number; shared: number }>> = {
  gemma3: { dense: 3, experts: 0, shared: 0 },
  "qwen2-moe": { dense: 1, experts: 1, shared: 3 },
  "qwen3-moe": { dense: 0, experts: 2, shared: 0 },
  "glm4-moe": { dense: 1, experts: 2, shared: 4 },
  "gpt-oss": { dense: 0, experts: 2, shared: 0 },
};

describe.skipIf(!hasGolden).each(FAMILIES)("%s after all passes", (family) => {
  const weights = weightSource(goldenFolder(family));
  const golden = readTensors(goldenFolder(family), "golden");
  const { prompts, bf16_compute_relative_error: bf16Error } = goldenFacts(family);
  const logitErrors = (graph: Graph) =>
    prompts.map((prompt, i) => {
      const step = oneSequenceStep(prompt, 0, goldenLimits.blockSize, "all");
      const { logits } = new Interpreter(graph, weights, 16).step(step);
      return relativeError(logits, golden.get(`p${i}.logits`) as Float32Array);
    });

  it("has the reference's logits in f32, and one linear for q, k, v and one for gate and up", () => {
    const { graph } = runPasses(goldenGraph(family), passes("f32"));
    for (const error of logitErrors(graph)) expect(error).toBeLessThan(1e-5);
    const count = (op: Node["op"]) => graph.liveNodes().filter((n) => n.op === op).length;
    const { dense, experts, shared } = LAYERS[family] ?? { dense: 2, experts: 0, shared: 0 };
    // q-k-v and output; gate-up and down of a dense layer and of a shared expert; a router, and a gate of qwen2-moe's shared expert.
    expect(count("linear")).toBe(4 * dense + 3 * experts + shared + 1);
    expect(count("grouped_linear")).toBe(2 * experts);
  });

  it("strays from them in bf16 no further than twice what the reference does", () => {
    const { graph } = runPasses(goldenGraph(family, "config.json", "bfloat16"), passes("bf16"));
    for (const error of logitErrors(graph)) expect(error).toBeLessThan(2 * bf16Error);
  });
});
