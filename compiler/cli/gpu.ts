/**
 * The GPU of this machine, as far as the command line asks for one.
 */
import { DEFAULT_DRIVER } from "../../runtime/devices/cuda.ts";
import { type CudaFacts, loadNative } from "../../runtime/native.ts";
import { gpuTarget } from "../schedule/target.ts";

export type Gpu = CudaFacts & {
  /** What suits it; null where it is too old for every target. */
  readonly target: string | null;
};

/** The driver's library: what `INGOT_CUDA_DRIVER` says, for tests and for systems that keep it elsewhere. */
export const cudaDriver = (): string => process.env.INGOT_CUDA_DRIVER ?? DEFAULT_DRIVER;

/** A GPU that was made ready to work, and the bytes that are free there. */
export type ReadyGpu = Gpu & { readonly freeBytes: number };

/** The first GPU; or why the driver gives none. */
export interface GpuProbe<T> {
  readonly gpu: T | null;
  /** The driver's words with the remedy; null where there is a GPU, and where nothing was ever installed for one. */
  readonly problem: string | null;
}

/** Asks what the GPU is, which is quick. */
export const probeGpu = (): GpuProbe<Gpu> => probe(gpuOf);

/** Makes it ready as well, which takes a moment and some of its memory. */
export const examineGpu = (): GpuProbe<ReadyGpu> =>
  probe((driver) => ({ ...gpuOf(driver), freeBytes: loadNative().cudaFreeBytes(driver, 0) }));

function gpuOf(driver: string): Gpu {
  const facts = loadNative().cudaFacts(driver, 0);
  return { ...facts, target: gpuTarget(facts.computeCapability) };
}

function probe<T>(ask: (driver: string) => T): GpuProbe<T> {
  const driver = cudaDriver();
  try {
    return { gpu: ask(driver), problem: null };
  } catch (error) {
    const { message } = error as Error;
    return { gpu: null, problem: isNotInstalled(message, driver) ? null : message };
  }
}

/** Whether the loader found no such file, which is nobody's mistake unless somebody named one; one that lacks another library is there. */
const isNotInstalled = (message: string, driver: string): boolean =>
  driver === DEFAULT_DRIVER && message.includes(driver) && /no such file/i.test(message);
