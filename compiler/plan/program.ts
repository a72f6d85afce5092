/**
 * Turns kernels in order into what the manifest says: each text once, buffers in an arena, steps with their arguments and taps.
 */
import type { Arg, BufferEntry, KernelEntry, ManifestDType, Program, Step } from "../../runtime/manifest.ts";
import { invariant } from "../errors.ts";
import type { Graph } from "../ir/graph.ts";
import type { DType } from "../ir/tensor-type.ts";
import { kernelCosts } from "../kernels/costs.ts";
import type { KernelProgram } from "../kernels/form.ts";
import { type KernelArg, kernelArgs, kernelOutput } from "../kernels/operands.ts";
import type { BufferValue, KernelSpec } from "../kernels/spec.ts";
import type { KernelSchedule } from "../schedule/schedule.ts";
import { planArena } from "./arena.ts";

/** A kernel's text under a name of its own. */
export interface KernelText {
  readonly name: string;
  readonly source: string;
  readonly scratchBytes: number;
}

/** What a target decides of kernels and buffers. */
export interface KernelTarget {
  schedule(spec: KernelSpec): KernelSchedule;
  render(spec: KernelSpec, schedule: KernelSchedule, name: string): KernelText;
  bufferLayout(buffer: BufferValue): BufferEntry["layout"];
  bufferBytes(buffer: BufferValue): number;
}

export interface PlannedProgram {
  readonly texts: readonly KernelText[];
  readonly kernels: readonly KernelEntry[];
  readonly arena: { readonly bytes: number; readonly buffers: readonly BufferEntry[] };
  readonly program: Program;
}

/** Plans one program that runs batches of up to `maxTokens`. `tensors` are the names in weights.bin, in order. */
export function planProgram(
  { kernels: specs, taps }: KernelProgram,
  graph: Graph,
  target: KernelTarget,
  tensors: readonly string[],
  maxTokens: number,
): PlannedProgram {
  const arena = planArena(specs, (b) => target.bufferBytes(b));
  const bufferIndex = new Map(arena.placements.map((p, i) => [p.buffer.name, i]));
  const tensorIndex = new Map(tensors.map((name, i) => [name, i]));
  const indexOf = (table: ReadonlyMap<string, number>, name: string): number => {
    const index = table.get(name);
    invariant(index !== undefined, `${name} has no place`);
    return index;
  };
  const argument = (arg: KernelArg): Arg => {
    if (arg.kind === "array") return { array: arg.array };
    const { value } = arg;
    if (value.kind === "buffer") return { buffer: indexOf(bufferIndex, value.name) };
    if (value.kind === "tensor") return { tensor: indexOf(tensorIndex, value.name) };
    return value.kind === "kv" ? { kv: value.layer } : { array: value.name };
  };

  const library = new KernelLibrary(target, graph);
  const steps = specs.map((spec): Step => {
    const schedule = target.schedule(spec);
    const { grid, chunk, serialUnits } = schedule;
    return { kernel: library.add(spec, schedule), grid, chunk, serialUnits, args: kernelArgs(spec).map(argument) };
  });
  const writer = new Map(specs.map((spec, i) => [kernelOutput(spec)?.name ?? "", i]));
  return {
    texts: library.texts,
    kernels: library.entries(),
    arena: {
      bytes: arena.bytes,
      buffers: arena.placements.map(({ buffer, offset, bytes }) => ({
        name: buffer.name,
        dtype: manifestDType(buffer.dtype),
        rows: typeof buffer.rows === "number" ? buffer.rows : buffer.rows.sym,
        cols: buffer.cols,
        layout: target.bufferLayout(buffer),
        offset,
        bytes,
      })),
    },
    program: {
      name: "step",
      maxTokens,
      steps,
      taps: taps.map(({ name, buffer }) => ({
        name,
        step: indexOf(writer, buffer.name),
        buffer: indexOf(bufferIndex, buffer.name),
      })),
    },
  };
}

/** Kernels by text: layers that are equal share one. */
class KernelLibrary {
  readonly texts: KernelText[] = [];
  private readonly specs: KernelSpec[] = [];
  private readonly origins: Set<string>[] = [];
  private readonly byText = new Map<string, number>();

  constructor(
    private readonly target: KernelTarget,
    private readonly graph: Graph,
  ) {}

  /** The index of the kernel that computes `spec`. Specs that share a name but not a text are numbered apart. */
  add(spec: KernelSpec, schedule: KernelSchedule): number {
    const text = this.target.render(spec, schedule, spec.name);
    const known = this.byText.get(text.source);
    const origins = spec.nodes.map((n) => this.graph.originText(n));
    if (known !== undefined) {
      for (const origin of origins) this.origins[known]?.add(origin);
      return known;
    }
    const sameName = this.specs.filter((s) => s.name === spec.name).length;
    const index = this.texts.length;
    this.byText.set(text.source, index);
    this.texts.push(sameName === 0 ? text : this.target.render(spec, schedule, `${spec.name}_${sameName + 1}`));
    this.specs.push(spec);
    this.origins.push(new Set(origins));
    return index;
  }

  entries(): KernelEntry[] {
    return this.texts.map(({ name, scratchBytes }, i) => ({
      name,
      source: `kernels/${name}.cpp`,
      scratchBytes,
      ...kernelCosts(this.specs[i] as KernelSpec, this.graph.limits.blockSize),
      origins: [...(this.origins[i] ?? [])],
    }));
  }
}

/** The dtype as the manifest spells it; others never reach a buffer. */
export function manifestDType(dtype: DType): ManifestDType {
  invariant(dtype !== "bool" && dtype !== "fp8_e4m3", `${dtype} has no place in an engine`);
  return dtype;
}
