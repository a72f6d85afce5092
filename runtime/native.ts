/**
 * The addon's typed twin: what `native/addon.cpp` exports, declared once.
 *
 * Native code knows buffers, kernels, programs and launches; it does not know tokens, sequences or models.
 * It checks its arguments at this boundary and throws JavaScript errors; it never aborts the process for a caller's mistake.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { EngineError } from "./errors.ts";

export interface CpuFacts {
  readonly arch: "x64" | "arm64" | "other";
  readonly model: string;
  /** Usable by this process (cgroup and affinity respected). */
  readonly threads: number;
  /** Physical cores among them: hyper-threads of one core share its vector units and its caches. */
  readonly cores: number;
  /** Instruction sets the kernels ask for, OS support included: "avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vl" "avx512_bf16" "fast_avx512_bf16" "avx512_vnni" "amx_tile" "amx_bf16" "amx_int8" "neon" "dotprod" "bf16" "i8mm". */
  readonly features: readonly string[];
  readonly cacheBytes: { readonly l1d: number; readonly l2: number; readonly l3: number };
}

export interface MemoryFacts {
  readonly totalBytes: number;
  /** What can be allocated now without swapping: MemAvailable or the cgroup's headroom, the smaller. */
  readonly availableBytes: number;
}

/** Where an argument of a launch points. */
export type NativeArg =
  | readonly [space: "arena" | "weights" | "kv", offset: number]
  | readonly [space: "array", index: number]
  /** The int32 of T, B, S or P in device memory; on CUDA only. */
  | readonly [space: "symbol", index: number];

export interface NativeStep {
  readonly kernel: string; // symbol in the library
  readonly grid: readonly (number | string)[]; // Rpn
  readonly chunk: number;
  readonly serialUnits: number;
  readonly args: readonly NativeArg[];
}

export interface ExecutorOptions {
  readonly library: string; // path of kernels.so
  readonly weights: string; // path of weights.bin, at least weightsBytes long
  readonly weightsBytes: number;
  readonly arenaBytes: number;
  readonly kvBytes: number;
  readonly scratchBytes: number; // per thread
  readonly threads: number;
  /** Pins thread i to the i-th usable core. */
  readonly pin: boolean;
  readonly abi: number;
  readonly programs: readonly { readonly steps: readonly NativeStep[] }[];
  /** Number of typed arrays a step takes (STEP_ARRAYS.length). */
  readonly numArrays: number;
}

/** A piece of the arena copied out after step `step` of the running program into `into` (bytes from `offset`). */
export interface NativeTap {
  readonly step: number;
  readonly offset: number;
  readonly into: Uint8Array;
}

export type StepTypedArray = Int32Array | Float32Array;

export interface NativeExecutor {
  /**
   * Runs one program; `symbols` holds T, B, S, P. Arrays are read and written in place while the step runs and must not be
   * touched before the promise settles. One step at a time: a second call before that rejects. Bad arguments throw.
   * Resolves with the milliseconds the program ran on the engine thread.
   */
  run(program: number, symbols: Int32Array, arrays: readonly StepTypedArray[], taps: readonly NativeTap[]): Promise<number>;
  /**
   * Turns timing of single steps on or off from the next run on, and returns the per-step milliseconds of the last profiled
   * run in program order (empty before one). Throws while a program is running.
   */
  profile(on: boolean): Float64Array;
  /** Lets a running program finish, stops the threads, unmaps memory. Idempotent. */
  close(): Promise<void>;
}

export interface CudaFacts {
  readonly name: string;
  readonly computeCapability: readonly [major: number, minor: number];
  /** "12.4" */
  readonly driverVersion: string;
  readonly multiprocessors: number;
  readonly totalBytes: number;
  /** Largest shared memory of a block, static and dynamic. */
  readonly sharedBytesPerBlock: number;
}

