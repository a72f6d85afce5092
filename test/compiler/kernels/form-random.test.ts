import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Node } from "../../../compiler/ir/ops.ts";
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
      fc.property(randomDense, (model) => {
        const lowered = lower(model, { linearInput: () => "bf16" });
        expectSameMeaning(lowered.graph, lowered);
      }),
      { numRuns: RUNS },
    );
  });

  test("gate and up are one kernel, and rows are copied only where one is looked at or is read as whole rows", () => {
    let gates = 0;
    let copies = 0;
    fc.assert(
      fc.property(randomDense, (model) => {
        const { kernels, firings, graph } = lower(model, { linearInput: () => "f32" });
        const nodes = graph.liveNodes();
        const looked = new Set(graph.taps.values());
        const copied = kernels.flatMap((k) => (k.kind === "gather" && !k.rows ? k.nodes.filter((n) => n.op === "slice") : []));
        for (const slice of copied) {
          const isWhole = nodes.some((n) => (n.op === "rms_norm" || n.op === "gather_rows") && n.operands[0] === slice);
          expect(isWhole || nodes.some((n) => n.op === "slice" && wholeOf(n) === wholeOf(slice) && looked.has(n))).toBe(true);
        }
        const apart = new Set(copied.map((n) => n.operands[0]));
        const fused = firings.filter((f) => f.rule === "gate and up are one linear").length;
        const atOnce = nodes.filter(
          (n) => n.op === "linear" && n.operands[1].op === "weight" && n.type.shape[1] === 80 && !apart.has(n),
        );
        expect(kernels.filter((k) => k.kind === "linear" && k.ways === 2)).toHaveLength(fused + atOnce.length);
        gates += fused + atOnce.length;
        copies += copied.length;
      }),
      { numRuns: RUNS },
    );
    expect(gates).toBeGreaterThan(10);
    expect(copies).toBeGreaterThan(0);
  });
});

/** What a slice is a part of, at whatever rows. */
function wholeOf(slice: Node): Node {
  const [x] = slice.operands as readonly [Node];
  return x.op === "gather_rows" ? x.operands[0] : x;
}
