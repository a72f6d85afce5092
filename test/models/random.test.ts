import { describe, expect, it } from "vitest";
import { Graph } from "../../compiler/ir/graph.ts";
import { Interpreter } from "../../compiler/ir/interpret.ts";
import { oneSequenceStep } from "../../compiler/ir/step.ts";
import { verifyGraph } from "../../compiler/ir/verify.ts";
import { runPasses } from "../../compiler/passes/pass.ts";
import { passesFor } from "../../compiler/pipeline.ts";
import { findArchitecture } from "../../models/registry.ts";
import { expectClose } from "../support/closeness.ts";
import { arraySource, batchStep, exported, openOnnx, outputOf } from "../support/onnx.ts";
import { RANDOM_FAMILIES } from "../support/random-config.ts";
import { type RandomModel, randomModel } from "../support/random-model.ts";
import { seededRandom } from "../support/seeded-random.ts";

const FIRST = Number(process.env.INGOT_TEST_SEED ?? Date.now() % 1e9);
const seeds = [0, 1, 2].map((i) => FIRST + i);
const limits = { maxModelLen: 64, maxNumSeqs: 64, maxNumBatchedTokens: 64, blockSize: 16 };
const passes = passesFor({ linearInput: () => "f32" });

function graphOf({ config: json }: RandomModel): Graph {
  const architecture = findArchitecture(json);
  const g = new Graph(limits);
  architecture.build(architecture.readConfig(json), g);
  verifyGraph(g);
  return g;
}

describe.each(RANDOM_FAMILIES)("any %s model", (family) => {
  it.each(seeds)("gives the same after all passes, and the same whole or token by token: seed %i", (seed) => {
    const model = randomModel(seed, [family]);
    const random = seededRandom(seed ^ 0x70c5);
    const graph = graphOf(model);
    const vocab = graph.logits.type.shape[1] as number;
    const ids = Array.from({ length: 1 + random.below(40) }, () => random.below(vocab));
    const logitsOf = (g: Graph) => new Interpreter(g, model.weights, 4).step(oneSequenceStep(ids, 0, 16, "all")).logits;
    const logits = logitsOf(graph);
    const what = JSON.stringify(model.config);
    expect(logits.every(Number.isFinite), what).toBe(true);
    expectClose(logitsOf(runPasses(graph, passes).graph), logits, 1e-5, what);

    const interpreter = new Interpreter(graph, model.weights, 4);
    const each = ids.map((id, t) => Array.from(interpreter.step(oneSequenceStep([id], t, 16, "last", ids.length)).logits));
    expectClose(each.flat(), logits, 1e-5, what);
  });

  it.each(seeds)("gives the same as ONNX, for several sequences at once: seed %i", async (seed) => {
    const model = randomModel(seed, [family]);
    const random = seededRandom(seed ^ 0x0e1);
    const graph = graphOf(model);
    const vocab = graph.logits.type.shape[1] as number;
    const length = 1 + random.below(30);
    const batch = [0, 1].map(() => Array.from({ length }, () => random.below(vocab)));
    const session = await openOnnx((await exported(graph, `${family}-${seed}`, arraySource(graph, model.weights))).file);
    const { logits } = new Interpreter(graph, model.weights, 4).step(batchStep(batch, 16));
    expectClose(await outputOf(session, batch), logits, 1e-4, JSON.stringify(model.config));
  });
});