/** A kernel and how it is launched; its image (fat binary, cubin or PTX) is a piece of the library file and may be shared. */
export interface CudaKernel {
  readonly name: string; // symbol in the image
  readonly offset: number;
  readonly bytes: number;
  readonly threads: number; // a block
  readonly sharedBytes: number; // dynamic
}

export interface CudaStep {
  readonly kernel: number; // index among the kernels
  readonly grid: readonly (number | string)[]; // Rpn, in blocks
  readonly args: readonly NativeArg[]; // the kernel takes a pointer for each
}

/** A typed array of a step: `bytes` fit without growing; an output is only written by the device, an input only read. */
export interface CudaArray {
  readonly bytes: number;
  readonly isOutput: boolean;
}

export interface CudaExecutorOptions {
  readonly driver: string; // path or name of the driver library: libcuda.so.1
  readonly device: number;
  readonly library: string; // file of the kernel images
  readonly kernels: readonly CudaKernel[];
  readonly weights: string; // path of weights.bin, at least weightsBytes long
  readonly weightsBytes: number;
  readonly arenaBytes: number;
  readonly kvBytes: number;
  readonly arrays: readonly CudaArray[];
  readonly programs: readonly { readonly steps: readonly CudaStep[] }[];
  /** Hears of weights arriving on the device, before `createCudaExecutor` returns. What it throws ends the loading. */
  readonly onProgress?: (done: number, total: number) => void;
}

export interface NativeCudaExecutor {
  /**
   * Runs one program; `symbols` holds T, B, S, P as kernels read them, `launchSymbols` what grids are evaluated from, none smaller.
   * Inputs are read and outputs written while the program runs; none may be touched before the promise settles. Two programs may
   * be running: the second reads what the first left on the device, a third call rejects. Bad arguments throw.
   * Resolves with the milliseconds that the device took, in the order of the calls.
   */
  run(
    program: number,
    symbols: Int32Array,
    launchSymbols: Int32Array,
    arrays: readonly StepTypedArray[],
    taps: readonly NativeTap[],
  ): Promise<number>;
  /** As of `NativeExecutor`; while it is on, every kernel waits for the one before and programs are not replayed as graphs. */
  profile(on: boolean): Float64Array;
  /** Lets running programs finish, stops the thread, frees the device's memory. Idempotent. */
  close(): Promise<void>;
}

export interface NativeAddon {
  cpuFacts(): CpuFacts;
  memoryFacts(): MemoryFacts;
  /** Read bandwidth in GB/s over `bytes` of memory with `threads` threads and 4 streams each: the median of `rounds`. */
  readBandwidth(threads: number, bytes: number, rounds: number): number;
  createExecutor(options: ExecutorOptions): NativeExecutor;
  /** What a CUDA device is. Throws when the driver or the device is not there, saying what to do. */
  cudaFacts(driver: string, device: number): CudaFacts;
  /** What can be allocated on it now; makes a context there to ask. Throws as `cudaFacts`. */
  cudaFreeBytes(driver: string, device: number): number;
  /** Loads kernels and weights onto a CUDA device, which takes the calling thread the time of the upload. Throws what is wrong. */
  createCudaExecutor(options: CudaExecutorOptions): NativeCudaExecutor;
}

/**
 * Loads the addon: `dist/ingot.node` of the installed package, or `file`.
 * Throws `EngineError` if it is not there or does not load on this machine.
 */
export function loadNative(file?: string): NativeAddon {
  // Sources stand in runtime/, the bundle in dist/: the addon is beside the one, a folder over from the other.
  const candidates =
    file === undefined
      ? ["../dist/ingot.node", "./ingot.node"].map((p) => fileURLToPath(new URL(p, import.meta.url)))
      : [resolve(file)];
  const found = candidates.find((candidate) => existsSync(candidate));
  if (found === undefined)
    throw new EngineError(`the native addon is missing (${candidates[0]}): run \`npm run build\` in the package`);
  try {
    return createRequire(import.meta.url)(found) as NativeAddon;
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new EngineError(`the native addon ${found} does not load: ${why}; build it again with \`npm run build\``, { cause });
  }
}
