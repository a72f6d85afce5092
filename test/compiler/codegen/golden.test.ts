/**
 * Generated sources, reviewed when they change: a refactor shows an empty diff in test/golden/cpu. `vitest --update` rewrites them.
 * Each file goes through the real compiler of its family.
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { cpuDialects, type Isa, linearInputDtype } from "../../../compiler/codegen/cpu/dialect.ts";
import { renderKernel } from "../../../compiler/codegen/cpu/render.ts";
import { templatesFolder } from "../../../compiler/codegen/template.ts";
import type { KernelSpec } from "../../../compiler/kernels/spec.ts";
import { scheduleKernel } from "../../../compiler/schedule/cpu.ts";
import { type Compiler, findCompiler } from "../../../compiler/toolchain/compiler.ts";
import { compileFlags } from "../../../compiler/toolchain/flags.ts";
import {
  type ExpertLayer,
  expertSumSpec,
  groupedLinearSpec,
  routeSpec,
  sigmoidSteps,
  sortSlotsSpec,
} from "../../support/expert-specs.ts";
import {
  acc,
  add,
  attentionSpec,
  buffer,
  gatherSpec,
  input,
  layerNormSpec,
  linearSpec,
  operand,
  storeKvSpec,
  tensor,
} from "../../support/kernel-specs.ts";

const common = { nodes: [], epilogue: acc, operands: [] };
/** The experts of Qwen3-30B-A3B. */
const experts = (isa: Isa): ExpertLayer => ({
  experts: 128,
  perToken: 8,
  hidden: 2048,
  inner: 768,
  weights: "bf16",
  x: x(isa),
});
const x = (isa: Isa) => linearInputDtype(isa, "bf16");

/** A small model's kernels, spread over the instruction sets. */
const kernels: readonly [Isa, KernelSpec][] = [
  [
    "avx512-amx",
    { ...linearSpec({ n: 3072, k: 1024, ways: 2, x: x("avx512-amx"), out: "bf16" }), name: "linear_bf16_3072x1024__silu_mul" },
  ],
  [
    "avx512",
    {
      ...linearSpec({ n: 1024, k: 3072, x: x("avx512"), operands: [buffer("residual", 1024)], epilogue: add(operand(0), acc) }),
      name: "linear_bf16_1024x3072__add",
    },
  ],
  ["avx512-bf16", { ...linearSpec({ n: 1024, k: 2048, x: x("avx512-bf16") }), name: "linear_bf16_1024x2048" }],
  [
    "avx2",
    {
      ...linearSpec({ n: 1000, k: 896, weights: "f32", operands: [tensor("bias", 1, 1000)], epilogue: add(acc, operand(0)) }),
      name: "linear_f32_1000x896__bias",
    },
  ],
  [
    "avx512-amx",
    {
      ...common,
      kind: "rms_norm",
      name: "rms_norm_gather_bf16_1040",
      x: buffer("x", 1040),
      rows: input("sample_rows"),
      gain: tensor("gain", 1, 1040),
      eps: 1e-6,
      out: buffer("out", 1040, "bf16", "S"),
    },
  ],
  ["avx512", { ...layerNormSpec({ cols: 1000, gathers: true }), name: "layer_norm_gather_f32_1000" }],
  ["avx2", { ...gatherSpec({ from: 1024, cols: 1024, gathers: true }), name: "gather_rows_1024" }],
  ["avx512-amx", { ...gatherSpec({ from: 96, col: 40, cols: 20, x: "bf16" }), name: "slice_20" }],
  [
    "neon",
    { ...storeKvSpec({ heads: 16, kvHeads: 8, headDim: 128, norm: true, half: 64 }), name: "norm_rope_store_kv_bf16_16x8x128" },
  ],
  [
    "generic",
    { ...storeKvSpec({ heads: 16, kvHeads: 16, headDim: 128, half: 64, apart: true }), name: "rope_store_kv_bf16_16x16x128" },
  ],
  [
    "avx512",
    { ...attentionSpec({ heads: 32, kvHeads: 8, headDim: 128, window: 4096 }), name: "paged_attention_bf16_32x8x128_window4096" },
  ],
  [
    "generic",
    {
      ...attentionSpec({ heads: 64, kvHeads: 8, headDim: 64, window: 128, sinks: "f32" }),
      name: "paged_attention_bf16_64x8x64_window128_sinks",
    },
  ],
  ["avx512", { ...routeSpec(sigmoidSteps()), name: "route_5of24__group_limit_top_k_renormalize" }],
  ["generic", { ...sortSlotsSpec(experts("generic")), name: "sort_slots_8of128" }],
  ["avx512-bf16", { ...groupedLinearSpec(experts("avx512-bf16")), name: "grouped_linear_bf16_128x768x2048__silu_mul" }],
  ["avx512-amx", { ...groupedLinearSpec(experts("avx512-amx")), name: "grouped_linear_bf16_128x768x2048__silu_mul" }],
  ["avx2", { ...expertSumSpec(experts("avx2"), { bias: true, residual: true }), name: "expert_sum_bf16_128x2048x768_bias__add" }],
  ["avx512-amx", { ...expertSumSpec(experts("avx512-amx"), { residual: true }), name: "expert_sum_bf16_128x2048x768__add" }],
  [
    "generic",
    {
      ...common,
      kind: "embedding",
      name: "embedding_bf16_1024",
      ids: input("token_ids"),
      table: tensor("table", 151936, 1024, "bf16"),
      out: buffer("out", 1024),
    },
  ],
  [
    "generic",
    {
      kind: "rope_angles",
      name: "rope_angles_32",
      nodes: [],
      positions: input("positions"),
      invFreq: Array.from({ length: 32 }, (_, i) => 10000 ** (-i / 32)),
      attentionFactor: 1,
      long: null,
      out: buffer("out", 64),
    },
  ],
  [
    "generic",
    {
      kind: "rope_angles",
      name: "rope_angles_8_beyond_4096",
      nodes: [],
      positions: input("positions"),
      invFreq: Array.from({ length: 8 }, (_, i) => 10000 ** (-i / 8)),
      attentionFactor: 1.19,
      long: {
        invFreq: Array.from({ length: 8 }, (_, i) => 10000 ** (-i / 8) / (i + 1)),
        beyond: 4096,
        seqIds: input("seq_ids"),
        seqLens: input("seq_lens"),
      },
      out: buffer("out", 16),
    },
  ],
  [
    "avx2",
    {
      ...common,
      kind: "elementwise",
      name: "elementwise_768",
      operands: [buffer("a", 768), buffer("b", 768)],
      epilogue: add(operand(0), operand(1)),
      out: buffer("out", 768),
    },
  ],
  ["avx2", { kind: "sample", name: "sample_32000", nodes: [], logits: buffer("logits", 32000, "f32", "S"), vocabSize: 32000 }],
];

