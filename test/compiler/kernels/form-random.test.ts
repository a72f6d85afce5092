import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { DType } from "../../../compiler/ir/tensor-type.ts";
import { lower } from "../../../compiler/pipeline.ts";
import { expectSameMeaning } from "../../support/kernel-meaning.ts";
import { randomDense } from "../../support/random-dense.ts";

const RUNS = 100;

describe(`of ${RUNS} random decoders with random taps`, () => {
  test("kernels compute what the model's own graph means, bit for bit", () => {
    fc.assert(
      fc.property(randomDense, (model) => expectSameMeaning(model, lower(model, { linearInput: () => "f32" }))),
      { numRuns: RUNS },
    );
  });

  test("kernels compute what the lowered graph means where a target rounds its inputs, bit for bit", () => {
    fc.assert(
      fc.property(randomDense, fc.constantFrom<DType>("bf16", "f16"), (model, narrow) => {
        const lowered = lower(model, { linearInput: () => narrow });
        expectSameMeaning(lowered.graph, lowered);
      }),
      { numRuns: RUNS },
    );
  });

  test("each attention reads one fused projection, each gate is one kernel with its up", () => {
    let gates = 0;
    fc.assert(
      fc.property(randomDense, (model) => {
        const { kernels, firings } = lower(model, { linearInput: () => "f32" });
        const fused = firings.filter((f) => f.rule === "gate and up are one linear").length;
        expect(kernels.filter((k) => k.kind === "linear" && k.ways === 2)).toHaveLength(fused);
        gates += fused;
      }),
      { numRuns: RUNS },
    );
    expect(gates).toBeGreaterThan(10);
  });
});
