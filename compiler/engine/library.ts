/**
 * The built library of an engine folder: `build/kernels.so`, made from the sources in `kernels/`.
 */
import { join } from "node:path";
import type { Manifest } from "../../runtime/manifest.ts";
import { parseTarget } from "../schedule/target.ts";
import { buildKernels } from "../toolchain/build.ts";

const LIBRARY_FILE = "build/kernels.so";

/**
 * Builds `folder`'s kernels for `target` with this machine's compiler; `cache` keeps objects by content.
 * Throws `ToolchainError` when there is no compiler or a kernel does not compile.
 */
export async function buildLibrary(
  folder: string,
  target: string,
  cache: string,
  onProgress?: (done: number, total: number) => void,
): Promise<NonNullable<Manifest["library"]>> {
  const { isa } = parseTarget(target);
  const { sha256 } = await buildKernels({
    sources: join(folder, "kernels"),
    library: join(folder, LIBRARY_FILE),
    isa,
    cache,
    onProgress,
  });
  return { file: LIBRARY_FILE, sha256 };
}
