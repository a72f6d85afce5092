/**
 * What an engine runs on: a team of CPU threads, or a GPU. A target string names the family; this table says what drives it.
 */
import { EngineError } from "../errors.ts";
import type { HashProgress } from "../file-hash.ts";
import type { Limits, Manifest } from "../manifest.ts";
import type { NativeAddon, NativeTap, StepTypedArray } from "../native.ts";
import { cpuFamily } from "./cpu.ts";
import { cudaFamily } from "./cuda.ts";

/** How a device is opened. */
export interface DeviceOptions {
  /** Threads of the team; by default one per usable physical core. CPUs only. */
  readonly threads?: number;
  /** Pins each thread to a core of its own; true by default. CPUs only. */
  readonly pin?: boolean;
  /** Which GPU; 0 by default. */
  readonly device?: number;
  /** The driver's library; by default where the system has it. GPUs only. */
  readonly driver?: string;
  /** Bytes of the KV cache; by default what free memory holds and the limits can use. */
  readonly kvCacheMemoryBytes?: number;
  /** Share of the free memory that weights, arena and KV cache may take together, (0, 1]; 0.9 by default. */
  readonly memoryUtilization?: number;
  /** Hears of weights being loaded. */
  readonly onLoad?: HashProgress;
}

/** What an engine gets of a device. */
export interface DevicePlan {
  /** Blocks of the KV cache. */
  readonly numBlocks: number;
  /** Threads of a CPU's team; null of a GPU, which has none. */
  readonly threads: number | null;
}

/** Files of an engine, checked, and how it is to run. */
export interface DeviceEngine {
  readonly manifest: Manifest;
  readonly limits: Limits;
  readonly plan: DevicePlan;
  /** Paths of the kernel library and of weights.bin. */
  readonly library: string;
  readonly weights: string;
}

/** An engine's programs, loaded. */
export interface EngineDevice {
  /** How many runs it takes at once, in order. */
  readonly depth: 1 | 2;
  /** Runs one program, as `NativeExecutor.run` says; `arrays` are those of STEP_ARRAYS. */
  run(program: number, symbols: Int32Array, arrays: readonly StepTypedArray[], taps: readonly NativeTap[]): Promise<number>;
  /** Turns timing of single steps on or off; the milliseconds of each step of the last profiled run. */
  profile(on: boolean): Float64Array;
  close(): Promise<void>;
}

/** What drives a family of targets. */
export interface DeviceFamily {
  /** Whether kernels can be built on a machine that cannot run them: images for a GPU are made in containers that have none. */
  readonly buildsAnywhere: boolean;
  /** Throws `EngineError` with the remedy when this machine cannot run an engine's kernels, built or not. */
  check(engine: Pick<Manifest, "target" | "features">, native: NativeAddon, options: DeviceOptions): void;
  /** Shares out threads and memory, weights unread. Throws `EngineError` for options that cannot be met, and where memory is short. */
  plan(engine: Pick<DeviceEngine, "manifest" | "limits">, native: NativeAddon, options: DeviceOptions): DevicePlan;
  /** Loads an engine as planned. Throws `EngineError` when it does not fit or the device fails. */
  open(engine: DeviceEngine, native: NativeAddon, options: DeviceOptions): EngineDevice;
}

const families: Readonly<Record<string, DeviceFamily>> = { cpu: cpuFamily, cuda: cudaFamily };

/** What drives `target`. Throws `EngineError` for a family that nothing here does. */
export function familyOf(target: string): DeviceFamily {
  const name = target.split(":")[0] as string;
  if (Object.hasOwn(families, name)) return families[name] as DeviceFamily;
  throw new EngineError(
    `the engine is for ${target}, which this runtime cannot drive: compile the model again with --target native`,
  );
}
