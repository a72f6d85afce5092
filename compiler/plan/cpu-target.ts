/**
 * CPUs as a target: instruction-set levels, panels for matrices, one program for every step.
 */
import { cpuDialects, type Isa, linearInputDtype } from "../codegen/cpu/dialect.ts";
import { DEFAULT_KV_BLOCK_SIZE } from "../codegen/cpu/kernel-schedule.ts";
import { bufferBytes, bufferLayout, tensorLayout } from "../codegen/cpu/layout.ts";
import { librarySources, renderKernel } from "../codegen/cpu/render.ts";
import { kernelArgs } from "../kernels/operands.ts";
import { scheduleKernel } from "../schedule/cpu.ts";
import type { KernelTarget } from "./kernel-target.ts";

export function cpuTarget(isa: Isa): KernelTarget {
  const dialect = cpuDialects[isa];
  return {
    features: dialect.features,
    kvBlockSize: DEFAULT_KV_BLOCK_SIZE,
    fewTokens: [],
    sourceSuffix: ".cpp",
    linearInput: (weightDtype) => linearInputDtype(isa, weightDtype),
    legalizeKernels: (kernels) => kernels,
    fuseKernels: (kernels) => kernels,
    schedule: (spec, { matrices }) => {
      const schedule = scheduleKernel(spec, isa, { kvBlockSize: DEFAULT_KV_BLOCK_SIZE, panelTensors: matrices });
      const { skeleton, grid, chunk, serialUnits, blocking } = schedule;
      const render = (name: string) => renderKernel(spec, schedule, dialect, name);
      return { spec, skeleton, grid, launch: { chunk, serialUnits }, blocking, args: kernelArgs(spec), render };
    },
    bufferLayout: (buffer) => bufferLayout(isa, buffer),
    bufferBytes: (buffer) => bufferBytes(isa, buffer),
    tensorLayout,
    librarySources: () => librarySources(dialect),
  };
}
