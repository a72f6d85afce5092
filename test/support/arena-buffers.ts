/** Interpreted kernels' buffers in one arena that holds NaN before, as an executor's do: a plan that overlaps live buffers shows. */
import type { ArenaPlan } from "../../compiler/plan/arena.ts";

export class ArenaBuffers extends Map<string, Float32Array> {
  private readonly lengths = new Map<string, number>();
  constructor(
    private readonly plan: ArenaPlan,
    private readonly arena = new Float32Array(plan.bytes / 4).fill(Number.NaN),
  ) {
    super();
  }
  override set(name: string, values: Float32Array): this {
    this.lengths.set(name, values.length);
    this.view(name).set(values);
    return this;
  }
  override get(name: string): Float32Array | undefined {
    return this.lengths.has(name) ? this.view(name) : undefined;
  }
  private view(name: string): Float32Array {
    const at = this.plan.placements.find((p) => p.buffer.name === name)!.offset / 4;
    return this.arena.subarray(at, at + this.lengths.get(name)!);
  }
}
