/**
 * Engines for CUDA targets without a GPU: compiled by test/simt/nvcc, run on the fake driver, by the real command line or in this process.
 *
 * Built kernels are kept from run to run, apart from those of real compilers: the emulator's own text decides them, and the checker.
 */
import { createHash } from "node:crypto";
import { mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { CompileFlags } from "../../compiler/cli/options.ts";
import { LLM, type LLMOptions } from "../../runtime/llm.ts";
import { compileForTest, testCache } from "./compiled-engine.ts";
import { buildFakeCuda, type FakeDevice, fakeDeviceEnvironment, setFakeDevice } from "./fake-cuda.ts";
import { type CommandOptions, commandLine } from "./ingot-command.ts";
import { readFiles } from "./simt-kernel.ts";

const simt = fileURLToPath(new URL("../simt/", import.meta.url));

export const CUDA_TARGETS = ["cuda:sm_80", "cuda:sm_90a"] as const;
export type CudaTargetName = (typeof CUDA_TARGETS)[number];

/** In which orders the emulator runs threads and blocks. */
export const ORDERS = ["forward", "reverse", "random", "greedy"] as const;

/** A GPU that runs kernels of `target`. */
export const deviceFor = (target: string): FakeDevice => ({ sm: target === "cuda:sm_90a" ? 90 : 80, memory: 2e9 });

/** The compiler in nvcc's place. */
export const SIMT_NVCC = join(simt, "nvcc");

/** The folder that kernels of the emulator are kept in. */
function simtCache(isChecked: boolean): string {
  const text = readFiles(simt, ["simt_prelude.h", "simt_kernel.hpp", "nvcc"]);
  const content = JSON.stringify([text, process.env.CXX ?? "g++", isChecked]);
  return join(testCache, `simt-${createHash("sha256").update(content).digest("hex").slice(0, 12)}`);
}

/** What compiling and running on the fake driver takes of the environment. */
function compilerEnvironment(isChecked: boolean): Record<string, string> {
  return { NVCC: SIMT_NVCC, INGOT_SIMT_CHECKED: isChecked ? "1" : "0" };
}

/** A command line whose nvcc, driver and GPU are the emulator's. */
export function cudaCommandLine(name: string, { isChecked = false } = {}) {
  const { scratch, run } = commandLine(name);
  const cache = join(scratch, "cuda-cache");
  const kernels = join(simtCache(isChecked), "kernels");
  mkdirSync(cache);
  mkdirSync(kernels, { recursive: true });
  symlinkSync(kernels, join(cache, "kernels"));
  return {
    scratch,
    /** Runs `ingot ...args` on `device`. */
    run: (args: readonly string[], device: FakeDevice = deviceFor("cuda:sm_80"), options: CommandOptions = {}) => {
      const env = {
        ...compilerEnvironment(isChecked),
        INGOT_CACHE: cache,
        INGOT_CUDA_DRIVER: buildFakeCuda(),
        ...fakeDeviceEnvironment(device),
        ...options.env,
      };
      return run(args, { ...options, env });
    },
  };
}

/** Compiles a model for a CUDA target, the kernels for the checker or not. */
export async function compileCudaForTest(
  model: string,
  folder: string,
  flags: Partial<CompileFlags> & { readonly target: CudaTargetName },
  { isChecked = false } = {},
): Promise<void> {
  Object.assign(process.env, compilerEnvironment(isChecked));
  await compileForTest(model, folder, flags, simtCache(isChecked));
}

/** Loads an engine onto a GPU of its own in this process: one at a time, since the driver reads what the GPU is when it begins. */
export async function loadOnFakeDevice(folder: string, device: FakeDevice, options: LLMOptions = {}): Promise<LLM> {
  setFakeDevice(device);
  return LLM.load(folder, { driver: buildFakeCuda(), ...options });
}