const host = findCompiler();
const cross = spawnSync("aarch64-linux-gnu-g++", ["--version"]).status === 0 ? findCompiler("aarch64-linux-gnu-g++") : null;

/** A compiler that can make code for the level, or null. */
function compilerFor(isa: Isa): Compiler | null {
  const isArm = /^(aarch64|arm64)/.test(host.machine);
  if (isa === "generic" || isArm === (isa === "neon")) return host;
  return isa === "neon" ? cross : null;
}

describe("generated sources", () => {
  it.each(kernels.map(([isa, spec]) => ({ isa, spec, name: spec.name })))(
    "$name for cpu:$isa is what was reviewed",
    async ({ isa, spec }) => {
      const schedule = scheduleKernel(spec, isa, { kvBlockSize: 32, panelTensors: new Set(["table"]) });
      const { source } = renderKernel(spec, schedule, cpuDialects[isa]);
      await expect(source).toMatchFileSnapshot(
        fileURLToPath(new URL(`../../golden/cpu/${spec.name}.${isa}.cpp`, import.meta.url)),
      );
      const compiler = compilerFor(isa);
      if (!compiler) return console.log(`${spec.name} for cpu:${isa} is not compiled: no compiler for it is installed`);
      const [cxx = "", ...leading] = compiler.command;
      const flags = [...compileFlags(compiler, isa), "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function"];
      const { status, stderr } = spawnSync(cxx, [...leading, ...flags, `-I${templatesFolder()}`, "-fsyntax-only", "-xc++", "-"], {
        input: source,
        encoding: "utf8",
      });
      expect(stderr).toBe("");
      expect(status).toBe(0);
    },
  );

  it("depend on what a kernel computes, not on the names of its values", () => {
    const render = (residual: string) => {
      const spec = { ...linearSpec({ n: 64, k: 64, operands: [buffer(residual, 64)], epilogue: add(operand(0), acc) }) };
      return renderKernel(
        { ...spec, w: { ...spec.w, name: `${residual}.weight` } },
        scheduleKernel(spec, "avx2"),
        cpuDialects.avx2,
      ).source;
    };
    expect(render("layer 1")).toBe(render("layer 2"));
  });
});
