/** Kernels for many blocks: which norms become prologues of linears, and which may not. */
import { describe, expect, it } from "vitest";
import { normsIntoLinears, projectionsIntoHeads, splitLinears } from "../../../compiler/kernels/for-blocks.ts";
import { kernelOutputs, kernelScratch } from "../../../compiler/kernels/operands.ts";
import type { KernelSpec, LinearKernel, RmsNormKernel, StoreKvKernel } from "../../../compiler/kernels/spec.ts";
import { verifyKernels } from "../../../compiler/kernels/verify.ts";
import { acc, add, buffer, linearSpec, operand, storeKvSpec, tensor } from "../../support/kernel-specs.ts";

const HIDDEN = 64;
const called = (name: string, cols = HIDDEN, dtype: "f32" | "bf16" = "f32") => ({ ...buffer(name, cols, dtype), name });

const norm = (x: string, out: string): RmsNormKernel => ({
  kind: "rms_norm",
  name: `norm_${out}`,
  nodes: [],
  x: called(x),
  rows: null,
  gain: tensor("gain", 1, HIDDEN),
  eps: 1e-5,
  epilogue: acc,
  operands: [],
  out: called(out, HIDDEN, "bf16"),
});

/** out = w · x, or residual + w · x. */
const linear = (x: string, out: string, residual?: string): LinearKernel => ({
  ...linearSpec({ n: HIDDEN, k: HIDDEN, x: "bf16" }),
  name: `linear_${out}`,
  x: called(x, HIDDEN, "bf16"),
  out: called(out),
  ...(residual ? { epilogue: add(operand(0), acc), operands: [called(residual)] } : {}),
});

const fused = (kernels: readonly KernelSpec[], wanted: readonly string[] = [], fits = true) =>
  normsIntoLinears(kernels, new Set(wanted), () => fits).map((k) =>
    k.kind === "linear" && k.norm ? `norm+${k.out.name}` : k.name,
  );

describe("a norm becomes the prologue of the linear that reads it", () => {
  const later = linear("a_bf16", "c", "x"); // reads x when the first linear is done

  it("where what it normalizes is read again later", () => {
    expect(fused([norm("x", "y"), linear("y", "a"), later])).toEqual(["norm+a", "linear_c"]);
  });

  it.each<[string, KernelSpec[], string[]?, boolean?]>([
    ["its rows have no room in a block", [norm("x", "y"), linear("y", "a"), later], [], false],
    ["somebody wants to see it", [norm("x", "y"), linear("y", "a"), later], ["y"]],
    ["another kernel reads it too", [norm("x", "y"), linear("y", "a"), linear("y", "b"), later]],
    ["what it normalizes is not read later: its memory is given away", [norm("x", "y"), linear("y", "a")]],
    ["only the linear itself reads it again, whose result may take its place", [norm("x", "y"), linear("y", "a", "x")]],
  ])("but not where %s", (_, kernels, wanted, fits) => {
    expect(fused(kernels, wanted, fits)).toEqual(kernels.map((k) => k.name));
  });
});

describe("a linear that makes heads becomes one kernel with what stores them", () => {
  const [heads, kvHeads, headDim] = [2, 1, 32];
  const columns = (heads + 2 * kvHeads) * headDim;
  const qkv = called("qkv", columns);
  const store = ((): StoreKvKernel => {
    const { q, k, v, ...rest } = storeKvSpec({ heads, kvHeads, headDim, norm: true, half: 16 });
    return { ...rest, name: "store", q: { ...q, x: qkv }, k: { ...k, x: qkv }, v: { ...v, x: qkv } };
  })();
  const project: LinearKernel = {
    ...linear("x_bf16", "qkv"),
    n: columns,
    w: tensor("w", columns, HIDDEN, "bf16"),
    out: qkv,
  };
  const later = linear("x_bf16", "c");

  it("where what it reads lives on", () => {
    const fused = projectionsIntoHeads([project, store, later]);
    expect(fused.map((k) => k.name)).toEqual(["linear_qkv_norm_rope_store_kv_bf16_2x1x32", "linear_c"]);
    expect(kernelScratch(fused[0]!)).toMatchObject([{ name: "head_counters", dtype: "i32", rows: 1, cols: heads + 2 * kvHeads }]);
    expect(kernelOutputs(fused[0]!).map((out) => out.name)).toEqual(["qkv", "out"]);
  });

  it.each<[string, KernelSpec[]]>([
    ["what it reads is not read later: a head may be written there", [project, store]],
    ["another kernel reads its columns later", [project, store, later, linear("qkv", "d")]],
    ["another kernel reads its columns before", [project, linear("qkv", "d"), store, later]],
    ["it makes the heads of two layers", [project, store, store, later]],
    ["it has columns that are no heads", [{ ...project, n: columns + 8 }, store, later]],
    ["heads stand in another order", [project, { ...store, k: store.v, v: store.k }, later]],
  ])("but not where %s", (_, kernels) => {
    expect(projectionsIntoHeads(kernels).map((k) => k.name)).toEqual(kernels.map((k) => k.name));
  });
});

describe("linears whose sums are divided", () => {
  it("share counters and partial sums, which no kernel writes and no verification misses", () => {
    const kernels = splitLinears([linear("x_bf16", "a"), linear("x_bf16", "b")], () => ({ parts: 2, tiles: 3, sums: 16 }));
    const scratch = kernels.map(kernelScratch);
    expect(scratch[0]!.map((s) => [s.name, s.dtype, s.rows, s.cols])).toEqual([
      ["linear_counters", "i32", 1, 3],
      ["linear_partials", "f32", 6, 16],
    ]);
    expect(scratch[1]!.map((s) => s.name)).toEqual(scratch[0]!.map((s) => s.name));
    expect(kernels.map((k) => k.name)).toEqual(["linear_bf16_64x64_2parts", "linear_bf16_64x64_2parts"]);
    const source: KernelSpec = { ...norm("x", "x_bf16"), x: called("e") };
    const embedding: KernelSpec = {
      kind: "embedding",
      name: "embedding",
      nodes: [],
      ids: { kind: "input", name: "token_ids", dtype: "i32", node: source.out.node },
      table: tensor("table", 10, HIDDEN),
      epilogue: acc,
      operands: [],
      out: called("e"),
    };
    expect(() => verifyKernels([embedding, source, ...kernels], [])).not.toThrow();
  });
});
