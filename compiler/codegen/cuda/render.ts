/**
 * Kernel specs become CUDA text: a skeleton, its slots and parameters, and the constants a schedule chose.
 *
 * Text depends on what a kernel computes and nothing else (no layer, tensor or buffer name, no symbol), so equal work has equal text.
 */
import type { KernelKind, KernelSpec } from "../../kernels/spec.ts";
import type { CudaSchedule } from "../../schedule/cuda.ts";
import type { RenderedKernel } from "../rendered.ts";
import { renderTemplate, type TemplateContext } from "../template.ts";
import { cudaContexts } from "./contexts.ts";
import { cudaParameters } from "./params.ts";

type AnyContext = (spec: KernelSpec, schedule: CudaSchedule) => TemplateContext;

/** Renders `spec` as `schedule` says, under the name `name`. */
export function renderCudaKernel(spec: KernelSpec, schedule: CudaSchedule, name = spec.name): RenderedKernel {
  const { threads, blocking } = schedule;
  const context = (cudaContexts[spec.kind as KernelKind] as AnyContext)(spec, schedule);
  const parameters = parameterLines(spec);
  const source = renderTemplate(`${schedule.skeleton}.cuda.njk`, { name, threads, parameters, ...blocking, ...context });
  return { name, source, scratchBytes: 0 };
}

/** A line a parameter: `const float* x,  // (rows, 1024) f32`. */
function parameterLines(spec: KernelSpec): string[] {
  const parameters = cudaParameters(spec);
  return parameters.map(({ type, name, note }, i) => `${type} ${name}${i + 1 < parameters.length ? "," : ""}  // ${note}`);
}
