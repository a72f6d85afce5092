/**
 * Options of a CUDA executor over the fake driver and the kernels of cuda-kernels.cu, for tests.
 *
 * Images stand in the library file at offsets, as the compiler puts them there.
 */
import { mkdtempSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { CudaExecutorOptions, CudaStep, NativeArg } from "../../runtime/native.ts";
import { buildFakeCuda } from "../support/fake-cuda.ts";
import { buildSimtKernel } from "../support/simt-kernel.ts";

export const ARENA_BYTES = 4096;
export const KV_BYTES = 4096;

const IMAGE_OFFSET = 512;
const NAMES = ["arrive", "see", "append", "set_to", "take_last", "count_up", "hurry", "through_shared", "overrun"] as const;
export type KernelName = (typeof NAMES)[number];

export const temporary = (): string => mkdtempSync(join(tmpdir(), "ingot-cuda-"));

/** A library file whose image begins at IMAGE_OFFSET. */
export function libraryOf(image: Uint8Array): string {
  const file = join(temporary(), "kernels.bin");
  writeFileSync(file, Buffer.concat([new Uint8Array(IMAGE_OFFSET), image]));
  return file;
}

/** Path of the image of cuda-kernels.cu, instrumented for the checker or not. */
export const testKernelImage = (isChecked = false, architecture = "90a"): string => {
  const source = readFileSync(new URL("./cuda-kernels.cu", import.meta.url), "utf8");
  return buildSimtKernel({ name: "test", source }, isChecked, architecture);
};

type TestKernels = Pick<CudaExecutorOptions, "library" | "kernels">;
const built = new Map<string, TestKernels>();

/** The kernels of cuda-kernels.cu as they are built for an architecture. */
export function testKernels(architecture = "90a"): TestKernels {
  const known = built.get(architecture);
  if (known) return known;
  const image = readFileSync(testKernelImage(false, architecture));
  const kernels = NAMES.map((name) => ({
    name,
    offset: IMAGE_OFFSET,
    bytes: image.length,
    threads: name === "through_shared" ? 256 : 32,
    sharedBytes: name === "through_shared" ? 25_600 * 4 : 0,
  }));
  const made = { library: libraryOf(image), kernels };
  built.set(architecture, made);
  return made;
}

/** A file of `bytes` bytes that begins with the float32 numbers 0, 1, 2, … and goes on with zeros. */
export function weightsOf(bytes: number): string {
  const file = join(temporary(), "weights.bin");
  writeFileSync(file, new Uint8Array(Float32Array.from({ length: 64 }, (_, i) => i).buffer));
  truncateSync(file, bytes);
  return file;
}

/** A step of a test kernel. */
export const step = (kernel: KernelName, grid: CudaStep["grid"], ...args: NativeArg[]): CudaStep => ({
  kernel: NAMES.indexOf(kernel),
  grid,
  args,
});

/** Options of an executor with all test kernels, no arrays and no programs, changed by `changes`. */
export function cudaOptions(changes: Partial<CudaExecutorOptions>): CudaExecutorOptions {
  const { library, kernels } = testKernels();
  return {
    driver: buildFakeCuda(),
    device: 0,
    library,
    kernels,
    weights: weightsOf(1024),
    weightsBytes: 1024,
    arenaBytes: ARENA_BYTES,
    kvBytes: KV_BYTES,
    arrays: [],
    programs: [],
    ...changes,
  };
}

/** One kernel of another image. */
export function kernelOf(image: Uint8Array, name = "gemm"): Pick<CudaExecutorOptions, "library" | "kernels"> {
  const kernel = { name, offset: IMAGE_OFFSET, bytes: image.length, threads: 32, sharedBytes: 0 };
  return { library: libraryOf(image), kernels: [kernel] };
}
