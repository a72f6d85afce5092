import { describe, expect, it } from "vitest";
import { Graph } from "../../compiler/ir/graph.ts";
import { lower } from "../../compiler/pipeline.ts";
import { findArchitecture } from "../../models/registry.ts";
import { expectSameMeaning } from "../support/kernel-meaning.ts";
import { RANDOM_FAMILIES } from "../support/random-config.ts";
import { randomModel } from "../support/random-model.ts";

const FIRST = Number(process.env.INGOT_TEST_SEED ?? Date.now() % 1e9);
const limits = { maxModelLen: 64, maxNumSeqs: 64, maxNumBatchedTokens: 64, blockSize: 16 };

describe.each(RANDOM_FAMILIES)("the kernels of any %s model", (family) => {
  it.each([0, 1, 2].map((i) => FIRST + i))("compute what its graph means, with few left over: seed %i", (seed) => {
    const { config: json } = randomModel(seed, [family]);
    const architecture = findArchitecture(json);
    const g = new Graph(limits);
    architecture.build({ ...architecture.readConfig(json), dtype: "float32" }, g);
    const program = lower(g, { linearInput: () => "f32" });
    expectSameMeaning(program.graph, program);
    const narrow = lower(g, { linearInput: () => "bf16" });
    expectSameMeaning(narrow.graph, narrow);
    // Nothing that a family does needs a kernel for elementwise work, or copies columns.
    const leftOver = program.kernels.filter((k) => k.kind === "elementwise" || (k.kind === "gather" && !k.rows));
    expect(
      leftOver.map((k) => k.name),
      JSON.stringify(json),
    ).toEqual([]);
  });
});
