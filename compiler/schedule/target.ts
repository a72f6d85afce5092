/**
 * Target strings: what they name, what a processor needs to run one, and which suits a processor best.
 */
import { cpuDialects, type Isa } from "../codegen/cpu/dialect.ts";
import { type CudaArch, cudaDialects } from "../codegen/cuda/dialect.ts";
import { CompileError } from "../errors.ts";

/** What a target string names. */
export type Target = { readonly family: "cpu"; readonly isa: Isa } | { readonly family: "cuda"; readonly arch: CudaArch };

/** Every target string, `cpu:generic` first. */
export const knownTargets: readonly string[] = [
  ...Object.keys(cpuDialects).map((isa) => `cpu:${isa}`),
  ...Object.keys(cudaDialects).map((arch) => `cuda:${arch}`),
];

/** Reads a target string such as `cpu:avx512-amx`. Throws `CompileError` listing the known targets. `native` is the caller's to resolve. */
export function parseTarget(text: string): Target {
  const [family, name = ""] = text.split(/:(.*)/s);
  if (family === "cpu" && Object.hasOwn(cpuDialects, name)) return { family, isa: name as Isa };
  if (family === "cuda" && Object.hasOwn(cudaDialects, name)) return { family, arch: name as CudaArch };
  throw new CompileError(`target ${JSON.stringify(text)} is not known; the targets are ${knownTargets.join(", ")} and native`);
}

/** Features of `isa`, in the words of the addon's `cpuFacts`, that a processor lacks: empty if it can run the level. */
export const missingFeatures = (isa: Isa, features: readonly string[]): readonly string[] =>
  cpuDialects[isa].features.filter((f) => !features.includes(f));

/** Levels from the fastest down, and features that make one the fastest beyond those it needs. */
const preference: readonly (readonly [Isa, ...string[]])[] = [
  ["avx512-amx"],
  ["avx512-bf16", "fast_avx512_bf16"],
  ["avx512"],
  ["avx2"],
  ["neon"],
];

/** The fastest level whose features are all present. */
export function bestIsa(features: readonly string[]): Isa {
  const fits = ([isa, ...more]: (typeof preference)[number]) =>
    missingFeatures(isa, features).length === 0 && more.every((f) => features.includes(f));
  return preference.find(fits)?.[0] ?? "generic";
}

/** The target string that suits a GPU of that compute capability; null where none does. */
export function gpuTarget([major, minor]: readonly [major: number, minor: number]): string | null {
  const found = 10 * major + minor;
  const fits = Object.values(cudaDialects).filter(({ capability, isExact }) =>
    isExact ? found === capability : found >= capability,
  );
  const best = fits.reduce<(typeof fits)[number] | null>((a, b) => (a && a.capability >= b.capability ? a : b), null);
  return best && `cuda:${best.arch}`;
}

/** The target string that suits a processor best: what `native` stands for. */
export const bestTarget = (cpu: { readonly features: readonly string[] }): string => `cpu:${bestIsa(cpu.features)}`;
