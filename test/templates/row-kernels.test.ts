/** Norm, embedding, elementwise work and rotary angles against their specs' meaning, on every instruction set this machine can run. */
import { describe, expect, it } from "vitest";
import type { KernelEnvironment } from "../../compiler/kernels/environment.ts";
import { interpretKernel } from "../../compiler/kernels/interpret.ts";
import type { Expr, KernelSpec } from "../../compiler/kernels/spec.ts";
import { relativeError } from "../support/closeness.ts";
import { fullSweep, plainRunners, type Runner } from "../support/kernel-process.ts";
import { type RunOptions, runKernel } from "../support/kernel-runner.ts";
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
} from "../support/kernel-specs.ts";

const seed = Math.floor(Math.random() * 2 ** 31);
console.log(`seed ${seed}`);

type Shape = NonNullable<Parameters<typeof randomEnvironment>[2]>;

function errors(spec: KernelSpec, runner: Runner, shapes: readonly (number | Shape)[], options: RunOptions = {}): number[] {
  const random = randomSource(seed);
  const envs = shapes.map((s) => randomEnvironment(spec, random, typeof s === "number" ? { rows: s } : s));
  return errorsOver(spec, runner, envs, { random: random.uniform, ...options });
}

function errorsOver(spec: KernelSpec, runner: Runner, envs: readonly KernelEnvironment[], options: RunOptions = {}): number[] {
  const results = runKernel(spec, runner, envs, options);
  return envs.map((env, i) => {
    const reference = copyEnvironment(env);
    interpretKernel(spec, reference);
    return relativeError(results[i]!.out, reference.buffers.get("out")!);
  });
}

const invFreq = Array.from({ length: 24 }, (_, i) => 10000 ** (-i / 24));
const isNumber = (limit: number) => (error: number) => error <= limit;
const common = { nodes: [], epilogue: acc, operands: [] };

