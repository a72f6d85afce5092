/**
 * The built library of an engine folder, made from the sources in `kernels/`: `build/kernels.so` for a CPU, `build/kernels.<arch>.images`
 * for a GPU.
 */
import { join } from "node:path";
import type { KernelEntry, Manifest } from "../../runtime/manifest.ts";
import { parseTarget } from "../schedule/target.ts";
import { buildKernels, type Toolchain } from "../toolchain/build.ts";
import { cxxToolchain } from "../toolchain/cxx.ts";
import { nvccToolchain } from "../toolchain/nvcc.ts";

export interface LibraryOptions {
  readonly target: string;
  /** Keeps objects by content. */
  readonly cache: string;
  /** Of the manifest: where they come from is told of one that does not compile. */
  readonly kernels: readonly KernelEntry[];
  readonly onProgress?: (done: number, total: number) => void;
}

/**
 * Builds `folder`'s kernels with this machine's compiler for the target.
 * Throws `ToolchainError` when there is no compiler or a kernel does not compile.
 */
export async function buildLibrary(folder: string, options: LibraryOptions): Promise<NonNullable<Manifest["library"]>> {
  const { target, cache, kernels, onProgress } = options;
  const { file, toolchain } = libraryOf(target);
  const { sha256 } = await buildKernels({
    sources: join(folder, "kernels"),
    library: join(folder, file),
    toolchain,
    cache,
    onProgress,
    originsOf: (name) => kernels.find((k) => k.name === name)?.origins ?? [],
  });
  return { file, sha256 };
}

function libraryOf(text: string): { readonly file: string; readonly toolchain: Toolchain } {
  const target = parseTarget(text);
  if (target.family === "cpu") return { file: "build/kernels.so", toolchain: cxxToolchain(target.isa) };
  return { file: `build/kernels.${target.arch}.images`, toolchain: nvccToolchain(target.arch) };
}
