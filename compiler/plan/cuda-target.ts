/**
 * NVIDIA GPUs as a target: matrices as the checkpoint has them, a kernel for few rows and one for many, programs by the size of steps.
 */
import { CUDA_KV_BLOCK_SIZE, CUDA_PRELUDE, type CudaArch, cudaDialects } from "../codegen/cuda/dialect.ts";
import { cudaParameters } from "../codegen/cuda/params.ts";
import { renderCudaKernel } from "../codegen/cuda/render.ts";
import { readTemplate } from "../codegen/template.ts";
import { dtypeBytes, maxOf } from "../ir/tensor-type.ts";
import { forBlocks, normsIntoLinears, projectionsIntoHeads, splitLinears } from "../kernels/for-blocks.ts";
import type { LinearKernel } from "../kernels/spec.ts";
import { MOST_VECTOR_TOKENS, plansAttention, scheduleCudaKernel, splitOf } from "../schedule/cuda.ts";
import type { KernelTarget } from "./kernel-target.ts";

/** Shared memory for rows that a prologue makes: several blocks still share a multiprocessor. */
const PROLOGUE_BYTES = 32 * 1024;

export function cudaTarget(arch: CudaArch): KernelTarget {
  const dialect = cudaDialects[arch];
  return {
    features: [],
    kvBlockSize: CUDA_KV_BLOCK_SIZE,
    fewTokens: [1, 4, 16, 64, 256],
    sourceSuffix: ".cu",
    linearInput: (weightDtype) => weightDtype,
    legalizeKernels: (kernels) => forBlocks(kernels, (spec) => plansAttention(spec.kv.dtype)),
    fuseKernels: (kernels, maxTokens, wanted) => {
      const fits = ({ k, w }: LinearKernel) => maxTokens * k * dtypeBytes[w.dtype] <= PROLOGUE_BYTES;
      if (maxTokens <= MOST_VECTOR_TOKENS) return projectionsIntoHeads(normsIntoLinears(kernels, wanted, fits));
      return splitLinears(kernels, (linear) => splitOf(linear, maxTokens, dialect));
    },
    schedule: (spec, { maxTokens }) => {
      const schedule = scheduleCudaKernel(spec, dialect, maxTokens);
      const { skeleton, grid, threads, sharedBytes, blocking } = schedule;
      const args = cudaParameters(spec).map((p) => p.arg);
      const render = (name: string) => renderCudaKernel(spec, schedule, name);
      return { spec, skeleton, grid, launch: { threads, sharedBytes }, blocking, args, render };
    },
    bufferLayout: () => "rows",
    bufferBytes: (buffer) => maxOf(buffer.rows) * buffer.cols * dtypeBytes[buffer.dtype],
    tensorLayout: () => "rows",
    librarySources: () => CUDA_PRELUDE.map((name) => ({ name, text: readTemplate(name) })),
  };
}
