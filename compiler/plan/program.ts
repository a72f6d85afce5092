/**
 * Turns scheduled kernels into what the manifest says: each text once, buffers in an arena, steps with their arguments and taps.
 */
import type { Arg, KernelEntry, Manifest, ManifestDType, Program } from "../../runtime/manifest.ts";
import type { RenderedKernel } from "../codegen/rendered.ts";
import { invariant } from "../errors.ts";
import type { Graph } from "../ir/graph.ts";
import type { DType } from "../ir/tensor-type.ts";
import { kernelCosts } from "../kernels/costs.ts";
import type { KernelProgram } from "../kernels/form.ts";
import { type KernelArg, kernelOutputs } from "../kernels/operands.ts";
import type { ArenaPlan } from "./arena.ts";
import type { KernelTarget, ScheduledKernel } from "./kernel-target.ts";

/** The kernels of all programs as texts, each once. */
export interface EmittedKernels {
  readonly texts: readonly RenderedKernel[];
  readonly entries: readonly KernelEntry[];
  /** The text of kernel i of program p, as an index: `textOf[p][i]`. */
  readonly textOf: readonly (readonly number[])[];
}

/** Renders scheduled kernels; equal work has equal text and becomes one kernel. */
export function emitKernels(
  programs: readonly { readonly maxTokens: number; readonly kernels: readonly ScheduledKernel[] }[],
  graph: Graph,
  target: KernelTarget,
): EmittedKernels {
  const library = new KernelLibrary(target, graph);
  const textOf = programs.map(({ kernels, maxTokens }) => kernels.map((kernel) => library.add(kernel, maxTokens)));
  return { texts: library.texts, entries: library.entries(), textOf };
}

/** Buffers where the arena has them. */
export function arenaEntry({ bytes, placements }: ArenaPlan, target: KernelTarget): Manifest["arena"] {
  return {
    bytes,
    buffers: placements.map(({ buffer, offset, bytes }) => ({
      name: buffer.name,
      dtype: manifestDType(buffer.dtype),
      rows: typeof buffer.rows === "number" ? buffer.rows : buffer.rows.sym,
      cols: buffer.cols,
      layout: target.bufferLayout(buffer),
      offset,
      bytes,
    })),
  };
}

/**
 * One program of up to `maxTokens`: a step a kernel, whose texts are `textOf`. `buffers` and `tensors` are the names in the arena and in
 * weights.bin, in order.
 */
export function assembleProgram(
  kernels: readonly ScheduledKernel[],
  textOf: readonly number[],
  taps: KernelProgram["taps"],
  names: { readonly buffers: readonly string[]; readonly tensors: readonly string[] },
  maxTokens: number,
): Program {
  const table = (of: readonly string[]) => new Map(of.map((name, i) => [name, i]));
  const [buffers, tensors] = [table(names.buffers), table(names.tensors)];
  const writers = new Map(kernels.flatMap(({ spec }, i) => kernelOutputs(spec).map((out) => [out.name, i] as const)));
  const indexOf = (map: ReadonlyMap<string, number>, name: string): number => {
    const index = map.get(name);
    invariant(index !== undefined, `${name} has no place`);
    return index;
  };
  const argument = (arg: KernelArg): Arg => {
    if (arg.kind === "array") return { array: arg.array };
    if (arg.kind === "symbol") return { symbol: arg.symbol };
    const { value } = arg;
    if (value.kind === "buffer") return { buffer: indexOf(buffers, value.name) };
    if (value.kind === "tensor") return { tensor: indexOf(tensors, value.name) };
    return value.kind === "kv" ? { kv: value.layer } : { array: value.name };
  };
  return {
    name: `step_${maxTokens}`,
    maxTokens,
    steps: kernels.map(({ grid, args }, i) => ({ kernel: textOf[i] as number, grid, args: args.map(argument) })),
    taps: taps.map(({ name, buffer }) => ({
      name,
      step: indexOf(writers, buffer.name),
      buffer: indexOf(buffers, buffer.name),
    })),
  };
}

/** Kernels by text: layers that are equal share one. */
class KernelLibrary {
  readonly texts: RenderedKernel[] = [];
  private readonly kernels: { readonly kernel: ScheduledKernel; readonly maxTokens: number }[] = [];
  private readonly origins: Set<string>[] = [];
  private readonly byText = new Map<string, number>();

  constructor(
    private readonly target: KernelTarget,
    private readonly graph: Graph,
  ) {}

  /**
   * The index of the kernel that computes `kernel.spec` in a program. Those that share a name but not a text say for how many tokens they
   * are, `_t64`, where programs differ in that, and are numbered apart within one program.
   */
  add(kernel: ScheduledKernel, maxTokens: number): number {
    const { spec, launch } = kernel;
    const text = kernel.render(spec.name);
    const key = JSON.stringify([text.source, launch]);
    const known = this.byText.get(key);
    const origins = spec.nodes.map((n) => label(this.graph.originText(n)));
    if (known !== undefined) {
      for (const origin of origins) this.origins[known]?.add(origin);
      return known;
    }
    const sameName = this.kernels.filter((k) => k.kernel.spec.name === spec.name);
    const isFirstOfProgram = sameName.every((k) => k.maxTokens !== maxTokens);
    const suffix = isFirstOfProgram ? `_t${maxTokens}` : `_${sameName.length + 1}`;
    const index = this.texts.length;
    this.byText.set(key, index);
    this.texts.push(sameName.length === 0 ? text : kernel.render(spec.name + suffix));
    this.kernels.push({ kernel, maxTokens });
    this.origins.push(new Set(origins));
    return index;
  }

  entries(): KernelEntry[] {
    return this.kernels.map(({ kernel: { spec, launch } }, i) => {
      const { name, scratchBytes } = this.texts[i] as RenderedKernel;
      return {
        name,
        source: `kernels/${name}${this.target.sourceSuffix}`,
        launch: "threads" in launch ? launch : { ...launch, scratchBytes },
        ...kernelCosts(spec, this.graph.limits.blockSize),
        origins: [...(this.origins[i] ?? [])],
      };
    });
  }
}

/** The dtype as the manifest spells it; others never reach a buffer. */
export function manifestDType(dtype: DType): ManifestDType {
  invariant(dtype !== "bool", `${dtype} has no place in an engine`);
  return dtype;
}

/** Text as a manifest takes it, whatever an author calls files and modules. */
const label = (text: string): string => text.replace(/[^\x20-\x7e]/g, "?").slice(0, 300);
