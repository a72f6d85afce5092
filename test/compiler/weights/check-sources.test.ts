import { describe, expect, it } from "vitest";
import { CompileError } from "../../../compiler/errors.ts";
import { Graph } from "../../../compiler/ir/graph.ts";
import { type CheckOptions, checkSources } from "../../../compiler/weights/check-sources.ts";
import { planWeights } from "../../../compiler/weights/layout.ts";
import { RandomWeights } from "../../../compiler/weights/random.ts";
import { weightRows } from "../../../compiler/weights/rows.ts";

type Shapes = Readonly<Record<string, readonly number[]>>;

/** What is said where a model that reads `wanted` is given a checkpoint of `stored`; null where nothing is. */
function fault(wanted: Shapes, stored: Shapes, options?: CheckOptions): string | null {
  const g = new Graph({ maxModelLen: 1, maxNumSeqs: 1, maxNumBatchedTokens: 1, blockSize: 1 });
  const requests = Object.entries(wanted).map(([name, shape]) => {
    const rows = weightRows(g.weight(name, { dtype: "f32", shape }));
    return { name, rows, dtype: "f32", layout: "rows", ways: 1, readShare: 1 } as const;
  });
  try {
    checkSources(planWeights(requests), new RandomWeights(1, "f32", new Map(Object.entries(stored))), "models/x", options);
    return null;
  } catch (error) {
    if (!(error instanceof CompileError)) throw error;
    return error.message;
  }
}

describe("a checkpoint that is checked", () => {
  it("may hold what is wanted and more", () => {
    expect(fault({ a: [4, 8], b: [2] }, { a: [4, 8], b: [2], c: [1] })).toBeNull();
  });

  it("names what is missing or has another shape", () => {
    expect(fault({ a: [4, 8], b: [2] }, { a: [8, 4] })).toBe(
      "models/x: a is (8, 4), but the model described by config.json needs (4, 8)\nthere is no tensor b (2)\n" +
        "Is config.json of this checkpoint, and every shard there?",
    );
  });

  it("names many layers in few words, by the line that asks first, and what may have been meant", () => {
    const layers = [0, 1, 2].map((l) => `model.layers.${l}.`);
    const wanted = Object.fromEntries(
      layers.flatMap((l) => [
        [`${l}post_norm.weight`, [8]],
        [`${l}q.weight`, [8, 8]],
      ]),
    );
    const stored = Object.fromEntries(
      layers.flatMap((l) => [
        [`${l}post_attention_layernorm.weight`, [8]],
        [`${l}input_layernorm.weight`, [8]],
        [`${l}post_normal.weight`, [9]], // of another size
        [`${l}q.weight`, [8, 8]],
      ]),
    );
    const options = { isBeingWritten: true, askedAt: (name: string) => `the line of ${name}` };
    expect(fault(wanted, stored, options)).toBe(
      "models/x: there is no tensor model.layers.{0..2}.post_norm.weight (8), asked for at the line of model.layers.0.post_norm.weight; " +
        "the checkpoint has model.layers.0.post_attention_layernorm.weight, which nothing reads. " +
        "Weights have the checkpoint's names, <prefix><path of scopes>.<leaf>, and its shapes.",
    );
  });

  it("has no tensor to offer whose name is altogether another", () => {
    expect(fault({ abc: [8] }, { xyz: [8] }, { isBeingWritten: true })).toContain("there is no tensor abc (8). Weights");
  });

  it("is told of five faults, and how many more there are", () => {
    const wanted = Object.fromEntries(["a", "b", "c", "d", "e", "f", "g"].map((name) => [name, [1]]));
    expect(fault(wanted, {})).toMatch(/no tensor e \(1\)\nand 2 more\nIs config\.json/);
  });
});
