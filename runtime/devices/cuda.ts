/**
 * NVIDIA GPUs: weights, activations and the KV cache live on the device; a step is one copy in, a captured graph, one copy out.
 */
import { MAX_LOGPROBS, SAMPLE_FLOATS_WIDTH, SAMPLE_INTS_WIDTH } from "../batch.ts";
import { EngineError, ManifestError } from "../errors.ts";
import { type KernelImage, readKernelImages } from "../kernel-images.ts";
import { bytesPerBlock, DEFAULT_MEMORY_UTILIZATION, numKvBlocks } from "../kv-cache-size.ts";
import { type Limits, type Manifest, STEP_ARRAYS, type StepArray } from "../manifest.ts";
import type { CudaFacts } from "../native.ts";
import { nativeArg } from "./arguments.ts";
import type { DeviceFamily, DeviceOptions } from "./device.ts";

/** The driver's library, as the loader finds it. */
export const DEFAULT_DRIVER = "libcuda.so.1";

export const cudaFamily: DeviceFamily = {
  buildsAnywhere: true,

  check({ target }, native, options) {
    checkArch(
      target,
      asked(options, (driver, device) => native.cudaFacts(driver, device)),
    );
  },

  plan({ manifest, limits }, native, options) {
    const numBlocks = numKvBlocks(manifest, limits, {
      availableBytes: asked(options, (driver, device) => native.cudaFreeBytes(driver, device)),
      scratchBytes: 0,
      utilization: options.memoryUtilization ?? DEFAULT_MEMORY_UTILIZATION,
      kvCacheMemoryBytes: options.kvCacheMemoryBytes,
    });
    return { numBlocks, threads: null };
  },

  open({ manifest, library, weights, limits, plan: { numBlocks } }, native, options) {
    const { device = 0, driver = DEFAULT_DRIVER } = options;
    const images = readKernelImages(library);
    const executor = native.createCudaExecutor({
      driver,
      device,
      library,
      kernels: manifest.kernels.map((kernel) => ({
        name: kernel.name,
        ...launchOf(kernel, manifest),
        ...imageOf(kernel.name, images, library),
      })),
      weights,
      weightsBytes: manifest.weights.bytes,
      arenaBytes: manifest.arena.bytes,
      kvBytes: numBlocks * bytesPerBlock(manifest),
      arrays: STEP_ARRAYS.map((name) => ({ bytes: arrayBytes(name, limits, manifest), isOutput: OUTPUTS.has(name) })),
      programs: manifest.programs.map(({ steps }) => ({
        steps: steps.map(({ kernel, grid, args }) => ({
          kernel,
          grid,
          args: args.map((arg) => nativeArg(arg, manifest, numBlocks)),
        })),
      })),
      onProgress: options.onLoad,
    });
    return {
      depth: 2,
      run: (program, symbols, arrays, taps) => executor.run(program, symbols, launchSymbols(symbols), arrays, taps),
      profile: (on) => executor.profile(on),
      close: () => executor.close(),
    };
  },
};

/** What the driver says of the GPU. Throws `EngineError` in its words, with the remedy. */
function asked<T>({ driver = DEFAULT_DRIVER, device = 0 }: DeviceOptions, ask: (driver: string, device: number) => T): T {
  try {
    return ask(driver, device);
  } catch (cause) {
    throw new EngineError((cause as Error).message, { cause });
  }
}

/** An engine for `sm_80` runs on 8.0 and later; one for `sm_90a` on 9.0 alone, whose instructions no other has. */
function checkArch(target: string, { name, computeCapability: [major, minor] }: CudaFacts): void {
  const [, digits = "", exact] = /^cuda:sm_(\d+)(a?)$/.exec(target) ?? [];
  const [wanted, found] = [Number(digits), 10 * major + minor];
  if (exact ? found === wanted : found >= wanted) return;
  throw new EngineError(
    `the engine is for ${target}, but this machine has an ${name} (sm_${found}): compile the model again with \`ingot compile <model> --target ${found >= 80 ? "cuda:sm_80" : "native"}\``,
  );
}

function launchOf({ name, launch }: Manifest["kernels"][number], { target }: Manifest) {
  if (!("threads" in launch)) throw new ManifestError(`kernel ${name} is for a team of threads, which ${target} does not have`);
  return launch;
}

function imageOf(name: string, images: ReadonlyMap<string, KernelImage>, library: string): KernelImage {
  const image = images.get(name);
  if (!image) throw new EngineError(`${library} has no kernel ${name}: build the engine again with \`ingot build\``);
  return image;
}

const OUTPUTS: ReadonlySet<StepArray> = new Set(["sampled_ids", "sampled_logprobs", "top_ids", "top_logprobs"]);

/** Bytes of a step's array at its largest; `sample_tokens`, which has no largest size, grows when it must. */
function arrayBytes(
  name: StepArray,
  { maxNumBatchedTokens: T, maxNumSeqs: B, maxModelLen }: Limits,
  { kvCache }: Manifest,
): number {
  const S = Math.min(B, T);
  const words: { readonly [K in StepArray]: number } = {
    token_ids: T,
    positions: T,
    seq_ids: T,
    seq_lens: B,
    block_tables: B * Math.ceil(maxModelLen / kvCache.blockSize),
    sample_rows: S,
    sample_floats: S * SAMPLE_FLOATS_WIDTH,
    sample_ints: S * SAMPLE_INTS_WIDTH,
    sample_tokens: 2 * S,
    sampled_ids: S,
    sampled_logprobs: S,
    top_ids: S * MAX_LOGPROBS,
    top_logprobs: S * MAX_LOGPROBS,
  };
  return 4 * words[name];
}

/** The extents that grids are made for: few different ones, so that a graph captured for one step serves many. */
const launchSymbols = (symbols: Int32Array): Int32Array => symbols.map(roundedUp);

/** Up to 8 as it is, then to multiples of 8, 16, 64 and 256. */
function roundedUp(n: number): number {
  const to = n <= 8 ? 1 : n <= 64 ? 8 : n <= 256 ? 16 : n <= 1024 ? 64 : 256;
  return Math.ceil(n / to) * to;
}
