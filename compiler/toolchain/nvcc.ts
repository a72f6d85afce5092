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

const REMEDY =
  "Install the CUDA toolkit (12 or later; no GPU is needed to compile): https://developer.nvidia.com/cuda-downloads, or " +
  "apt install nvidia-cuda-toolkit; or name its compiler in NVCC.";

/** Throws `ToolchainError` saying what to install when there is no nvcc (`$NVCC`, on the path, or where it usually lies). */
export function nvccToolchain(arch: CudaArch, nvcc: string | undefined = process.env.NVCC): Toolchain {
  const { command, version } = findNvcc(nvcc);
  const flags = ["-std=c++17", ...cudaDialects[arch].flags];
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

/** `$NVCC`, or the one that is found. Throws `ToolchainError` saying what to install. */
export function findNvcc(nvcc: string | undefined = process.env.NVCC): Pick<Toolchain, "command" | "version"> {
  if (nvcc?.trim()) {
    const command = nvcc.trim().split(/\s+/);
    const version = versionOf(command);
    if (version === undefined)
      throw new ToolchainError(
        `NVCC is ${JSON.stringify(nvcc)}, which does not run as nvcc; unset it or set it to the compiler of a CUDA toolkit`,
      );
    return { command, version };
  }
  for (const place of USUAL_PLACES) {
    const version = place.includes("/") && !existsSync(place) ? undefined : versionOf([place]);
    if (version !== undefined) return { command: [place], version };
  }
  throw new ToolchainError(`no nvcc was found (looked for ${USUAL_PLACES.join(", ")}). ${REMEDY}`);
}

/** The line of `nvcc --version` that has the release. */
function versionOf([program = "", ...leading]: readonly string[]): string | undefined {
  const { status, stdout } = spawnSync(program, [...leading, "--version"], { encoding: "utf8" });
  const release = stdout?.split("\n").find((line) => line.includes("release"));
  return status === 0 && release !== undefined ? `nvcc ${release.replace(/^.*?release/, "release").trim()}` : undefined;
}
