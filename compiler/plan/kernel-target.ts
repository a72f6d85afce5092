/**
 * What a target decides of kernels and buffers, put together for one program; and the pass that asks it for schedules.
 */
import type { BufferEntry } from "../../runtime/manifest.ts";
import { type CpuDialect, cpuDialects, linearInputDtype } from "../codegen/cpu.ts";
import { DEFAULT_KV_BLOCK_SIZE, type KernelSchedule } from "../codegen/kernel-schedule.ts";
import { bufferBytes, bufferLayout, panelTensors } from "../codegen/layout.ts";
import { type RenderedKernel, renderKernel } from "../codegen/render.ts";
import { UnsupportedError } from "../errors.ts";
import type { Graph } from "../ir/graph.ts";
import type { DType } from "../ir/tensor-type.ts";
import type { BufferValue, KernelSpec } from "../kernels/spec.ts";
import { scheduleKernel } from "../schedule/cpu.ts";
import { parseTarget } from "../schedule/target.ts";

/** A spec and how it is computed. */
export interface ScheduledKernel {
  readonly spec: KernelSpec;
  readonly schedule: KernelSchedule;
}

export interface KernelTarget {
  readonly dialect: CpuDialect;
  /** The dtype a linear over weights of `weightDtype` reads its input in. */
  linearInput(weightDtype: DType): DType;
  /** `panels` names the tensors that linears read. */
  schedule(spec: KernelSpec, panels: ReadonlySet<string>): KernelSchedule;
  render(kernel: ScheduledKernel, name: string): RenderedKernel;
  bufferLayout(buffer: BufferValue): BufferEntry["layout"];
  bufferBytes(buffer: BufferValue): number;
}

/** The target that `text` names, such as `cpu:avx2`. Throws `CompileError` listing the known ones. */
export function kernelTarget(text: string): KernelTarget {
  const { isa } = parseTarget(text);
  const dialect = cpuDialects[isa];
  return {
    dialect,
    linearInput: (weightDtype) => linearInputDtype(isa, weightDtype),
    schedule: (spec, panels) => scheduleKernel(spec, isa, { kvBlockSize: DEFAULT_KV_BLOCK_SIZE, panelTensors: panels }),
    render: ({ spec, schedule }, name) => renderKernel(spec, schedule, dialect, name),
    bufferLayout: (buffer) => bufferLayout(isa, buffer),
    bufferBytes: (buffer) => bufferBytes(isa, buffer),
  };
}

/** Schedules every kernel. Throws `UnsupportedError`, naming the model's lines, for one that the target has no skeleton for. */
export function scheduleKernels(kernels: readonly KernelSpec[], graph: Graph, target: KernelTarget): readonly ScheduledKernel[] {
  const panels = panelTensors(kernels);
  return kernels.map((spec) => {
    try {
      return { spec, schedule: target.schedule(spec, panels) };
    } catch (error) {
      if (!(error instanceof UnsupportedError)) throw error;
      const places = [...new Set(spec.nodes.map((node) => graph.originText(node)))];
      throw new UnsupportedError(`${error.message}; it computes ${places.slice(0, 3).join(", ")}`, { cause: error });
    }
  });
}

/** `007 linear_bf16_96x64__add: linear grid=[6] chunk=4 serial≤0 streams=4 …` */
export function printSchedules(kernels: readonly ScheduledKernel[]): string {
  const lines = kernels.map(({ spec, schedule: { skeleton, grid, chunk, serialUnits, blocking } }, i) => {
    const blocks = Object.entries(blocking).map(([name, value]) => ` ${name}=${value}`);
    const number = String(i).padStart(3, "0");
    return `${number} ${spec.name}: ${skeleton} grid=[${grid.join(" ")}] chunk=${chunk} serial≤${serialUnits}${blocks.join("")}`;
  });
  return `${lines.join("\n")}\n`;
}
