import { describe, expect, test } from "vitest";
import { formKernels } from "../../../compiler/kernels/form.ts";
import type { KernelSpec, LinearKernel } from "../../../compiler/kernels/spec.ts";
import { verifyKernels } from "../../../compiler/kernels/verify.ts";
import { denseGraph, smallDense } from "../../support/dense-graph.ts";

const { kernels, logits, taps } = formKernels(denseGraph({ ...smallDense, layers: 1, qkNorm: true, bias: true }));
const results = [logits, ...taps.map((t) => t.buffer)];
const verify = (specs: readonly KernelSpec[]) => () => verifyKernels(specs, results);

/** The kernels with the first of one kind changed. */
const changed = <K extends KernelSpec["kind"]>(kind: K, change: (spec: Extract<KernelSpec, { kind: K }>) => object) => {
  const index = kernels.findIndex((k) => k.kind === kind);
  const spec = kernels[index] as Extract<KernelSpec, { kind: K }>;
  return kernels.with(index, { ...spec, ...change(spec) } as KernelSpec);
};

describe("verifying kernels", () => {
  test("passes what is formed from a dense model", () => {
    expect(verify(kernels)).not.toThrow();
  });

  const broken: [string, readonly KernelSpec[], RegExp][] = [
    ["a value read before it is written", [...kernels].reverse(), /is read before it is written/],
    ["a value written twice", [...kernels, kernels[0]!], /is written twice/],
    ["a result that nobody writes", kernels.slice(0, -1), /is wanted as a result/],
    ["a linear of another width", changed("linear", (s) => ({ k: s.k + 1 })), /linear_f32_256x64__bias: k are 65 and 64/],
    [
      "a norm over part of a row",
      changed("rms_norm", (s) => ({ gain: { ...s.gain, cols: 32 } })),
      /columns are 64 and 32 and 64/,
    ],
    [
      "heads beyond the projection",
      changed("store_kv", (s) => ({ v: { ...s.v, col: 250 } })),
      /columns read beyond a row are 0 and 0 and 0 and 58/,
    ],
    ["an accumulator that is not there", changed("linear", () => ({ epilogue: { kind: "acc", way: 1 } })), /accumulator 1 of 1/],
    [
      "an operand that is not there",
      changed("paged_attention", () => ({ epilogue: { kind: "operand", index: 0 } })),
      /operand 0 of 0/,
    ],
    [
      "a matrix of weights where one row is read",
      changed("linear", (s: LinearKernel) => ({ operands: [{ ...s.operands[0]!, rows: 2 }] })),
      /is a matrix of weights/,
    ],
    [
      "a buffer in another dtype",
      changed("linear", (s) => ({ x: { ...s.x, dtype: "bf16" } })),
      /in another shape or dtype than it is written in/,
    ],
  ];
  test.each(broken)("names %s", (_, specs, message) => {
    expect(verify(specs)).toThrow(message);
  });
});
