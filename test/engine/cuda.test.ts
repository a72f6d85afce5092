/**
 * CUDA engines on the emulated GPU, compiled and run as a user does it: every family against the recorded reference activations. The full
 * run takes every family, dtype, architecture; an ordinary one some of them, drawn by a seed that it prints.
 */
import { describe, expect, it } from "vitest";
import { isFullRun } from "../support/compiled-engine.ts";
import { CUDA_TARGETS, type CudaTargetName, cudaCommandLine, deviceFor, ORDERS } from "../support/cuda-engine.ts";
import { FAMILIES, goldenFolder, hasGolden, readJson } from "../support/golden.ts";
import { seededRandom } from "../support/seeded-random.ts";

const DTYPES = ["bfloat16", "float16", "float32"] as const;
/** Cases of an ordinary run: 10 s of a core each. */
const NUM_DRAWN = 3;

interface Case {
  readonly family: (typeof FAMILIES)[number];
  readonly dtype: (typeof DTYPES)[number];
  readonly target: CudaTargetName;
  readonly order: (typeof ORDERS)[number];
}

const seed = Number(process.env.INGOT_TEST_SEED ?? Date.now() % 1e9);
const random = seededRandom(seed);
console.log(`seed ${seed} (INGOT_TEST_SEED)`);

const cases = FAMILIES.flatMap((family) =>
  DTYPES.flatMap((dtype) => CUDA_TARGETS.map((target): Case => ({ family, dtype, target, order: random.pick(ORDERS) }))),
);

function drawn(): Case[] {
  const left = [...cases];
  return Array.from({ length: NUM_DRAWN }, () => left.splice(random.below(left.length), 1)[0]!);
}

const { run, scratch } = cudaCommandLine("cuda");

describe.skipIf(!hasGolden)("an engine has the reference's logits, hidden states and, in f32, its greedy tokens:", () => {
  it.each(isFullRun ? cases : drawn())("$family in $dtype on $target, threads in $order order", async (c) => {
    const { family, dtype, target, order } = c;
    const folder = `${scratch}/${family}-${dtype}-${target.slice(5)}`;
    const device = { ...deviceFor(target), order, seed };
    const compiled = await run(
      [
        ...["compile", goldenFolder(family), "-o", folder, "--target", target, "--dtype", dtype],
        ...["--max-num-seqs", "160", "--max-num-batched-tokens", "160"], // a step for each prompt, whose every row is compared
      ],
      device,
    );
    expect(compiled.code, compiled.stderr).toBe(0);
    const { code, stdout, stderr } = await run(["verify", folder, "--golden", goldenFolder(family), "--json"], device);
    expect(stdout, stderr).not.toBe("");
    const result = JSON.parse(stdout) as { firstFailure: unknown; rows: { error: number }[] };
    expect({ firstFailure: result.firstFailure, code }).toEqual({ firstFailure: null, code: 0 });
    const { num_hidden_layers: layers } = readJson(family, "config.json") as { num_hidden_layers: number };
    const tensors = 2 * (4 + 3 * (1 + layers)); // of prefill and decode: logits of four prompts, hidden states of three
    expect(result.rows).toHaveLength(tensors + 4 + (dtype === "float32" ? 4 : 0)); // sampler, greedy
    if (dtype === "float32") expect(Math.max(...result.rows.map((row) => row.error))).toBeLessThan(1e-5);
  });
});
