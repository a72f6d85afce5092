/**
 * What a target decides of kernels, buffers and tensors, put together for one program; and the pass that asks it for schedules.
 */
import type { BlockLaunch, BufferEntry, Rpn, TeamLaunch, TensorEntry } from "../../runtime/manifest.ts";
import type { RenderedKernel, SourceFile } from "../codegen/rendered.ts";
import { UnsupportedError } from "../errors.ts";
import type { Graph } from "../ir/graph.ts";
import type { DType } from "../ir/tensor-type.ts";
import type { KernelArg } from "../kernels/operands.ts";
import type { BufferValue, KernelSpec, TensorValue } from "../kernels/spec.ts";
import { parseTarget } from "../schedule/target.ts";
import { cpuTarget } from "./cpu-target.ts";
import { cudaTarget } from "./cuda-target.ts";

/** A spec and how it is computed: its skeleton with every constant chosen, and how the device runs it. */
export interface ScheduledKernel {
  readonly spec: KernelSpec;
  /** File stem of the skeleton. */
  readonly skeleton: string;
  /** Units of work of a launch. */
  readonly grid: Rpn;
  readonly launch: BlockLaunch | Omit<TeamLaunch, "scratchBytes">;
  /** Constants the skeleton was given. */
  readonly blocking: Readonly<Record<string, number>>;
  /** What a launch points at, in calling order. */
  readonly args: readonly KernelArg[];
  /** The text, under the name `name`. */
  render(name: string): RenderedKernel;
}

/** What a schedule must know of the program around its kernel. */
export interface ProgramContext {
  /** Names of the tensors some linear reads. */
  readonly matrices: ReadonlySet<string>;
  /** Rows of the largest step the program is for. */
  readonly maxTokens: number;
}

export interface KernelTarget {
  /** What the kernels ask of a processor, in the feature names of `cpuFacts`. */
  readonly features: readonly string[];
  /** Tokens of a KV block. */
  readonly kvBlockSize: number;
  /** Largest steps, ascending, that have a program of their own beside the one for all: a linear of few rows is another kernel. */
  readonly fewTokens: readonly number[];
  /** Ends of kernel sources: `.cpp`, `.cu`. */
  readonly sourceSuffix: string;
  /** The dtype a linear over weights of `weightDtype` reads its input in. */
  linearInput(weightDtype: DType): DType;
  /** The same work in kernels that the target has. */
  legalizeKernels(kernels: readonly KernelSpec[]): readonly KernelSpec[];
  /** The same in fewer kernels, or in more blocks, where a program for steps of up to `maxTokens` gains by it; values in `wanted` stay written. */
  fuseKernels(kernels: readonly KernelSpec[], maxTokens: number, wanted: ReadonlySet<string>): readonly KernelSpec[];
  /** Throws `UnsupportedError` for what no skeleton computes. */
  schedule(spec: KernelSpec, context: ProgramContext): ScheduledKernel;
  bufferLayout(buffer: BufferValue): BufferEntry["layout"];
  bufferBytes(buffer: BufferValue): number;
  tensorLayout(tensor: TensorValue, matrices: ReadonlySet<string>): TensorEntry["layout"];
  /** Files that every kernel library needs beside the kernels. */
  librarySources(): readonly SourceFile[];
}

/** The target that `text` names, such as `cpu:avx2`. Throws `CompileError` listing the known ones. */
export function kernelTarget(text: string): KernelTarget {
  const target = parseTarget(text);
  return target.family === "cpu" ? cpuTarget(target.isa) : cudaTarget(target.arch);
}

/** Names of the tensors that linears read: those a target may lay out for them. */
export const matricesOf = (specs: readonly KernelSpec[]): ReadonlySet<string> =>
  new Set(specs.flatMap((s) => ("w" in s ? [s.w.name] : [])));

/** Schedules every kernel for steps of up to `maxTokens`. Throws `UnsupportedError`, naming the model's lines, for one without a skeleton. */
export function scheduleKernels(
  kernels: readonly KernelSpec[],
  graph: Graph,
  target: KernelTarget,
  maxTokens: number,
): readonly ScheduledKernel[] {
  const context = { matrices: matricesOf(kernels), maxTokens };
  return kernels.map((spec) => {
    try {
      return target.schedule(spec, context);
    } catch (error) {
      if (!(error instanceof UnsupportedError)) throw error;
      const places = [...new Set(spec.nodes.map((node) => graph.originText(node)))];
      throw new UnsupportedError(`${error.message}; it computes ${places.slice(0, 3).join(", ")}`, { cause: error });
    }
  });
}

/** `007 linear_bf16_96x64__add: linear grid=[6] chunk=4 serialUnits=0 streams=4 …` */
export function printSchedules(kernels: readonly ScheduledKernel[]): string {
  const lines = kernels.map(({ spec, skeleton, grid, launch, blocking }, i) => {
    const words = Object.entries({ ...launch, ...blocking }).map(([name, value]) => ` ${name}=${value}`);
    return `${String(i).padStart(3, "0")} ${spec.name}: ${skeleton} grid=[${grid.join(" ")}]${words.join("")}`;
  });
  return `${lines.join("\n")}\n`;
}
