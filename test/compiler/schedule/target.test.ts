import { describe, expect, it } from "vitest";
import { CompileError, UnsupportedError } from "../../../compiler/errors.ts";
import { scheduleKernel } from "../../../compiler/schedule/cpu.ts";
import { bestIsa, bestTarget, missingFeatures, parseTarget } from "../../../compiler/schedule/target.ts";
import { attentionSpec, linearSpec } from "../../support/kernel-specs.ts";

const avx512 = ["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl"];

describe("targets", () => {
  it("are named by family and level", () => {
    expect(parseTarget("cpu:avx512-amx")).toEqual({ family: "cpu", isa: "avx512-amx" });
  });

  it("that are not known list the known ones", () => {
    for (const text of ["cpu:avx1024", "cpu", "avx2", "cuda:sm_60", "cpu:toString", ""]) {
      expect(() => parseTarget(text)).toThrow(CompileError);
      expect(() => parseTarget(text)).toThrow(
        `target ${JSON.stringify(text)} is not known; the targets are cpu:generic, cpu:neon, cpu:avx2, cpu:avx512, cpu:avx512-bf16, cpu:avx512-amx, cuda:sm_80, cuda:sm_90a and native`,
      );
    }
  });

  it("suit a processor that has all they need", () => {
    expect(bestIsa([])).toBe("generic");
    expect(bestIsa(["neon", "dotprod"])).toBe("neon");
    expect(bestIsa(["avx2", "f16c"])).toBe("generic");
    expect(bestIsa(avx512)).toBe("avx512");
    expect(bestIsa([...avx512, "avx512_bf16"])).toBe("avx512");
    expect(bestIsa([...avx512, "avx512_bf16", "fast_avx512_bf16"])).toBe("avx512-bf16");
    expect(bestTarget({ features: [...avx512, "avx512_bf16", "amx_tile", "amx_bf16"] })).toBe("cpu:avx512-amx");
    expect(missingFeatures("avx512-amx", avx512)).toEqual(["amx_tile", "amx_bf16"]);
  });
});

describe("schedules", () => {
  it("take tiles or pairs for bf16 weights only, and say what a linear without a kernel needs", () => {
    expect(scheduleKernel(linearSpec({ n: 32, k: 32, x: "bf16" }), "avx512-bf16").skeleton).toBe("linear");
    expect(() => scheduleKernel(linearSpec({ n: 32, k: 32, weights: "f16", x: "bf16" }), "avx512-bf16")).toThrow(
      UnsupportedError,
    );
    expect(scheduleKernel(linearSpec({ n: 32, k: 32, x: "bf16" }), "avx512-amx").skeleton).toBe("linear_amx");
    expect(scheduleKernel(linearSpec({ n: 32, k: 32, weights: "f16" }), "avx512-amx").skeleton).toBe("linear");
    expect(() => scheduleKernel(linearSpec({ n: 32, k: 32, x: "bf16" }), "avx2")).toThrow(UnsupportedError);
    expect(() => scheduleKernel(linearSpec({ n: 32, k: 32, x: "bf16" }), "avx2")).toThrow("cast its input to f32");
  });

  it("hand linears out four panels at a time, attention by tiles of tokens and kv heads", () => {
    const { grid, chunk } = scheduleKernel(linearSpec({ n: 100, k: 32 }), "avx2");
    expect({ grid, chunk }).toEqual({ grid: [7], chunk: 4 });
    expect(scheduleKernel(attentionSpec({ heads: 32, kvHeads: 8, headDim: 64 }), "avx2").grid).toEqual([
      "T",
      16,
      "ceildiv",
      8,
      "mul",
    ]);
    expect(scheduleKernel(attentionSpec({ heads: 64, kvHeads: 4, headDim: 64 }), "avx2").grid).toEqual([
      "T",
      4,
      "ceildiv",
      4,
      "mul",
    ]);
  });

  it("refuse head sizes that are not whole vectors", () => {
    expect(() => scheduleKernel(attentionSpec({ heads: 2, kvHeads: 1, headDim: 72 }), "avx2")).toThrow(
      "head sizes are multiples of 16 here; found 72",
    );
  });
});
