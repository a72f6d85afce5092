/**
 * A model whose keys depend on how long a sequence is, as one sequence grows past that length: every token it gives is the one that
 * the text before it gives as a prompt, whatever else is in the batch, the cache and the chunks.
 */
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { architectureOfEngine } from "../../compiler/cli/architecture-of.ts";
import { interpreterReference, interpreterTolerance } from "../../compiler/cli/interpreter-reference.ts";
import { loadForVerification, readManifest } from "../../compiler/cli/load.ts";
import { verifyAgainst } from "../../compiler/cli/verification.ts";
import { LLM, type LLMOptions } from "../../runtime/llm.ts";
import { compileForTest, nativeTarget, runnableTargets, scratchFolder } from "../support/compiled-engine.ts";
import { writeRandomModel } from "../support/random-model.ts";
import { seededRandom } from "../support/seeded-random.ts";

const TRAINED = 48;
const config = {
  architectures: ["LlamaForCausalLM"],
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 257,
  max_position_embeddings: 192,
  original_max_position_embeddings: TRAINED,
  rope_scaling: {
    type: "longrope",
    short_factor: [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    long_factor: [1.5, 2, 3, 4, 6, 8, 12, 16],
  },
};
const GREEDY = { temperature: 0, maxTokens: 24, ignoreEos: true };

const scratch = scratchFolder("longrope");
const random = seededRandom(7);
const ids = (count: number): number[] => Array.from({ length: count }, () => random.below(config.vocab_size));
const opening = ids(20);
/** Some stay below the trained length, some grow past it, some begin beyond; most share their opening. */
const prompts = [5, 13, 20, 27, 28, 29, 40, 60].map((more) => [...(more === 13 ? ids(20) : opening), ...ids(more)]);

const targets = [...new Set([nativeTarget, runnableTargets.find((target) => target !== nativeTarget) ?? nativeTarget])];

describe.each(targets)("a sequence that grows past the trained length on %s", (target) => {
  const engine = join(scratch, target.slice(4));
  const alone: (readonly number[])[] = [];

  async function using<T>(options: LLMOptions, work: (llm: LLM) => Promise<T>): Promise<T> {
    const llm = await LLM.load(engine, { threads: 2, kvCacheMemoryBytes: 2 ** 24, ...options });
    try {
      const result = await work(llm);
      llm.engine.checkIntegrity();
      return result;
    } finally {
      await llm.close();
    }
  }
  const tokensOf = async (llm: LLM, all: readonly (readonly number[])[], maxTokens = GREEDY.maxTokens) => {
    const outputs = await llm.generate(all, { ...GREEDY, maxTokens });
    return outputs.map((output) => output.outputs[0]!.tokenIds);
  };

  beforeAll(async () => {
    const model = writeRandomModel(`${engine}.model`, 11, config);
    await compileForTest(model.folder, engine, { target, dtype: "bfloat16", maxNumSeqs: 16, maxNumBatchedTokens: 256 });
    await using({ enablePrefixCaching: false }, async (llm) => {
      for (const prompt of prompts) alone.push(...(await tokensOf(llm, [prompt])));
    });
  });

  it("is told by the manifest", () => {
    expect(readManifest(engine).kvCache.rebuiltBeyond).toEqual([TRAINED]);
  });

  it("is verified against the interpreter on both sides of that length and across it", async () => {
    const loaded = await loadForVerification(engine, { threads: 2, memoryUtilization: 0.5, enablePrefixCaching: true });
    try {
      const { manifest } = loaded;
      const options = { dtype: manifest.model.dtype, tolerance: interpreterTolerance(manifest), reference: "interpreter" };
      const architecture = await architectureOfEngine(engine, manifest, undefined);
      for (const longest of [TRAINED - 3, 80]) {
        const reference = await interpreterReference(engine, manifest, architecture, longest);
        expect((await verifyAgainst(loaded.engine, reference, options)).firstFailure).toBeNull();
      }
    } finally {
      await loaded.close();
    }
  });

  it("gives after every token what its text gives as a prompt", async () => {
    for (const [i, prompt] of prompts.entries()) {
      const texts = alone[i]!.map((_, t) => [...prompt, ...alone[i]!.slice(0, t)]);
      expect((await using({}, (llm) => tokensOf(llm, texts, 1))).flat(), `prompt ${i}`).toEqual(alone[i]);
    }
  });

  it("gives the same among others, in chunks, from the prefix cache and preempted for want of blocks", async () => {
    const perBlock = readManifest(engine).kvCache.bytesPerBlock * config.num_hidden_layers;
    const growPast = prompts.filter(({ length }) => length <= TRAINED && length + GREEDY.maxTokens > TRAINED).length;
    const short = { maxNumBatchedTokens: 7, kvCacheMemoryBytes: 6 * perBlock };
    for (const options of [{}, { maxNumBatchedTokens: 16 }, short]) {
      await using(options, async (llm) => {
        expect(await tokensOf(llm, prompts)).toEqual(alone);
        expect(await tokensOf(llm, [...prompts].reverse())).toEqual([...alone].reverse()); // now much of it is cached
        const { numPreemptions, prefixCacheHits } = llm.engine.stats();
        if (options === short) expect(numPreemptions).toBeGreaterThan(2 * growPast);
        else expect(numPreemptions).toBe(2 * growPast);
        expect(prefixCacheHits).toBeGreaterThan(0);
      });
    }
  });
});
