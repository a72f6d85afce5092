/**
 * The CPU dialect: what each instruction set is called, needs, spells and holds. One table; skeletons and schedules read it.
 */
import type { DType } from "../../ir/tensor-type.ts";

/** Instruction-set levels that kernels are generated for. */
export type Isa = "generic" | "avx2" | "avx512" | "avx512-bf16" | "avx512-amx" | "neon";

export interface CpuDialect {
  readonly isa: Isa;
  /** Processor features (in the words of the addon's `cpuFacts`) a kernel library of this level needs. */
  readonly features: readonly string[];
  /** Flags that let a compiler use them. */
  readonly flags: readonly string[];
  /** Prelude that a kernel includes, and every file it is made of. */
  readonly prelude: string;
  readonly preludeFiles: readonly string[];
  /** Sums of 16 lanes that fit in registers beside weights and a broadcast, and rows of a register block. */
  readonly accumulators: number;
  readonly rowBlock: number;
  /** How bf16 weights are multiplied: widened to f32, or with bf16 rows as pairs (VDPBF16PS) or tiles (AMX). */
  readonly bf16: "widened" | "pairs" | "tiles";
}

const common = ["prelude.cpu.h", "prelude.cpu.experts.h", "prelude.cpu.math.h", "prelude.cpu.vectors.h"];

/** What every AVX-512 level shares: 32 registers, and these features and flags. */
const avx512 = {
  features: ["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl"],
  flags: ["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"],
  preludeFiles: [...common, "prelude.cpu.avx512.h"],
  accumulators: 24,
  rowBlock: 6,
};

/** Every level, from the most portable to the most able of each processor family. */
export const cpuDialects: { readonly [K in Isa]: CpuDialect } = {
  generic: {
    isa: "generic",
    features: [],
    flags: [],
    prelude: "prelude.cpu.generic.h",
    preludeFiles: [...common, "prelude.cpu.generic.h"],
    accumulators: 2,
    rowBlock: 2,
    bf16: "widened",
  },
  neon: {
    isa: "neon",
    features: ["neon"],
    flags: [],
    prelude: "prelude.cpu.neon.h",
    preludeFiles: [...common, "prelude.cpu.neon.h"],
    accumulators: 6,
    rowBlock: 6,
    bf16: "widened",
  },
  avx2: {
    isa: "avx2",
    features: ["avx2", "fma", "f16c"],
    flags: ["-mavx2", "-mfma", "-mf16c"],
    prelude: "prelude.cpu.avx2.h",
    preludeFiles: [...common, "prelude.cpu.avx2.h"],
    accumulators: 6,
    rowBlock: 6,
    bf16: "widened",
  },
  avx512: { ...avx512, isa: "avx512", prelude: "prelude.cpu.avx512.h", bf16: "widened" },
  "avx512-bf16": {
    ...avx512,
    isa: "avx512-bf16",
    features: [...avx512.features, "avx512_bf16"],
    flags: [...avx512.flags, "-mavx512bf16"],
    prelude: "prelude.cpu.avx512-bf16.h",
    preludeFiles: [...avx512.preludeFiles, "prelude.cpu.avx512-bf16.h", "prelude.cpu.pairs.h"],
    bf16: "pairs",
  },
  "avx512-amx": {
    ...avx512,
    isa: "avx512-amx",
    features: [...avx512.features, "amx_tile", "amx_bf16"],
    flags: [...avx512.flags, "-mamx-tile", "-mamx-bf16"],
    prelude: "prelude.cpu.avx512-amx.h",
    preludeFiles: [...avx512.preludeFiles, "prelude.cpu.avx512-amx.h", "prelude.cpu.tiles.h"],
    bf16: "tiles",
  },
};

/** The dtype a linear wants its input in: bf16 where bf16 weights are multiplied as they are, else f32. */
export const linearInputDtype = (isa: Isa, weightDtype: DType): DType =>
  cpuDialects[isa].bf16 !== "widened" && weightDtype === "bf16" ? "bf16" : "f32";