describe.each(plainRunners())("row kernels on $name", (runner) => {
  it("normalizes rows of any length", () => {
    for (const cols of fullSweep ? [16, 48, 100, 1024] : [48, 100]) {
      const spec: KernelSpec = {
        ...common,
        kind: "rms_norm",
        name: "rms_norm_under_test",
        x: buffer("x", cols),
        rows: null,
        gain: tensor("gain", 1, cols),
        eps: 1e-5,
        out: buffer("out", cols),
      };
      expect(errors(spec, runner, [1, 3, 37]), `${cols}`).toSatisfy((e: number[]) => e.every(isNumber(1e-6)));
    }
  });

  it("gathers sampled rows, and rounds to bf16 in the layout that linears read", () => {
    for (const cols of fullSweep ? [80, 72, 64] : [72]) {
      const spec: KernelSpec = {
        ...common,
        kind: "rms_norm",
        name: "rms_norm_under_test",
        x: buffer("x", cols),
        rows: input("sample_rows"),
        gain: tensor("gain", 1, cols),
        eps: 1e-6,
        out: buffer("out", cols, "bf16", "S"),
      };
      expect(errors(spec, runner, [1, 3, 37]), `${cols}`).toSatisfy((e: number[]) => e.every(isNumber(4e-4)));
    }
  });

  it("takes mean and bias of layers into account, on whole and on sampled rows", () => {
    for (const cols of fullSweep ? [1, 16, 44, 64, 100, 1024] : [44]) {
      for (const gathers of fullSweep ? [false, true] : [true]) {
        const random = randomSource(seed);
        const spec = {
          ...layerNormSpec({ cols, gathers, vectors: cols === 44 ? "bf16" : "f32" }),
          epilogue: add(operand(0), acc),
        };
        const withResidual: KernelSpec = { ...spec, operands: [buffer("residual", cols, "f32", gathers ? "S" : "T")] };
        const envs = [1, 3, 37].map((rows) => randomEnvironment(withResidual, random, { rows }));
        // Far from 0: a variance of squares less the squared mean would lose all its digits.
        for (const env of envs)
          env.buffers.set(
            "x",
            env.buffers.get("x")!.map((v) => v + 100),
          );
        expect(errorsOver(withResidual, runner, envs), `${cols}`).toSatisfy((e: number[]) => e.every(isNumber(2e-5)));
      }
      const narrow = layerNormSpec({ cols, out: "bf16" });
      if (cols > 1) expect(errors(narrow, runner, [1, 37])).toSatisfy((e: number[]) => e.every(isNumber(4e-4)));
    }
  });

  it("takes rows and columns out of a buffer, whatever its layout", () => {
    const all = [
      { from: 72, cols: 72, gathers: true, x: "bf16" },
      { from: 72, col: 5, cols: 67, gathers: false, x: "bf16" },
      { from: 72, col: 5, cols: 67, gathers: false, x: "f32" },
      { from: 33, col: 32, cols: 1, gathers: true, x: "bf16" },
      { from: 80, col: 48, cols: 16, gathers: true, x: "f32" },
    ] as const;
    for (const shape of fullSweep ? all : all.slice(0, 2)) {
      const spec: KernelSpec = {
        ...gatherSpec(shape),
        operands: [buffer("a", shape.cols, "f32", shape.gathers ? "S" : "T")],
        epilogue: mul(operand(0), acc),
      };
      expect(errors(spec, runner, [1, 3, 37]), JSON.stringify(shape)).toEqual([0, 0, 0]);
    }
  });

  it("zeroes a tile's columns beyond the last", () => {
    if (runner.isa !== "avx512-amx") return;
    for (const cols of fullSweep ? [80, 72, 40] : [80, 40]) {
      const spec: KernelSpec = {
        ...common,
        kind: "elementwise",
        name: "elementwise_under_test",
        operands: [buffer("x", cols)],
        epilogue: add(operand(0), { kind: "constant", value: 1 }),
        out: buffer("out", cols, "bf16"),
      };
      const [result] = runKernel(spec, runner, [randomEnvironment(spec, randomSource(seed), { rows: 3 })]);
      const words = new Uint16Array(new Uint8Array(result!.outBytes).buffer);
      const beyond = Array.from({ length: Math.ceil(cols / 32) * 32 - cols }, (_, i) => cols + i);
      for (let row = 0; row < 3; row++)
        for (const col of beyond)
          expect(words[Math.floor(col / 32) * 512 + row * 32 + (col % 32)], `${cols}: ${row}, ${col}`).toBe(0);
    }
  });

  it.each(["f32", "bf16", "f16"] as const)("looks up %s embeddings in rows and in the head's panels", (dtype) => {
    for (const cols of fullSweep ? [64, 100] : [100]) {
      const spec: KernelSpec = {
        ...common,
        kind: "embedding",
        name: "embedding_under_test",
        ids: input("token_ids"),
        table: tensor("table", 77, cols, dtype),
        epilogue: mul(acc, { kind: "constant", value: 3.5 }),
        out: buffer("out", cols),
      };
      expect(errors(spec, runner, [1, 40])).toEqual([0, 0]);
      expect(errors(spec, runner, [1, 40], { panelTensors: new Set(["table"]) })).toEqual([0, 0]);
    }
  });

  it("evaluates expressions over operands of every dtype and shape", () => {
    const spec: KernelSpec = {
      ...common,
      kind: "elementwise",
      name: "elementwise_under_test",
      operands: [buffer("a", 44), buffer("b", 44, "bf16"), tensor("bias", 1, 44)],
      epilogue: add(mul(silu(operand(0)), add(operand(1), { kind: "constant", value: -0.25 })), {
        kind: "unary",
        fn: "round_f16",
        x: operand(2),
      }),
      out: buffer("out", 44),
    };
    expect(errors(spec, runner, [1, 33])).toSatisfy((e: number[]) => e.every(isNumber(1e-6)));
  });

  it("reads operands of one column once for a row", () => {
    const spec: KernelSpec = {
      ...common,
      kind: "elementwise",
      name: "elementwise_under_test",
      operands: [buffer("a", 44), buffer("gate", 1), buffer("narrow_gate", 1, "bf16")],
      epilogue: add(mul(operand(0), operand(1)), operand(2)),
      out: buffer("out", 44),
    };
    expect(errors(spec, runner, [1, 33])).toSatisfy((e: number[]) => e.every(isNumber(1e-6)));
  });

  it("evaluates every function of an expression", () => {
    const unary = ["sigmoid", "silu", "gelu_tanh", "tanh"] as const;
    const binary = ["min", "max"] as const;
    const all = unary.reduce<Expr>((sum, fn, i) => add(sum, mul({ kind: "unary", fn, x: operand(i % 2) }, operand(1))), acc);
    const spec: KernelSpec = {
      ...common,
      kind: "embedding",
      name: "embedding_under_test",
      ids: input("token_ids"),
      table: tensor("table", 5, 44),
      operands: [buffer("a", 44), buffer("b", 44)],
      epilogue: binary.reduce<Expr>((sum, fn, i) => add(sum, { kind: "binary", fn, a: operand(i), b: all }), all),
      out: buffer("out", 44),
    };
    expect(errors(spec, runner, [1, 33])).toSatisfy((e: number[]) => e.every(isNumber(1e-6)));
  });

  it("turns positions into angles", () => {
    const spec: KernelSpec = {
      kind: "rope_angles",
      name: "rope_angles_under_test",
      nodes: [],
      positions: input("positions"),
      invFreq,
      attentionFactor: 1.25,
      long: null,
      out: buffer("out", 48),
    };
    expect(errors(spec, runner, [1, 300])).toSatisfy((e: number[]) => e.every(isNumber(1e-6)));
  });

  it("turns tokens of long sequences by frequencies of their own", () => {
    const spec: KernelSpec = {
      kind: "rope_angles",
      name: "rope_angles_under_test",
      nodes: [],
      positions: input("positions"),
      invFreq,
      attentionFactor: 1.25,
      long: { invFreq: invFreq.map((f) => f / 3), beyond: 40, seqIds: input("seq_ids"), seqLens: input("seq_lens") },
      out: buffer("out", 48),
    };
    const sequences = [
      { length: 40, tokens: 40 },
      { length: 41, tokens: 5 },
      { length: 7, tokens: 1 },
      { length: 90, tokens: 1 },
    ];
    expect(errors(spec, runner, [{ sequences }])).toSatisfy((e: number[]) => e.every(isNumber(1e-6)));
  });
});
