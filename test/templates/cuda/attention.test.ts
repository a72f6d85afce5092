/** Cache writes, units and attention as CUDA text on the emulator, under its checker, against their specs' meaning. */
import { describe, expect, it } from "vitest";
import { cudaDialects } from "../../../compiler/codegen/cuda/dialect.ts";
import type { KernelEnvironment } from "../../../compiler/kernels/environment.ts";
import { forBlocks } from "../../../compiler/kernels/for-blocks.ts";
import { interpretKernel } from "../../../compiler/kernels/interpret.ts";
import type { AttentionKernel, KernelSpec, LinearKernel, StoreKvKernel } from "../../../compiler/kernels/spec.ts";
import { plansAttention, scheduleCudaKernel } from "../../../compiler/schedule/cuda.ts";
import { relativeError } from "../../support/closeness.ts";
import { isFullRun } from "../../support/compiled-engine.ts";
import { type CudaKernelResult, type CudaRunOptions, runCudaKernel } from "../../support/cuda-kernel.ts";
import {
  acc,
  add,
  attentionSpec,
  buffer,
  copyEnvironment,
  linearSpec,
  operand,
  randomEnvironment,
  randomSource,
  storeKvSpec,
  type TestSequence,
  tensor,
} from "../../support/kernel-specs.ts";

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
/** Few tokens, whose chunks are units of their own. */
const lone: readonly TestSequence[] = [
  { length: 700, tokens: 1 },
  { length: 20, tokens: 1 },
  { length: 513, tokens: 1 },
  { length: 90, tokens: 3 },
];

function compare(spec: KernelSpec, env: KernelEnvironment, options: CudaRunOptions = {}) {
  const reference = copyEnvironment(env);
  interpretKernel(spec, reference);
  const { results } = runCudaKernel(spec, [env], { checked: true, ...options });
  return { result: results[0] as CudaKernelResult, reference };
}

/** The kernels of an attention: its units first, where it has any. */
function attend(spec: AttentionKernel, sequences: readonly TestSequence[], options: CudaRunOptions = {}): number {
  const kernels = forBlocks([spec], (s) => plansAttention(s.kv.dtype));
  const attention = kernels.at(-1) as AttentionKernel;
  const env = randomEnvironment(spec, randomSource(seed), { sequences, blockSize: 64 });
  for (const units of kernels.slice(0, -1)) interpretKernel(units, env);
  const { result, reference } = compare(attention, env, options);
  return relativeError(result.out, reference.buffers.get("out")!);
}

/** ‖Δ‖/‖ref‖ of a cache of keys or values. Slots nobody wrote keep what they held: NaN on both sides. */
function cacheError(got: Float32Array, want: Float32Array): number {
  expect(got.map(Number.isNaN as never).join()).toBe(want.map(Number.isNaN as never).join());
  const own = (x: Float32Array) => x.filter((v) => !Number.isNaN(v));
  return relativeError(own(got), own(want));
}
/** Some elements lie between two of the cache's dtype and are rounded to either. */
const CACHE_LIMIT = { f32: 3e-6, f16: 1e-4, bf16: 4e-4, fp8_e4m3: 4e-3 };

const ORDERS = ["forward", "reverse", "random", "greedy"] as const;
let draws = seed; // the order of the next run, where one is enough

describe("store_kv", () => {
  it.each([
    { heads: 4, kvHeads: 2, headDim: 64, norm: true, half: 32, style: "half", dtype: "bf16" },
    { heads: 3, kvHeads: 1, headDim: 48, norm: false, half: 8, style: "interleaved", dtype: "f16" },
    { heads: 2, kvHeads: 2, headDim: 80, norm: false, half: 0, style: "half", dtype: "f32" },
    { heads: 2, kvHeads: 1, headDim: 16, norm: true, half: 5, style: "half", dtype: "f32" },
    { heads: 4, kvHeads: 2, headDim: 64, norm: true, half: 20, style: "interleaved", dtype: "bf16", apart: true },
    { heads: 2, kvHeads: 1, headDim: 32, norm: true, half: 16, style: "half", dtype: "fp8_e4m3" },
  ] as const)("stores $headDim-wide heads as $dtype, rotated by $half pairs ($style)", (shape) => {
    const spec = storeKvSpec(shape);
    const env = randomEnvironment(spec, randomSource(seed), { sequences: mixed, blockSize: 64 });
    const { result, reference } = compare(spec, env, { padding: 2 });
    expect(relativeError(result.out, reference.buffers.get("out")!)).toBeLessThan(2e-6);
    for (const half of ["k", "v"] as const) {
      expect(cacheError(result.kv![half], reference.kv(0)[half])).toBeLessThan(CACHE_LIMIT[shape.dtype]);
    }
  });
});

