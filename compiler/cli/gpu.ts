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

/** The first GPU; or why the driver gives none. */
export interface GpuProbe {
  readonly gpu: Gpu | null;
  /** The driver's words with the remedy; null where there is a GPU, and where nothing was ever installed for one. */
  readonly problem: string | null;
}

export function probeGpu(): GpuProbe {
  const driver = cudaDriver();
  try {
    const facts = loadNative().cudaFacts(driver, 0);
    return { gpu: { ...facts, target: gpuTarget(facts.computeCapability) }, problem: null };
  } catch (error) {
    const { message } = error as Error;
    return { gpu: null, problem: isNotInstalled(message, driver) ? null : message };
  }
}

/** Whether the loader found no such file, which is nobody's mistake unless somebody named one; one that lacks another library is there. */
const isNotInstalled = (message: string, driver: string): boolean =>
  driver === DEFAULT_DRIVER && message.includes(driver) && /no such file/i.test(message);
