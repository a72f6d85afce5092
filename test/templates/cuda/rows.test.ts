/** Row kernels as CUDA text on the emulator, under its checker, against their specs' meaning. */
import { describe, expect, it } from "vitest";
import { interpretKernel } from "../../../compiler/kernels/interpret.ts";
import type { Expr, KernelSpec } from "../../../compiler/kernels/spec.ts";
import { relativeError } from "../../support/closeness.ts";
import { runCudaKernel } from "../../support/cuda-kernel.ts";
import {
  acc,
  add,
  buffer,
  copyEnvironment,
  gatherSpec,
  input,
  layerNormSpec,
  mul,
  operand,
  randomEnvironment,
  randomSource,
  silu,
  tensor,
} from "../../support/kernel-specs.ts";

const seed = Math.floor(Math.random() * 2 ** 31);
console.log(`seed ${seed}`);

/** Relative errors over batches of one and of several rows. */
function errors(spec: KernelSpec, change: (x: Float32Array) => Float32Array = (x) => x): number[] {
  const random = randomSource(seed);
  const envs = [1, 5].map((rows) => randomEnvironment(spec, random, { rows }));
  for (const env of envs) if (env.buffers.has("x")) env.buffers.set("x", change(env.buffers.get("x")!));
  const { results } = runCudaKernel(spec, envs, { checked: true, padding: 2 });
  return envs.map((env, i) => {
    const reference = copyEnvironment(env);
    interpretKernel(spec, reference);
    return relativeError(results[i]!.out, reference.buffers.get("out")!);
  });
}

const below = (limit: number) => (found: number[]) => found.every((error) => error <= limit);
const common = { nodes: [], epilogue: acc, operands: [] };
const constant = (value: number): Expr => ({ kind: "constant", value });

describe("row kernels on CUDA", () => {
  it.each([20, 100, 1024, 5000])("normalize rows of %i, gathered and rounded or not", (cols) => {
    const norm = {
      ...common,
      kind: "rms_norm" as const,
      name: "norm",
      x: buffer("x", cols),
      gain: tensor("gain", 1, cols),
      eps: 1e-5,
    };
    expect(errors({ ...norm, rows: null, out: buffer("out", cols) })).toSatisfy(below(2e-6));
    expect(errors({ ...norm, rows: input("sample_rows"), out: buffer("out", cols, "bf16", "S") })).toSatisfy(below(3e-3));
  });

  it.each([1, 44, 1024])("take mean and bias of %i into account", (cols) => {
    const spec: KernelSpec = {
      ...layerNormSpec({ cols, gathers: true, vectors: "bf16" }),
      epilogue: add(operand(0), acc),
      operands: [buffer("residual", cols, "f32", "S")],
    };
    // Far from 0: a variance of squares less the squared mean would lose all its digits.
    expect(errors(spec, (x) => x.map((v) => v + 100))).toSatisfy(below(3e-5));
  });

  it.each([
    { from: 72, cols: 72, gathers: true, x: "bf16" },
    { from: 72, col: 5, cols: 67, gathers: false, x: "f32" },
    { from: 33, col: 32, cols: 1, gathers: true, x: "f16" },
  ] as const)("take rows and columns out of a buffer: $cols of $from", (shape) => {
    const operands = [buffer("a", shape.cols, "f32", shape.gathers ? "S" : "T")];
    expect(errors({ ...gatherSpec(shape), operands, epilogue: mul(operand(0), acc) })).toEqual([0, 0]);
  });

  it.each(["f32", "bf16", "f16"] as const)("look up %s embeddings", (dtype) => {
    const table = tensor("table", 77, 100, dtype);
    const out = buffer("out", 100);
    expect(
      errors({
        ...common,
        kind: "embedding",
        name: "embedding",
        ids: input("token_ids"),
        table,
        epilogue: mul(acc, constant(3.5)),
        out,
      }),
    ).toEqual([0, 0]);
  });

  it("look up what the step before sampled, where an id says its row, and the first id where that had no token", () => {
    const spec: KernelSpec = {
      ...common,
      kind: "embedding",
      name: "embedding",
      ids: input("token_ids"),
      table: tensor("table", 9, 32),
      out: buffer("out", 32),
    };
    const env = randomEnvironment(spec, randomSource(seed), { rows: 3 });
    const ids = (of: readonly number[]) => ({ ...env, input: () => Int32Array.from(of), sampled: Int32Array.of(-1, 7, 2) });
    const { results } = runCudaKernel(spec, [ids([-2, 4, -3]), ids([7, 4, 2]), ids([-1, -1, 4]), ids([0, 0, 4])]);
    expect(results[0]!.out).toEqual(results[1]!.out);
    expect(results[2]!.out).toEqual(results[3]!.out);
  });

  it("evaluate every function over operands of every dtype and shape", () => {
    const fns = ["sigmoid", "silu", "gelu_tanh", "tanh", "round_bf16", "round_f16"] as const;
    const sum = fns.map((fn): Expr => ({ kind: "unary", fn, x: operand(0) })).reduce(add);
    const bounded: Expr = {
      kind: "binary",
      fn: "max",
      a: { kind: "binary", fn: "min", a: operand(1), b: constant(0.5) },
      b: constant(-0.25),
    };
    const spec: KernelSpec = {
      ...common,
      kind: "elementwise",
      name: "elementwise",
      operands: [buffer("a", 44), buffer("b", 44, "bf16"), tensor("bias", 1, 44), buffer("gate", 1)],
      epilogue: add(mul(sum, operand(3)), mul(bounded, silu(operand(2)))),
      out: buffer("out", 44),
    };
    expect(errors(spec)).toSatisfy(below(2e-6));
  });

  it("sum the rows of a token's experts", () => {
    const rows = { sym: "T" as const, times: 3, max: 4096, multipleOf: 1 };
    const spec: KernelSpec = {
      ...common,
      kind: "slot_sum",
      name: "sum",
      y: { ...buffer("y", 40), rows },
      weights: buffer("weights", 3),
      epilogue: add(acc, operand(0)),
      operands: [buffer("residual", 40)],
      out: buffer("out", 40),
    };
    expect(errors(spec)).toSatisfy(below(1e-6));
  });

  it.each([false, true])("turn positions into angles, far ones too (long frequencies: %s)", (isLong) => {
    const invFreq = Array.from({ length: 24 }, (_, i) => 10000 ** (-i / 24));
    const long = { beyond: 50, invFreq: invFreq.map((f) => f / 2), seqIds: input("seq_ids"), seqLens: input("seq_lens") };
    const spec: KernelSpec = {
      ...common,
      kind: "rope_angles",
      name: "angles",
      positions: input("positions"),
      invFreq,
      attentionFactor: 1.25,
      long: isLong ? long : null,
      out: buffer("out", 48),
    };
    const env = randomEnvironment(spec, randomSource(seed), {
      sequences: [
        { length: 40, tokens: 3 },
        { length: 130_000, tokens: 4 },
      ],
    });
    const reference = copyEnvironment(env);
    interpretKernel(spec, reference);
    const { results } = runCudaKernel(spec, [env], { checked: true });
    expect(relativeError(results[0]!.out, reference.buffers.get("out")!)).toBeLessThan(2e-6);
  });
});
