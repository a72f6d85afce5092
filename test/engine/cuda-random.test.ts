/**
 * Models of random shapes on the emulated GPU against the interpreter of the model's own graph, as on the CPU; one in three has linears so
 * narrow that blocks share their sums. `INGOT_TEST_SEED=<seed>` repeats one run's models.
 */
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { readManifest } from "../../compiler/cli/load.ts";
import type { DType } from "../../compiler/ir/tensor-type.ts";
import { isFullRun, scratchFolder } from "../support/compiled-engine.ts";
import { CUDA_TARGETS, compileCudaForTest, deviceFor, loadOnFakeDevice, ORDERS } from "../support/cuda-engine.ts";
import { type ModelDType, meaningOf } from "../support/model-meaning.ts";
import { RANDOM_FAMILIES, randomConfig } from "../support/random-config.ts";
import { writeRandomModel } from "../support/random-model.ts";
import { seededRandom } from "../support/seeded-random.ts";

const CONTEXT = 160;
const COUNT = Number(process.env.INGOT_TEST_MODELS ?? (isFullRun ? 30 : 2));
const FIRST = Number(process.env.INGOT_TEST_SEED ?? Date.now() % 1e9);
const DTYPES: readonly ModelDType[] = ["float32", "bfloat16", "float16"];
const scratch = scratchFolder("cuda-random");
const seeds = Array.from({ length: COUNT }, (_, i) => FIRST + i);

/** Rows of weights are whole vectors of sixteen bytes on this target. */
const inVectors = (config: Readonly<Record<string, unknown>>) =>
  Object.fromEntries(
    Object.entries(config).map(([name, value]) =>
      /_size$|^ffn_dim$|_proj_dim$/.test(name) && name !== "vocab_size" && typeof value === "number"
        ? [name, Math.ceil(value / 8) * 8]
        : [name, value],
    ),
  );

describe("a model of random shape, compiled for a GPU, is what its graph means:", () => {
  it.each(seeds)("seed %i", async (seed) => {
    const random = seededRandom(seed ^ 0xc0da);
    const isWide = seed % 3 === 0;
    const family = isWide ? "Qwen3" : random.pick(RANDOM_FAMILIES);
    const config = inVectors({ ...randomConfig(random, family), ...(isWide ? { intermediate_size: 4096 } : {}) });
    const model = writeRandomModel(join(scratch, `${seed}`), seed, config);
    const target = random.pick(CUDA_TARGETS);
    const hasExperts = /moe|gpt_?oss|mixtral/i.test(family); // where roundings send tokens to other experts
    const dtype = isWide ? "bfloat16" : hasExperts ? "float32" : random.pick(DTYPES);
    const what = `${dtype} on ${target}, ${JSON.stringify(config)}`;
    const folder = join(scratch, `${seed}.engine`);
    const limits = { maxModelLen: CONTEXT, maxNumSeqs: CONTEXT, maxNumBatchedTokens: CONTEXT };
    await compileCudaForTest(model.folder, folder, { target, dtype, ...limits });
    const { model: facts, kvCache, kernels } = readManifest(folder);
    if (isWide) expect(kernels.filter((kernel) => kernel.name.includes("parts")).length).toBeGreaterThan(0);

    const ids = Array.from({ length: 17 + random.below(CONTEXT - 17) }, () => random.below(facts.vocabSize));
    // Tensor cores take queries and probabilities in the narrow dtype as well, which the graph does not say.
    const compiled = { dtype, target, context: CONTEXT, kv: kvCache.dtype as DType, share: 1.5 };
    const meaning = meaningOf(model, ids, compiled);
    for (const maxNumBatchedTokens of [CONTEXT, random.pick([3, 7, 16, 48])]) {
      const options = { kvCacheMemoryBytes: 2 ** 26, maxNumBatchedTokens };
      const llm = await loadOnFakeDevice(folder, { ...deviceFor(target), order: random.pick(ORDERS), seed }, options);
      try {
        const { logits, hidden } = await llm.forward(ids, { hidden: true });
        expect(meaning.excess({ logits, hidden: hidden! }), `${maxNumBatchedTokens} tokens a step; ${what}`).toEqual([]);
      } finally {
        await llm.close();
      }
    }
  });
});
