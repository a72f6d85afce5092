/**
 * The CUDA toolchain: each kernel becomes an image (machine code of its architecture, and PTX for later ones), and images one file.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { packKernelImages } from "../../runtime/kernel-images.ts";
import { type CudaArch, cudaDialects } from "../codegen/cuda/dialect.ts";
import { ToolchainError } from "../errors.ts";
import type { Toolchain } from "./build.ts";

/** Where the toolkit lies if nobody said so. */
const USUAL_PLACES = ["nvcc", "/usr/local/cuda/bin/nvcc", "/opt/cuda/bin/nvcc"];

/** The first release that knows every architecture of `cudaDialects`. */
const LEAST_RELEASE = 12;

const REMEDY =
  "Install the CUDA toolkit (12 or later; no GPU is needed to compile) from https://developer.nvidia.com/cuda-downloads, since " +
  "Debian 12 and Ubuntu 22.04 package an older one; or name its compiler in NVCC.";

/** A compiler of a CUDA toolkit. */
export type Nvcc = Pick<Toolchain, "command" | "version">;

/** Throws `ToolchainError` saying what to install when there is no nvcc (`$NVCC`, on the path, or where it usually lies), or an old one. */
export function nvccToolchain(arch: CudaArch, nvcc: string | undefined = process.env.NVCC): Toolchain {
  const found = findNvcc(nvcc);
  if (found === null) throw new ToolchainError(`no nvcc was found (looked for ${USUAL_PLACES.join(", ")}). ${REMEDY}`);
  const { command, version } = found;
  // Not compressed: what nvcc 13 does it with, drivers before 12.4 cannot undo.
  const flags = ["-std=c++17", "-no-compress", ...cudaDialects[arch].flags];
  return {
    command,
    version,
    identity: flags,
    linkIdentity: "images",
    suffix: ".cu",
    compileArguments: (file, out) => [...flags, "-fatbin", file, "-o", out],
    link: async (objects, out) => {
      const images = await Promise.all(objects.map(async ({ kernel, file }) => [kernel, await readFile(file)] as const));
      await writeFile(out, packKernelImages(images));
    },
  };
}

/**
 * `$NVCC`, or the first of the usual places that is new enough; null where there is none. Throws `ToolchainError` when `$NVCC` is no nvcc,
 * and when all that is there is too old.
 */
export function findNvcc(nvcc: string | undefined = process.env.NVCC): Nvcc | null {
  if (nvcc?.trim()) {
    const said = askVersion(nvcc.trim().split(/\s+/));
    if (said === null)
      throw new ToolchainError(
        `NVCC is ${JSON.stringify(nvcc)}, which does not run as nvcc; unset it or set it to the compiler of a CUDA toolkit`,
      );
    if (isTooOld(said)) throw tooOld(said);
    return said;
  }
  const old: Nvcc[] = [];
  for (const place of USUAL_PLACES) {
    const found = place.includes("/") && !existsSync(place) ? null : askVersion([place]);
    if (found !== null && !isTooOld(found)) return found;
    if (found !== null) old.push(found);
  }
  if (old[0]) throw tooOld(old[0]);
  return null;
}

/** What `nvcc --version` says, the line that has the release; null of what is no nvcc. */
function askVersion(command: readonly string[]): Nvcc | null {
  const [program = "", ...leading] = command;
  const { status, stdout } = spawnSync(program, [...leading, "--version"], { encoding: "utf8" });
  const release = /release \d+\..*/.exec(stdout ?? "")?.[0].trim();
  return status === 0 && release !== undefined ? { command, version: `nvcc ${release}` } : null;
}

const isTooOld = ({ version }: Nvcc): boolean => Number(/release (\d+)/.exec(version)?.[1]) < LEAST_RELEASE;

const tooOld = ({ command, version }: Nvcc): ToolchainError =>
  new ToolchainError(`${command.join(" ")} is ${version}, too old for these kernels. ${REMEDY}`);