describe.each([
  { maxTokens: 1, sequences: [{ length: 70, tokens: 1 }] },
  {
    maxTokens: 4,
    sequences: [
      { length: 5, tokens: 2 },
      { length: 130, tokens: 1 },
    ],
  },
  {
    maxTokens: 4,
    sequences: [
      { length: 64, tokens: 1 },
      { length: 66, tokens: 3 },
    ],
  },
] as const)("linear_store_kv of up to $maxTokens rows (%#)", ({ maxTokens, sequences }) => {
  it.each([
    { heads: 3, kvHeads: 2, headDim: 64, norm: true, half: 32, style: "half", dtype: "bf16" },
    { heads: 4, kvHeads: 1, headDim: 80, norm: false, half: 20, style: "interleaved", dtype: "f16" },
    { heads: 40, kvHeads: 4, headDim: 128, norm: true, half: 64, style: "half", dtype: "bf16" },
    { heads: 2, kvHeads: 1, headDim: 16, norm: false, half: 0, style: "half", dtype: "f32" },
    { heads: 2, kvHeads: 2, headDim: 256, norm: false, half: 64, style: "half", dtype: "fp8_e4m3" },
  ] as const)("multiplies rows and stores $heads + $kvHeads heads of $headDim as $dtype", (shape) => {
    const { heads, kvHeads, headDim } = shape;
    const dtype = shape.dtype === "fp8_e4m3" ? "bf16" : shape.dtype;
    const [n, k] = [(heads + 2 * kvHeads) * headDim, 72];
    for (const hasNorm of [false, true]) {
      const linear: LinearKernel = {
        ...linearSpec({ n, k, weights: dtype, operands: [tensor("bias", 1, n)], epilogue: add(acc, operand(0)) }),
        x: { ...buffer("rows", k, hasNorm ? "f32" : dtype) },
        norm: hasNorm ? { gain: tensor("row_gain", 1, k), eps: 1e-5, dtype } : null,
        out: buffer("x", n),
      };
      const counters = { ...buffer("counters", heads + 2 * kvHeads, "i32"), rows: 1 };
      const spec: StoreKvKernel = { ...storeKvSpec(shape), projection: { linear, counters } };
      const env = randomEnvironment(spec, randomSource(seed), { sequences, blockSize: 64 });
      for (const order of isFullRun ? ORDERS : [ORDERS[++draws % ORDERS.length]!]) {
        const { result, reference } = compare(spec, env, { maxTokens, order, padding: 2 });
        const limit = hasNorm ? { f32: 3e-6, f16: 3e-4, bf16: 2e-3 }[dtype] : 3e-6;
        const errors = [
          relativeError(result.out, reference.buffers.get("out")!),
          relativeError(result.outs.get("x")!, reference.buffers.get("x")!),
          ...(["k", "v"] as const).map((half) => cacheError(result.kv![half], reference.kv(0)[half])),
        ];
        for (const [i, error] of errors.entries())
          expect(error).toBeLessThan(i < 2 ? limit : Math.max(limit, CACHE_LIMIT[shape.dtype]));
      }
    }
  });
});

describe("attention_units", () => {
  it.each([
    ["mixed", mixed, null],
    ["mixed", mixed, 40],
    ["lone", lone, null],
    ["lone", lone, 300],
  ] as const)("cuts a %s batch (%#) as its meaning says", (_, sequences, window) => {
    const [units] = forBlocks([attentionSpec({ heads: 4, kvHeads: 2, headDim: 64, window })], () => true);
    const env = randomEnvironment(units as KernelSpec, randomSource(seed), { sequences, blockSize: 64 });
    const { result, reference } = compare(units as KernelSpec, env);
    const plan = [...reference.buffers.keys()].find((name) => name.endsWith("_plan"))!;
    const want = reference.buffers.get(plan)!;
    const own = 1 + 6 * want[0]!;
    expect([...result.outs.get(plan)!.subarray(0, own)]).toEqual([...want.subarray(0, own)]);
  });
});

