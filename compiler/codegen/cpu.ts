/**
 * The CPU dialect: what each instruction set is called, needs, spells and holds. One table; skeletons and schedules read it.
 */
import type { DType } from "../ir/tensor-type.ts";

/** Instruction-set levels that kernels are generated for. */
export type Isa = "generic" | "avx2" | "avx512" | "avx512-amx" | "neon";

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
  /** Whether there are matrix tiles for bf16. */
  readonly tiles: boolean;
}

const common = ["prelude.cpu.h", "prelude.cpu.math.h"];

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
    tiles: false,
  },
  neon: {
    isa: "neon",
    features: ["neon"],
    flags: [],
    prelude: "prelude.cpu.neon.h",
    preludeFiles: [...common, "prelude.cpu.neon.h"],
    accumulators: 6,
    rowBlock: 6,
    tiles: false,
  },
  avx2: {
    isa: "avx2",
    features: ["avx2", "fma", "f16c"],
    flags: ["-mavx2", "-mfma", "-mf16c"],
    prelude: "prelude.cpu.avx2.h",
    preludeFiles: [...common, "prelude.cpu.avx2.h"],
    accumulators: 6,
    rowBlock: 6,
    tiles: false,
  },
  avx512: {
    isa: "avx512",
    features: ["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl"],
    flags: ["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"],
    prelude: "prelude.cpu.avx512.h",
    preludeFiles: [...common, "prelude.cpu.avx512.h"],
    accumulators: 24,
    rowBlock: 6,
    tiles: false,
  },
  "avx512-amx": {
    isa: "avx512-amx",
    features: ["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "amx_tile", "amx_bf16"],
    flags: [
      ...["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"],
      ...["-mamx-tile", "-mamx-bf16"],
    ],
    prelude: "prelude.cpu.avx512-amx.h",
    preludeFiles: [...common, "prelude.cpu.avx512.h", "prelude.cpu.avx512-amx.h", "prelude.cpu.tiles.h"],
    accumulators: 24,
    rowBlock: 6,
    tiles: true,
  },
};

/** The dtype a linear wants its input in: bf16 where tiles multiply bf16 weights, else f32. */
export const linearInputDtype = (isa: Isa, weightDtype: DType): DType =>
  cpuDialects[isa].tiles && weightDtype === "bf16" ? "bf16" : "f32";
