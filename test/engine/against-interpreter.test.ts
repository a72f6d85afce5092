/**
 * Compiled models of random shapes against the interpreter of the model's own graph: no pass, schedule or packed layout is shared
 * between the two, only the rounding that the target states.
 *
 * Every run draws new models; `INGOT_TEST_SEED=<seed>` repeats one run's, starting with the seed in a failing test's name.
 */
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { readManifest } from "../../compiler/cli/load.ts";
import { DEFAULT_KV_BLOCK_SIZE } from "../../compiler/codegen/cpu/kernel-schedule.ts";
import { Interpreter } from "../../compiler/ir/interpret.ts";
import { roundTo } from "../../compiler/ir/rounding.ts";
import { oneSequenceStep } from "../../compiler/ir/step.ts";
import type { DType } from "../../compiler/ir/tensor-type.ts";
import { legalize } from "../../compiler/passes/legalize.ts";
import { runPasses } from "../../compiler/passes/pass.ts";
import { buildGraph } from "../../compiler/pipeline.ts";
import { kernelTarget } from "../../compiler/plan/kernel-target.ts";
import { findArchitecture } from "../../models/registry.ts";
import { LLM } from "../../runtime/llm.ts";
import { relativeError } from "../support/closeness.ts";
import { compileForTest, isFullRun, runnableTargets, scratchFolder } from "../support/compiled-engine.ts";
import { RANDOM_FAMILIES } from "../support/random-config.ts";
import { type RandomModel, writeRandomModel } from "../support/random-model.ts";
import { seededRandom } from "../support/seeded-random.ts";

const CONTEXT = 160;
const COUNT = Number(process.env.INGOT_TEST_MODELS ?? (isFullRun ? 100 : 4));
const FIRST = Number(process.env.INGOT_TEST_SEED ?? Date.now() % 1e9);
const DTYPES = ["float32", "bfloat16", "float16"] as const;

interface Outputs {
  readonly logits: Float32Array;
  readonly hidden: readonly Float32Array[];
}

/** What the model's graph means when matrices and cache are of one dtype; `isa` adds the roundings that its tiles ask for. */
function interpret(
  model: RandomModel,
  ids: readonly number[],
  dtype: (typeof DTYPES)[number],
  kv: DType,
  target?: string,
): Outputs {
  const architecture = findArchitecture(model.config);
  const config = { ...architecture.readConfig(model.config), dtype };
  const limits = { maxModelLen: CONTEXT, maxNumSeqs: CONTEXT, maxNumBatchedTokens: CONTEXT };
  const graph = buildGraph({ architecture, config, limits, kvCacheDtype: kv });
  const linearInput = (d: DType) => (target ? kernelTarget(target).linearInput(d) : "f32");
  const legal = runPasses(graph, [legalize({ linearInput })]).graph;
  const interpreter = new Interpreter(legal, model.weights, CONTEXT / DEFAULT_KV_BLOCK_SIZE);
  const { logits, taps } = interpreter.step(oneSequenceStep(ids, 0, DEFAULT_KV_BLOCK_SIZE, "all"));
  return { logits, hidden: Array.from({ length: config.numLayers + 1 }, (_, l) => taps.get(`hidden.${l}`)!) };
}

const errors = (actual: Outputs, expected: Outputs): number[] => [
  ...expected.hidden.map((e, l) => relativeError(actual.hidden[l]!, e)),
  relativeError(actual.logits, expected.logits),
];

const scratch = scratchFolder("random");
const seeds = Array.from({ length: COUNT }, (_, i) => FIRST + i);

describe("a model of random shape, compiled, is what its graph means:", () => {
  it.each(seeds)("seed %i", async (seed) => {
    const random = seededRandom(seed ^ 0x5eed);
    const model = writeRandomModel(join(scratch, `${seed}`), seed, RANDOM_FAMILIES);
    const target = random.pick(runnableTargets);
    // A rounding that falls the other way may send a token to another expert, after which nothing is comparable.
    const hasExperts = /moe|gpt_?oss|mixtral/i.test(String(model.config.architectures));
    const dtype = hasExperts ? "float32" : random.pick(DTYPES);
    const what = `${dtype} on ${target}, ${JSON.stringify(model.config)}`;
    const engine = join(scratch, `${seed}.engine`);
    const limits = { maxModelLen: CONTEXT, maxNumSeqs: CONTEXT, maxNumBatchedTokens: CONTEXT };
    // Kernels of these models are never wanted again.
    await compileForTest(model.folder, engine, { target, dtype, ...limits }, join(scratch, "cache"));
    const { model: facts, kvCache } = readManifest(engine);
    const ids = Array.from({ length: 1 + random.below(CONTEXT) }, () => random.below(facts.vocabSize));

    const forward = async (options: { threads: number; maxNumBatchedTokens: number }): Promise<Outputs> => {
      const llm = await LLM.load(engine, { kvCacheMemoryBytes: 2 ** 26, ...options });
      try {
        const { logits, hidden } = await llm.forward(ids, { hidden: true });
        return { logits, hidden: hidden! };
      } finally {
        await llm.close();
      }
    };
    const whole = await forward({ threads: 2, maxNumBatchedTokens: CONTEXT });
    const kv = kvCache.dtype as DType;
    const meant = interpret(model, ids, dtype, kv, target);
    // How far the narrow dtype itself moves the results says how far roundings that fall the other way may. Where activations are
    // rounded, too, a difference in the last bit of a sum grows: one rounding in a few hundred falls the other way, and so on.
    const share = kernelTarget(target).linearInput(kv) === "f32" ? 1 / 2 : 1;
    const stored = { ...model, weights: (name: string) => roundTo(kv, model.weights(name)) };
    const moved = errors(meant, interpret(stored, ids, "float32", "f32"));
    errors(whole, meant).forEach((error, i) => {
      const allowed = Math.max(1e-5, moved[i]! * share);
      expect(
        error <= allowed,
        `${i === moved.length - 1 ? "logits" : `hidden.${i}`}: ${error}, allowed ${allowed}; ${what}`,
      ).toBe(true);
    });

    const piecemeal = await forward({ threads: 1, maxNumBatchedTokens: random.pick([1, 3, 7, 16, 48]) });
    expect(piecemeal.logits, what).toEqual(whole.logits);
    expect(piecemeal.hidden, what).toEqual(whole.hidden);
  });
});
