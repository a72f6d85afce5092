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

/** The first GPU; null where there is none, or no driver. */
export function probeGpu(): Gpu | null {
  try {
    const facts = loadNative().cudaFacts(cudaDriver(), 0);
    return { ...facts, target: gpuTarget(facts.computeCapability) };
  } catch {
    return null;
  }
}