describe("attention", () => {
  it.each([16, 80, 128, 256])("attends with heads of %i over mixed and lone batches", (headDim) => {
    const spec = attentionSpec({ heads: 4, kvHeads: 2, headDim });
    expect(attend(spec, mixed)).toBeLessThan(6e-3);
    expect(attend(spec, lone)).toBeLessThan(6e-3);
  });

  it.each([
    ["forward", 256, "fp8_e4m3", null],
    ["reverse", 192, "bf16", null],
    ["random", 256, "f16", 150],
    ["greedy", 256, "fp8_e4m3", 40],
  ] as const)(
    "takes keys by half blocks where whole ones have no room, threads in %s order, heads of %i of %s, window %s",
    (order, headDim, dtype, window) => {
      const spec = attentionSpec({ heads: 4, kvHeads: 1, headDim, dtype, window });
      for (const sequences of [mixed.slice(1), lone.slice(1)]) {
        expect(attend(spec, sequences, { order })).toBeLessThan(dtype === "f16" ? 3e-3 : 6e-3);
      }
    },
  );

  it.each(["forward", "reverse", "random", "greedy"] as const)(
    "holds sixteen f32 heads of 256 that share their keys, threads in %s order",
    (order) => {
      const spec = attentionSpec({ heads: 16, kvHeads: 1, headDim: 256, dtype: "f32" });
      expect(attend(spec, mixed.slice(0, 3), { order })).toBeLessThan(5e-6);
    },
  );

  it.each(["sm_80", "sm_90a"] as const)("has room for every head, group and cache that is supported on %s", (arch) => {
    for (const dtype of ["f32", "f16", "bf16", "fp8_e4m3"] as const) {
      for (let headDim = 16; headDim <= 256; headDim += 16) {
        for (const heads of [1, 3, 16]) {
          const spec = attentionSpec({ heads, kvHeads: 1, headDim, dtype });
          const attention = forBlocks([spec], (s) => plansAttention(s.kv.dtype)).at(-1)!;
          const { sharedBytes, threads, blocking } = scheduleCudaKernel(attention, cudaDialects[arch], 4096);
          expect(sharedBytes).toBeLessThanOrEqual(cudaDialects[arch].sharedBytes);
          if (dtype !== "f32") expect(((16 * 32 * blocking.tileKeys!) / threads) % 256).toBe(0); // every warp shares whole tiles
        }
      }
    }
  });

  it.each(["reverse", "random", "greedy"] as const)("splits a lone token's chunks, threads in %s order", (order) => {
    expect(attend(attentionSpec({ heads: 6, kvHeads: 2, headDim: 32 }), lone, { order, checked: false })).toBeLessThan(6e-3);
  });

  it.each([
    [3, 3, "f16"],
    [8, 2, "fp8_e4m3"],
    [16, 1, "bf16"],
    [12, 1, "bf16"],
    [14, 2, "f32"],
    [3, 3, "f32"],
  ] as const)("%i query heads over %i of %s, rounded", (heads, kvHeads, dtype) => {
    const spec = attentionSpec({ heads, kvHeads, headDim: 32, dtype, out: "bf16" });
    const limit = { f32: 2e-3, f16: 3e-3, bf16: 6e-3, fp8_e4m3: 6e-3 }[dtype]; // of which caches hold what the reference reads
    expect(attend(spec, mixed, { padding: 1 })).toBeLessThan(limit);
    expect(attend(spec, lone)).toBeLessThan(limit);
  });

  it.each([
    [1, null],
    [100, null],
    [300, "f32"],
    [null, "bf16"],
  ] as const)("sees the last %s positions through a window, with sinks of %s", (window, sinks) => {
    for (const dtype of ["bf16", "f32"] as const) {
      const spec = attentionSpec({ heads: 4, kvHeads: 2, headDim: 32, window, ...(sinks ? { sinks } : {}), dtype });
      const limit = dtype === "f32" ? 5e-6 : 6e-3;
      expect(attend(spec, mixed), dtype).toBeLessThan(limit);
      expect(attend(spec, lone), dtype).toBeLessThan(limit);
    }
  });
});
