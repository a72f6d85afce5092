import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type DType, maxOf } from "../../../compiler/ir/tensor-type.ts";
import { formKernels } from "../../../compiler/kernels/form.ts";
import { interpretKernel } from "../../../compiler/kernels/interpret.ts";
import { kernelOutputs } from "../../../compiler/kernels/operands.ts";
import type { BufferValue } from "../../../compiler/kernels/spec.ts";
import { lower } from "../../../compiler/pipeline.ts";
import { planArena } from "../../../compiler/plan/arena.ts";
import { ArenaBuffers } from "../../support/arena-buffers.ts";
import { expectClose } from "../../support/closeness.ts";
import { denseGraph, smallDense } from "../../support/dense-graph.ts";
import { graphMeaning, kernelEnvironment, sampleStep } from "../../support/kernel-meaning.ts";
import { randomDense } from "../../support/random-dense.ts";

const bytesOf = (b: BufferValue) => maxOf(b.rows) * b.cols * 4;

describe("the arena", () => {
  test("kernels that share memory compute what the graph means, whatever the model (100 random decoders)", () => {
    fc.assert(
      fc.property(randomDense, fc.constantFrom<DType>("f32", "bf16"), (model, narrow) => {
        const { graph, kernels, taps, logits } = lower(model, { linearInput: (w) => (w === "bf16" ? narrow : "f32") });
        const step = sampleStep();
        const expected = graphMeaning(graph, step);
        const env = kernelEnvironment(graph, step, undefined, new ArenaBuffers(planArena(kernels, bytesOf)));
        for (const spec of kernels) {
          interpretKernel(spec, env);
          for (const { name, buffer } of taps) {
            // A tap is copied when its kernel is done: later ones may write over it.
            if (!kernelOutputs(spec).some((out) => out.name === buffer.name)) continue;
            expectClose(env.buffers.get(buffer.name)!, expected.taps.get(name)!, 0, name);
          }
        }
        expectClose(env.buffers.get(logits.name)!, expected.logits, 0, "logits");
      }),
      { numRuns: 100 },
    );
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
