/**
 * CPUs: one team of threads walks a program over memory of the process.
 */
import { EngineError, ManifestError } from "../errors.ts";
import { bytesPerBlock, DEFAULT_MEMORY_UTILIZATION, numKvBlocks } from "../kv-cache-size.ts";
import { KERNEL_ABI, type Manifest, type Program, STEP_ARRAYS } from "../manifest.ts";
import type { CpuFacts, NativeStep } from "../native.ts";
import { nativeArg } from "./arguments.ts";
import type { DeviceFamily } from "./device.ts";

const MAX_THREADS = 1024;

export const cpuFamily: DeviceFamily = {
  buildsAnywhere: false,

  check: (engine, native) => checkFeatures(engine, native.cpuFacts()),

  plan({ manifest, limits }, native, options) {
    const threads = options.threads ?? native.cpuFacts().cores;
    if (!(Number.isInteger(threads) && threads >= 1 && threads <= MAX_THREADS))
      throw new EngineError(`--threads must be a whole number from 1 to ${MAX_THREADS}, found ${threads}`);
    const numBlocks = numKvBlocks(manifest, limits, {
      availableBytes: native.memoryFacts().availableBytes,
      scratchBytes: scratchBytesOf(manifest) * threads,
      utilization: options.memoryUtilization ?? DEFAULT_MEMORY_UTILIZATION,
      kvCacheMemoryBytes: options.kvCacheMemoryBytes,
    });
    return { numBlocks, threads };
  },

  open({ manifest, library, weights, plan: { numBlocks, threads } }, native, options) {
    const executor = native.createExecutor({
      library,
      weights,
      weightsBytes: manifest.weights.bytes,
      arenaBytes: manifest.arena.bytes,
      kvBytes: numBlocks * bytesPerBlock(manifest),
      scratchBytes: scratchBytesOf(manifest),
      threads: threads!, // as planned above
      pin: options.pin ?? true,
      abi: KERNEL_ABI,
      programs: manifest.programs.map((program) => ({ steps: stepsOf(program, manifest, numBlocks) })),
      numArrays: STEP_ARRAYS.length,
    });
    return {
      depth: 1,
      run: (program, symbols, arrays, taps) => executor.run(program, symbols, arrays, taps),
      profile: (on) => executor.profile(on),
      close: () => executor.close(),
    };
  },
};

/** Scratch of one thread, which all kernels share. */
const scratchBytesOf = ({ kernels }: Manifest): number =>
  Math.max(0, ...kernels.map(({ launch }) => ("scratchBytes" in launch ? launch.scratchBytes : 0)));

function checkFeatures({ target, features }: Pick<Manifest, "target" | "features">, cpu: CpuFacts): void {
  const missing = features.filter((feature) => !cpu.features.includes(feature));
  if (missing.length === 0) return;
  throw new EngineError(
    `the engine is for ${target}, but this machine (${cpu.model}) lacks ${missing.join(", ")}: ` +
      "compile the model again here with `ingot compile <model> --target native`",
  );
}

const stepsOf = (program: Program, manifest: Manifest, numBlocks: number): NativeStep[] =>
  program.steps.map(({ kernel, grid, args }) => {
    const { name, launch } = manifest.kernels[kernel]!;
    if (!("chunk" in launch))
      throw new ManifestError(`kernel ${name} is for blocks of threads, which ${manifest.target} does not have`);
    const { chunk, serialUnits } = launch;
    return { kernel: name, grid, chunk, serialUnits, args: args.map((arg) => nativeArg(arg, manifest, numBlocks)) };
  });
