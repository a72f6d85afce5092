/** Linears as CUDA text on the emulator, under its checker and four schedules, against their spec's meaning. */
import { describe, expect, it } from "vitest";
import type { DType } from "../../../compiler/ir/tensor-type.ts";
import { splitLinears } from "../../../compiler/kernels/for-blocks.ts";
import { interpretKernel } from "../../../compiler/kernels/interpret.ts";
import type { LinearKernel } from "../../../compiler/kernels/spec.ts";
import { linearInTiles } from "../../../compiler/schedule/cuda.ts";
import { TILES } from "../../../compiler/schedule/cuda-tiles.ts";
import { relativeError } from "../../support/closeness.ts";
import { type CudaRunOptions, runCudaKernel } from "../../support/cuda-kernel.ts";
import {
  acc,
  add,
  buffer,
  copyEnvironment,
  linearSpec,
  operand,
  randomEnvironment,
  randomSource,
  tensor,
} from "../../support/kernel-specs.ts";

const seed = Math.floor(Math.random() * 2 ** 31);
console.log(`seed ${seed}`);

/** Worst relative error over numbers of rows of one spec. */
function worst(spec: LinearKernel, rows: readonly number[], options: CudaRunOptions): number {
  const random = randomSource(seed);
  const envs = rows.map((r) => randomEnvironment(spec, random, { rows: r, sampled: r }));
  const { results } = runCudaKernel(spec, envs, options);
  const errors = envs.map((env, i) => {
    const reference = copyEnvironment(env);
    interpretKernel(spec, reference);
    return relativeError(results[i]!.out, reference.buffers.get("out")!);
  });
  return errors.some(Number.isNaN) ? Number.NaN : Math.max(...errors);
}

/** The largest step a kernel is for, and numbers of rows in it. */
const sizes = [
  [1, [1]],
  [4, [1, 3]],
  [16, [1, 9]],
  [64, [5, 64]],
  [4096, [1, 130]],
] as const;

it.each([
  [1, "bf16"],
  [4, "f16"],
  [4, "f32"],
] as const)("normalizes up to %i rows of %s before it multiplies them, as a norm of its own does", (maxTokens, dtype) => {
  const plain = linearSpec({ n: 72, k: 200, weights: dtype, x: "f32" });
  const spec = { ...plain, norm: { gain: tensor("gain", 1, 200), eps: 1e-5, dtype } };
  expect(worst(spec, [1, maxTokens], { maxTokens, checked: true })).toBeLessThan(dtype === "f32" ? 3e-6 : 2e-3);
});

describe.each(TILES)("linear in tiles of $tileN × $tileT × $tileK", (tiles) => {
  it.each<DType>(["bf16", "f16"])("multiplies %s rows and weights that fill none", (dtype) => {
    const spec = linearSpec({ n: 136, k: 1096, weights: dtype, x: dtype });
    const schedule = linearInTiles(spec, { tiles, parts: 1 });
    expect(worst(spec, [1, 137], { schedule, checked: true })).toBeLessThan(2e-6);
  });
});

describe.each([2, 4, 8])("linear whose sums %i blocks share", (parts) => {
  const split = (spec: LinearKernel) => splitLinears([spec], () => ({ parts, tiles: 64, sums: 128 * 128 }))[0] as LinearKernel;

  it.each([
    [16, [1, 16]],
    [64, [5, 64]],
    [4096, [130]],
  ] as const)("adds their parts in order, in steps of up to %i tokens", (maxTokens, rows) => {
    const spec = split(linearSpec({ n: 72, k: 2104, x: "bf16" }));
    expect(worst(spec, rows, { maxTokens, checked: true, padding: 3 })).toBeLessThan(2e-6);
  });

  it.each(["reverse", "random", "greedy"] as const)("gates and rounds once, threads in %s order", (order) => {
    const spec = split(linearSpec({ n: 40, k: 2048, ways: 2, x: "bf16", out: "bf16" }));
    expect(worst(spec, [3, 17], { maxTokens: 64, order })).toBeLessThan(2e-3);
  });
});

describe.each(sizes)("linear of steps of up to %i tokens", (maxTokens, rows) => {
  it.each<DType>(["bf16", "f16", "f32"])("multiplies %s rows and weights that fill no tile", (dtype) => {
    const spec = linearSpec({ n: 80, k: 72, weights: dtype, x: dtype });
    expect(worst(spec, rows, { maxTokens, checked: true })).toBeLessThan(2e-6);
  });

  it("gates one half with the other, over more pieces of k than stages, and rounds the result", () => {
    const spec = linearSpec({ n: 40, k: 656, ways: 2, x: "bf16", out: "bf16" });
    expect(worst(spec, rows, { maxTokens, checked: true, padding: 3 })).toBeLessThan(2e-3);
  });

  it.each(["reverse", "random", "greedy"] as const)("adds a bias and a residual, threads in %s order", (order) => {
    const spec = linearSpec({
      n: 48,
      k: 128,
      x: "bf16",
      operands: [buffer("residual", 48), tensor("bias", 1, 48)],
      epilogue: add(operand(0), add(acc, operand(1))),
    });
    expect(worst(spec, rows, { maxTokens, order })).toBeLessThan(2e-6);
  });
});
