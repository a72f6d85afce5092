/**
 * The sample model on the emulated GPU through the whole loop (chunked prefill, prefix cache, preemption, several requests at once), in
 * every order of threads: the greedy tokens are those of the CPU target.
 */
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { readManifest } from "../../compiler/cli/load.ts";
import { bytesPerBlock } from "../../runtime/kv-cache-size.ts";
import { LLM } from "../../runtime/llm.ts";
import { compileForTest, isFullRun, nativeTarget, scratchFolder } from "../support/compiled-engine.ts";
import { CUDA_TARGETS, compileCudaForTest, deviceFor, loadOnFakeDevice, ORDERS } from "../support/cuda-engine.ts";
import { seededRandom } from "../support/seeded-random.ts";

const pebble = join(import.meta.dirname, "../../models/pebble");
const scratch = scratchFolder("cuda-scheduler");
const folders = { cpu: join(scratch, "cpu"), cuda: join(scratch, "cuda") };

const seed = Number(process.env.INGOT_TEST_SEED ?? Date.now() % 1e9);
const random = seededRandom(seed);
const target = random.pick(CUDA_TARGETS);
console.log(`seed ${seed} (INGOT_TEST_SEED), ${target}`);

const ids = (n: number) => Array.from({ length: n }, () => 3 + random.below(4093));
/** More than a block of 64, which later requests find in the cache. */
const beginning = ids(66);
const first = [...beginning, ...ids(3)];
/** Prompts of more than a step's tokens, of one token, and such that share a beginning. */
const together = [[...beginning, ...ids(5)], ids(40), ids(1), [...beginning, ...ids(2)]];
/** Prompts that nearly fill a block and go on into a second one at the same time. */
const growing = [ids(61), ids(62)];

interface Work {
  readonly prompts: readonly (readonly number[])[];
  readonly maxTokens: number;
}
const works: readonly Work[] = [
  { prompts: [first], maxTokens: 5 },
  { prompts: together, maxTokens: 5 },
  { prompts: growing, maxTokens: 12 },
];

/** Greedy continuations of each work's prompts, which run together. */
async function continuations(llm: LLM, asked: readonly Work[]): Promise<(readonly number[])[][]> {
  const found: (readonly number[])[][] = [];
  for (const { prompts, maxTokens } of asked) {
    const outputs = await llm.generate(prompts, { temperature: 0, maxTokens, ignoreEos: true });
    found.push(outputs.map((o) => o.outputs[0]!.tokenIds));
    llm.engine.checkIntegrity();
  }
  return found;
}

/** The order of an ordinary run's preemptions. */
const preempting = random.pick(ORDERS);

let expected: (readonly number[])[][];

beforeAll(async () => {
  const flags = { dtype: "float32", maxModelLen: 256, maxNumSeqs: 4, maxNumBatchedTokens: 32 };
  await compileForTest(pebble, folders.cpu, { ...flags, target: nativeTarget });
  await compileCudaForTest(pebble, folders.cuda, { ...flags, target });
  const llm = await LLM.load(folders.cpu, { threads: 2, kvCacheMemoryBytes: 2 ** 26, enablePrefixCaching: false });
  expected = await continuations(llm, works);
  await llm.close();
  expect(new Set(expected.flat(2)).size).toBeGreaterThan(10);
});

describe.each(ORDERS)("threads in %s order", (order) => {
  const load = (numBlocks: number, maxModelLen: number) =>
    loadOnFakeDevice(
      folders.cuda,
      { ...deviceFor(target), order, seed },
      { maxModelLen, kvCacheMemoryBytes: numBlocks * bytesPerBlock(readManifest(folders.cuda)) },
    );

  it("several requests in chunks of 32, some with a beginning in the cache, say what the CPU target says", async () => {
    const llm = await load(16, 256);
    try {
      expect(await continuations(llm, works.slice(0, 2))).toEqual(expected.slice(0, 2));
      const { prefixCacheHits, steps } = llm.engine.stats();
      expect(prefixCacheHits).toBe(2 * 64);
      expect(steps).toBeGreaterThanOrEqual(3 + 4 + 2 + 4); // a prompt of 69 tokens, of 70 but for what is cached, and tokens one by one
    } finally {
      await llm.close();
    }
  });

  it.runIf(isFullRun || order === preempting)("requests that outgrow the cache are preempted and say the same", async () => {
    const llm = await load(3, 128);
    try {
      expect(await continuations(llm, works.slice(2))).toEqual(expected.slice(2));
      expect(llm.engine.stats().numPreemptions).toBeGreaterThan(0);
    } finally {
      await llm.close();
    }
  });
});
