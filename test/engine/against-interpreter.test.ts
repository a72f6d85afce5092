/**
 * Compiled models of random shapes against the interpreter of the model's own graph: no pass, schedule or packed layout is shared
 * between the two, only the rounding that the target states.
 *
 * Every run draws new models; `INGOT_TEST_SEED=<seed>` repeats one run's, starting with the seed in a failing test's name.
 */
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { readManifest } from "../../compiler/cli/load.ts";
import type { DType } from "../../compiler/ir/tensor-type.ts";
import { LLM } from "../../runtime/llm.ts";
import { compileForTest, isFullRun, runnableTargets, scratchFolder } from "../support/compiled-engine.ts";
import { type ModelDType, type ModelOutputs, meaningOf } from "../support/model-meaning.ts";
import { RANDOM_FAMILIES } from "../support/random-config.ts";
import { writeRandomModel } from "../support/random-model.ts";
import { seededRandom } from "../support/seeded-random.ts";

const CONTEXT = 160;
const COUNT = Number(process.env.INGOT_TEST_MODELS ?? (isFullRun ? 100 : 4));
const FIRST = Number(process.env.INGOT_TEST_SEED ?? Date.now() % 1e9);
const DTYPES: readonly ModelDType[] = ["float32", "bfloat16", "float16"];

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

    const forward = async (options: { threads: number; maxNumBatchedTokens: number }): Promise<ModelOutputs> => {
      const llm = await LLM.load(engine, { kvCacheMemoryBytes: 2 ** 26, ...options });
      try {
        const { logits, hidden } = await llm.forward(ids, { hidden: true });
        return { logits, hidden: hidden! };
      } finally {
        await llm.close();
      }
    };
    const whole = await forward({ threads: 2, maxNumBatchedTokens: CONTEXT });
    const meaning = meaningOf(model, ids, { dtype, target, context: CONTEXT, kv: kvCache.dtype as DType });
    expect(meaning.excess(whole), what).toEqual([]);

    const piecemeal = await forward({ threads: 1, maxNumBatchedTokens: random.pick([1, 3, 7, 16, 48]) });
    expect(piecemeal.logits, what).toEqual(whole.logits);
    expect(piecemeal.hidden, what).toEqual(whole.hidden);
  });
});
