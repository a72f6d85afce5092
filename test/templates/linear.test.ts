/** Linears against their spec's meaning, on every instruction set this machine can run. */
import { describe, expect, it } from "vitest";
import { linearInputDtype } from "../../compiler/codegen/cpu/dialect.ts";
import { roundBf16 } from "../../compiler/ir/rounding.ts";
import type { DType } from "../../compiler/ir/tensor-type.ts";
import { interpretKernel } from "../../compiler/kernels/interpret.ts";
import type { LinearKernel } from "../../compiler/kernels/spec.ts";
import { relativeError } from "../support/closeness.ts";
import { fullSweep, type Runner, runners } from "../support/kernel-process.ts";
import { type KernelResult, runKernel } from "../support/kernel-runner.ts";
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
} from "../support/kernel-specs.ts";

const seed = Math.floor(Math.random() * 2 ** 31);
console.log(`seed ${seed}`);

const input = (runner: Runner, weights: DType): DType => linearInputDtype(runner.isa, weights);

/** Worst relative error over rows of one spec. */
function worst(spec: LinearKernel, runner: Runner, rows: readonly number[], inPlace?: number): number {
  const random = randomSource(seed);
  const envs = rows.map((r) => randomEnvironment(spec, random, { rows: r }));
  const results = runKernel(spec, runner, envs, { random: random.uniform, ...(inPlace === undefined ? {} : { inPlace }) });
  const errors = envs.map((env, i) => {
    const reference = copyEnvironment(env);
    interpretKernel(spec, reference);
    return relativeError((results[i] as KernelResult).out, reference.buffers.get("out") as Float32Array);
  });
  return errors.some(Number.isNaN) ? Number.NaN : Math.max(...errors);
}

const everyRowCount = Array.from({ length: 40 }, (_, i) => i + 1);

describe.each(runners())("linear on $name", (runner) => {
  it.each<DType>(["f32", "bf16", "f16"])("multiplies %s weights for 1 to 40 rows", (weights) => {
    const spec = linearSpec({ n: 80, k: 96, weights, x: input(runner, weights) });
    expect(worst(spec, runner, everyRowCount)).toBeLessThan(2e-6);
  });

  it("multiplies shapes that fill neither a panel nor a tile", () => {
    for (const [n, k] of [
      [1, 32],
      [17, 34],
      [50, 1],
      [130, 47],
    ] as const) {
      for (const weights of fullSweep ? (["bf16", "f32", "f16"] as const) : (["bf16"] as const)) {
        const spec = linearSpec({ n, k, weights, x: input(runner, weights) });
        // One sum alone may cancel to nearly nothing; a column of them does not.
        expect(worst(spec, runner, n === 1 ? [33] : [1, 5, 33]), `${n} × ${k} ${weights}`).toBeLessThan(2e-6);
      }
    }
  });

  it("sums over many blocks of k and several passes of rows", () => {
    const spec = linearSpec({ n: 48, k: 1600, x: input(runner, "bf16") });
    expect(worst(spec, runner, [1, 17, 100, 290])).toBeLessThan(3e-6);
  });

  it("gates one half with the other and rounds the result", () => {
    for (const out of fullSweep ? (["f32", "bf16", "f16"] as const) : (["bf16"] as const)) {
      const spec = linearSpec({ n: 112, k: 64, ways: 2, x: input(runner, "bf16"), out });
      expect(worst(spec, runner, [1, 2, 7, 16, 31]), out).toBeLessThan({ f32: 3e-6, bf16: 3e-4, f16: 1e-4 }[out]);
    }
  });

  it("adds a bias, and a residual in the residual's own memory", () => {
    const operands = [buffer("residual", 64), tensor("bias", 1, 64)];
    const spec = linearSpec({
      n: 64,
      k: 64,
      x: input(runner, "bf16"),
      operands,
      epilogue: add(operand(0), add(acc, operand(1))),
    });
    expect(worst(spec, runner, [1, 6, 19], 0)).toBeLessThan(2e-6);
  });

  it("gives a row the same bits alone and among others", () => {
    for (const weights of ["bf16", "f32"] as const) {
      const spec = linearSpec({ n: 70, k: 1100, weights, x: input(runner, weights), rows: "T" });
      const random = randomSource(seed);
      const all = randomEnvironment(spec, random, { rows: 120 });
      const x = all.buffers.get("x") as Float32Array;
      const alone = [0, 7, 95, 96, 119].map((row) => ({
        ...randomEnvironment(spec, random, { rows: 1 }),
        tensor: all.tensor,
        buffers: new Map([["x", x.slice(row * 1100, (row + 1) * 1100)]]),
      }));
      const [together, ...singles] = runKernel(spec, runner, [all, ...alone]);
      [0, 7, 95, 96, 119].forEach((row, i) => {
        expect(singles[i]?.out.join(), `row ${row}`).toBe(together?.out.slice(row * 70, (row + 1) * 70).join());
      });
    }
  });
});

describe.each([
  ["tile twin", "avx512-amx"],
  ["pair twin", "avx512-bf16"],
] as const)("the %s", (name, isa) => {
  const all = runners(true);
  const hardware = all.find((r) => r.name === isa);
  const twin = all.find((r) => r.name === name) as Runner;

  it.skipIf(!hardware)(`computes the bits cpu:${isa} computes, subnormals and overflows included`, () => {
    const spec = linearSpec({ n: 48, k: 257, x: "bf16" });
    const random = randomSource(seed);
    const env = randomEnvironment(spec, random, { rows: 21 });
    // Magnitudes from far below the smallest normal number to the largest.
    const spread = (data: Float32Array) => {
      for (let i = 0; i < data.length; i++)
        data[i] = roundBf16(data[i]! * 2 ** (random.below(4) === 0 ? random.below(126) - 126 : random.below(100) - 50));
    };
    spread(env.buffers.get("x")!);
    spread(env.tensor(spec.w));
    const [a, b] = [hardware as Runner, twin].map((runner) => runKernel(spec, runner, [env])[0]!.outBytes);
    expect(Buffer.compare(a!, b!)).toBe(0);
  });
});
