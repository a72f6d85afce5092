/**
 * Whole engines under the checker: races, bounds and uninitialised memory of every kernel of every program, in the engine's own launches,
 * and what they compute. An ordinary run takes one family in one order, drawn by a seed that it prints; the full run all in all four.
 */
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { readGolden } from "../../compiler/cli/golden.ts";
import { readManifest } from "../../compiler/cli/load.ts";
import { kvKind } from "../../runtime/batch.ts";
import { expectClose } from "../support/closeness.ts";
import { isFullRun, scratchFolder } from "../support/compiled-engine.ts";
import { CUDA_TARGETS, compileCudaForTest, deviceFor, loadOnFakeDevice, ORDERS } from "../support/cuda-engine.ts";
import { calls } from "../support/fake-cuda.ts";
import { FAMILIES, goldenFolder, hasGolden } from "../support/golden.ts";
import { seededRandom } from "../support/seeded-random.ts";

const seed = Number(process.env.INGOT_TEST_SEED ?? Date.now() % 1e9);
const random = seededRandom(seed);
console.log(`seed ${seed} (INGOT_TEST_SEED)`);

/** A step of each size that has a program of its own, and one of more tokens. */
const STEPS = [1, 3, 9, 33, 70];
const flags = { dtype: "bfloat16", maxModelLen: 192, maxNumSeqs: 70, maxNumBatchedTokens: 70 };

interface Case {
  readonly family: (typeof FAMILIES)[number];
  readonly order: (typeof ORDERS)[number];
}
const drawn: Case[] = [{ family: random.pick(FAMILIES), order: random.pick(ORDERS) }];
const cases: Case[] = isFullRun ? FAMILIES.flatMap((family) => ORDERS.map((order) => ({ family, order }))) : drawn;
const scratch = scratchFolder("cuda-checked");

describe.skipIf(!hasGolden)("every kernel of an engine under the checker runs, and computes what the reference computes:", () => {
  it.each(cases)("$family, threads in $order order", async ({ family, order }) => {
    const target = CUDA_TARGETS[FAMILIES.indexOf(family) % 2]!;
    const folder = join(scratch, family);
    const log = join(scratch, `${family}-${order}.log`);
    await compileCudaForTest(goldenFolder(family), folder, { ...flags, target }, { isChecked: true });
    const { prompts, bf16RelativeError } = readGolden(goldenFolder(family));
    const { ids } = prompts.at(-1)!;
    const { rebuiltBeyond } = readManifest(folder).kvCache;
    const llm = await loadOnFakeDevice(folder, { ...deviceFor(target), order, seed, log }, { kvCacheMemoryBytes: 2 ** 22 });
    try {
      let compared = 0;
      for (const tokens of STEPS) {
        const prompt = prompts.find((p) => p.ids.length >= tokens)!;
        const { logits } = await llm.forward(prompt.ids.slice(0, tokens));
        expect(logits.every(Number.isFinite)).toBe(true);
        // A longer prompt may have keys of another kind, and other logits from the first token on.
        if (kvKind(tokens, rebuiltBeyond) !== kvKind(prompt.ids.length, rebuiltBeyond)) continue;
        expectClose(logits, prompt.logits.subarray(0, logits.length), 3 * bf16RelativeError, `logits of ${tokens} tokens`);
        compared++;
      }
      expect(compared).toBeGreaterThanOrEqual(3);
      const beginnings = [ids.slice(0, 5), ids.slice(0, 70), ids.slice(3, 4)];
      const outputs = await llm.generate(beginnings, { temperature: 0.7, topP: 0.9, topK: 20, maxTokens: 3, ignoreEos: true });
      expect(outputs.map((o) => o.outputs[0]!.tokenIds.length)).toEqual([3, 3, 3]);
    } finally {
      await llm.close();
    }
    const launched = calls(log, "cuLaunchKernelEx").map((line) => line.split(" ")[1]!);
    const kernels = readManifest(folder).kernels.map((kernel) => kernel.name);
    expect([...new Set(launched)].sort()).toEqual([...kernels].sort());
  });
});
