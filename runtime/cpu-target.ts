/**
 * What each CPU target asks of a processor, in the feature names of `cpuFacts`.
 *
 * The compiler's flags decide what generated code may use; this table is the runtime's side of that agreement.
 */
import type { CpuFacts } from "./native.ts";

interface CpuTarget {
  /** Processors it is for; "any" runs everywhere. */
  readonly arch: CpuFacts["arch"] | "any";
  readonly features: readonly string[];
}

const AVX2 = ["avx2", "fma", "f16c"];
const AVX512 = [...AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl"];

const CPU_TARGETS: ReadonlyMap<string, CpuTarget> = new Map([
  ["cpu:generic", { arch: "any", features: [] }],
  ["cpu:avx2", { arch: "x64", features: AVX2 }],
  ["cpu:avx512", { arch: "x64", features: AVX512 }],
  ["cpu:avx512-amx", { arch: "x64", features: [...AVX512, "avx512_bf16", "amx_tile", "amx_bf16"] }],
  ["cpu:neon", { arch: "arm64", features: ["neon"] }],
]);

/** Every CPU target, least demanding first. */
export const cpuTargets: readonly string[] = [...CPU_TARGETS.keys()];

/** What this processor lacks for `target`: feature names, or `["an arm64 processor"]`; undefined if there is no such CPU target. */
export function missingFeatures(target: string, cpu: CpuFacts): readonly string[] | undefined {
  const needs = CPU_TARGETS.get(target);
  if (needs === undefined) return undefined;
  if (needs.arch !== "any" && needs.arch !== cpu.arch) return [`an ${needs.arch} processor`];
  return needs.features.filter((feature) => !cpu.features.includes(feature));
}
