/** Cache writes and attention against their specs' meaning, on every instruction set this machine can run. */
import { describe, expect, it } from "vitest";
import type { KernelEnvironment } from "../../compiler/kernels/environment.ts";
import { interpretKernel } from "../../compiler/kernels/interpret.ts";
import type { KernelSpec } from "../../compiler/kernels/spec.ts";
import { relativeError } from "../support/closeness.ts";
import { fullSweep, plainRunners, type Runner, runners } from "../support/kernel-process.ts";
import { type KernelResult, runKernel } from "../support/kernel-runner.ts";
import {
  attentionSpec,
  copyEnvironment,
  randomEnvironment,
  randomSource,
  storeKvSpec,
  type TestSequence,
} from "../support/kernel-specs.ts";

const seed = Math.floor(Math.random() * 2 ** 31);
console.log(`seed ${seed}`);

/** Prefill from nothing, prefill after a prefix, decode at several lengths, in one batch. */
const mixed: readonly TestSequence[] = [
  { length: 5, tokens: 5 },
  { length: 1, tokens: 1 },
  { length: 130, tokens: 1 },
  { length: 150, tokens: 37 },
  { length: 64, tokens: 1 },
  { length: 65, tokens: 2 },
  { length: 33, tokens: 1 },
];

function compare(
  spec: KernelSpec,
  runner: Runner,
  env: KernelEnvironment,
  blockSize = 32,
): { result: KernelResult; out: Float32Array; reference: KernelEnvironment } {
  const reference = copyEnvironment(env);
  interpretKernel(spec, reference);
  const [result] = runKernel(spec, runner, [env], { random: randomSource(seed).uniform, kvBlockSize: blockSize });
  return { result: result!, out: reference.buffers.get("out")!, reference };
}

// The twins add nothing here but the layout of the output.
describe.each(fullSweep ? runners() : plainRunners())("attention on $name", (runner) => {
  it.each([
    { heads: 4, kvHeads: 2, headDim: 64, norm: true, half: 32, style: "half", dtype: "bf16" },
    { heads: 3, kvHeads: 1, headDim: 48, norm: false, half: 8, style: "interleaved", dtype: "f16" },
    { heads: 2, kvHeads: 2, headDim: 80, norm: false, half: 0, style: "half", dtype: "f32" },
    { heads: 2, kvHeads: 1, headDim: 16, norm: true, half: 5, style: "half", dtype: "f32" },
    { heads: 4, kvHeads: 2, headDim: 64, norm: true, half: 20, style: "interleaved", dtype: "bf16", apart: true },
  ] as const)("stores $headDim-wide heads as $dtype, rotated by $half pairs ($style)", (shape) => {
    const spec = storeKvSpec(shape);
    for (const blockSize of fullSweep ? [16, 32] : [32]) {
      const env = randomEnvironment(spec, randomSource(seed), { sequences: mixed, blockSize });
      const { result, out, reference } = compare(spec, runner, env, blockSize);
      expect(relativeError(result.out, out)).toBeLessThan(1e-6);
      const limit = { f32: 1e-6, f16: 1e-4, bf16: 4e-4 }[shape.dtype];
      for (const half of ["k", "v"] as const) {
        const [got, want] = [result.kv![half], reference.kv(0)[half]];
        // Slots nobody wrote keep what they held: NaN on both sides.
        expect(got.map(Number.isNaN as never).join()).toBe(want.map(Number.isNaN as never).join());
        expect(
          relativeError(
            got.filter((x) => !Number.isNaN(x)),
            want.filter((x) => !Number.isNaN(x)),
          ),
        ).toBeLessThan(limit);
      }
    }
  });

  it.each(fullSweep ? [16, 32, 64, 80, 96, 128, 256] : [16, 80, 128])(
    "attends with heads of %i over a mixed batch",
    (headDim) => {
      const spec = attentionSpec({ heads: 4, kvHeads: 2, headDim });
      const env = randomEnvironment(spec, randomSource(seed), { sequences: mixed });
      const { result, out } = compare(spec, runner, env);
      expect(relativeError(result.out, out)).toBeLessThan(2e-6);
    },
  );

  it("attends over every cache dtype and group size, and rounds its output", () => {
    for (const dtype of ["f32", "f16", "bf16"] as const) {
      for (const [heads, kvHeads] of [
        [3, 3],
        [8, 1],
        [14, 2],
      ] as const) {
        if (dtype !== "f32" && (kvHeads !== 3 || (dtype === "bf16" && !fullSweep))) continue;
        const spec = attentionSpec({ heads, kvHeads, headDim: 32, dtype, out: "bf16" });
        const env = randomEnvironment(spec, randomSource(seed), { sequences: mixed, blockSize: 16 });
        const { result, out } = compare(spec, runner, env, 16);
        expect(relativeError(result.out, out), `${dtype} ${heads}/${kvHeads}`).toBeLessThan(4e-4);
      }
    }
  });

  it.each(fullSweep ? [1, 7, 64, 100] : [1, 100])("sees only the last %i positions through a window", (window) => {
    const spec = attentionSpec({ heads: 2, kvHeads: 1, headDim: 32, window });
    const env = randomEnvironment(spec, randomSource(seed), { sequences: mixed });
    const { result, out } = compare(spec, runner, env);
    expect(relativeError(result.out, out)).toBeLessThan(2e-6);
  });

  it("lets a sink take part in the softmax of its head, however large it is", () => {
    for (const sinks of ["f32", "bf16"] as const) {
      for (const window of [null, 5]) {
        const spec = attentionSpec({ heads: 4, kvHeads: 2, headDim: 32, window, sinks });
        const env = randomEnvironment(spec, randomSource(seed), { sequences: mixed });
        env.tensor(spec.sinks!).set([-60, 0.5, 3, 20]);
        const { result, out } = compare(spec, runner, env);
        for (let h = 0; h < 4; h++) {
          const head = (x: Float32Array) => x.filter((_, i) => Math.floor(i / 32) % 4 === h);
          expect(relativeError(head(result.out), head(out)), `head ${h}`).toBeLessThan(3e-6);
        }
      }
    }
  });

  it.each([
    [null, undefined],
    [40, undefined],
    [40, "f32"],
  ] as const)("gives a token the same bits alone and among others (window %s, sinks %s)", (window, sinks) => {
    const spec = attentionSpec({ heads: 4, kvHeads: 2, headDim: 64, window, sinks });
    const batch = randomEnvironment(spec, randomSource(seed), { sequences: mixed });
    const width = 4 * 64;
    const tokens = [0, 4, 5, 6, 7, 20, 43, 44, 46];
    const alone = tokens.map(
      (t): KernelEnvironment => ({
        ...batch,
        binding: { ...batch.binding, T: 1 },
        buffers: new Map([["q", batch.buffers.get("q")!.slice(t * width, (t + 1) * width)]]),
        input: (name) => (name === "block_tables" ? batch.input(name) : batch.input(name).slice(t, t + 1)),
      }),
    );
    const [together, ...single] = runKernel(spec, runner, [batch, ...alone]);
    tokens.forEach((t, i) => {
      expect(single[i]!.out.join(), `token ${t}`).toBe(together!.out.slice(t * width, (t + 1) * width).join());
    });
  });
});
