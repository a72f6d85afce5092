import { describe, expect, test } from "vitest";
import { maxOf } from "../../../compiler/ir/tensor-type.ts";
import { formKernels } from "../../../compiler/kernels/form.ts";
import { interpretKernel } from "../../../compiler/kernels/interpret.ts";
import type { BufferValue } from "../../../compiler/kernels/spec.ts";
import { type ArenaPlan, planArena } from "../../../compiler/plan/arena.ts";
import { expectClose } from "../../support/closeness.ts";
import { denseGraph, smallDense } from "../../support/dense-graph.ts";
import { graphMeaning, kernelEnvironment, sampleStep } from "../../support/kernel-meaning.ts";

const bytesOf = (b: BufferValue) => maxOf(b.rows) * b.cols * 4;

/** Buffers that live in one poisoned arena, as an executor's do. */
class ArenaBuffers extends Map<string, Float32Array> {
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

describe("the arena", () => {
  test("kernels that share memory compute what kernels with memory of their own compute", () => {
    const graph = denseGraph({ ...smallDense, layers: 4, qkNorm: true, bias: true });
    const step = sampleStep();
    const expected = graphMeaning(graph, step);
    const { kernels, taps, logits } = formKernels(graph);
    const buffers = new ArenaBuffers(planArena(kernels, bytesOf));
    const env = kernelEnvironment(graph, step, undefined, buffers);
    for (const spec of kernels) {
      interpretKernel(spec, env);
      for (const tap of taps) {
        if ("out" in spec && tap.buffer === spec.out)
          expectClose(buffers.get(tap.buffer.name)!, expected.taps.get(tap.name)!, 1e-6, tap.name);
      }
    }
    expectClose(buffers.get(logits.name)!, expected.logits, 1e-6, "logits");
  });

  test("the residual stream is one buffer from the embedding to the last layer", () => {
    const { kernels } = formKernels(denseGraph({ ...smallDense, layers: 6 }));
    const { placements } = planArena(kernels, bytesOf);
    const offsets = kernels.flatMap((k) =>
      k.kind === "embedding" || (k.kind === "linear" && k.operands.length > 0)
        ? placements.find((p) => p.buffer === k.out)!.offset
        : [],
    );
    expect(new Set(offsets).size).toBe(1);
  });

  test("memory does not grow with the number of layers", () => {
    const bytes = [2, 12].map((layers) => planArena(formKernels(denseGraph({ ...smallDense, layers })).kernels, bytesOf).bytes);
    expect(bytes[1]).toBe(bytes[0]);
  });
});
