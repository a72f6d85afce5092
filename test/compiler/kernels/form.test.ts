import { describe, expect, test } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import { interpret, oneSequenceStep } from "../../../compiler/ir/interpret.ts";
import { roundTo } from "../../../compiler/ir/rounding.ts";
import { formKernels, weightNames } from "../../../compiler/kernels/form.ts";
import { interpretKernels, type KernelEnvironment } from "../../../compiler/kernels/interpret.ts";
import { expectClose } from "../../support/closeness.ts";
import { type DenseShape, denseGraph, smallDense, weightsOf } from "../../support/dense-graph.ts";

/** Runs the same step through the graph and through its kernels. */
function bothMeanings(graph: Graph, shape: DenseShape) {
  const weights = weightsOf(graph);
  const step = oneSequenceStep([5, 17, 3, 99, 42, 7, 7, 61, 12, 30, 2, 8, 9, 1, 55, 71, 23], 0, 16, "all");
  const slots = 2 * 16 * shape.kvHeads * shape.headDim;
  const caches = Array.from({ length: shape.layers }, () => ({
    blockSize: 16,
    k: new Float32Array(slots),
    v: new Float32Array(slots),
  }));
  const expected = interpret(graph, { step, weights: (n) => weights.get(n)!, kv: (l) => caches[l]! });
  const program = formKernels(graph);
  const env: KernelEnvironment = {
    binding: step.binding,
    buffers: new Map(),
    tensor: (value) => {
      const parts = weightNames(value.node).map((n) => roundTo(value.dtype, weights.get(n)!));
      const joined = new Float32Array(parts.reduce((sum, p) => sum + p.length, 0));
      let at = 0;
      for (const part of parts) {
        joined.set(part, at);
        at += part.length;
      }
      return joined;
    },
    input: (name) => step.arrays[name],
    kv: (l) => caches[l]!,
  };
  interpretKernels(program.kernels, env);
  return { expected, program, env };
}

describe("forming kernels", () => {
  test("a dense layer is seven kernels, with the residual, the gate and the norms in slots", () => {
    const program = formKernels(denseGraph({ ...smallDense, layers: 1, qkNorm: true, bias: true }));
    expect(program.kernels.map((k) => k.name)).toMatchInlineSnapshot(`
      [
        "embedding_f32_64",
        "rope_angles_16",
        "rms_norm_f32_64",
        "linear_f32_256x64__bias",
        "norm_rope_store_kv_f32_4x2x32",
        "paged_attention_f32_4x2x32",
        "linear_f32_64x128__add",
        "rms_norm_f32_64",
        "linear_f32_96x64__silu_mul",
        "linear_f32_64x96__add",
        "rms_norm_gather_f32_64",
        "linear_f32_100x64",
      ]
    `);
  });

  const shapes: [string, Partial<DenseShape>][] = [
    ["plain", {}],
    ["biases", { bias: true }],
    ["qk-norm, tied embeddings", { qkNorm: true, tied: true }],
    ["a sliding window", { window: 5 }],
    ["bf16 weights read as bf16", { weightDtype: "bf16", linearInput: "bf16" }],
    ["f16 weights", { weightDtype: "f16" }],
    ["one kv head", { kvHeads: 1, headDim: 16 }],
  ];
  test.each(shapes)("interpreting kernels equals interpreting the graph: %s", (_, change) => {
    const shape = { ...smallDense, ...change };
    const { expected, program, env } = bothMeanings(denseGraph(shape), shape);
    expectClose(env.buffers.get(program.logits.name)!, expected.logits, 1e-6, "logits");
    expect(program.taps.map((t) => t.name)).toEqual(["hidden.0", "hidden.1", "hidden.2"]);
    for (const [name, values] of expected.taps) {
      const tap = program.taps.find((t) => t.name === name)!;
      expectClose(env.buffers.get(tap.buffer.name)!, values, 1e-6, name);
    }
  });

  test("a tapped value between a linear and its residual add keeps its own buffer", () => {
    const g = new Graph({ maxModelLen: 64, maxNumSeqs: 2, maxNumBatchedTokens: 16, blockSize: 16 });
    const w = g.weight("w", { dtype: "f32", shape: [8, 8] });
    const x = g.embedding(g.input("token_ids"), g.weight("e", { dtype: "f32", shape: [10, 8] }));
    const y = g.tap("hidden.0", g.linear(x, w));
    const z = g.plus(x, y);
    g.setLogits(
      g.linear(g.rmsNorm(g.gatherRows(z, g.input("sample_rows")), g.weight("n", { dtype: "f32", shape: [8] }), 1e-6), w),
    );
    expect(formKernels(g).kernels.map((k) => k.name)).toMatchInlineSnapshot(`
      [
        "embedding_f32_8",
        "linear_f32_8x8",
        "elementwise_8__add",
        "rms_norm_gather_f32_8",
        "linear_f32_8x8",
      ]
    `);
  });

  test("attention whose q, k and v come from different projections is refused by name", () => {
    const g = new Graph({ maxModelLen: 64, maxNumSeqs: 2, maxNumBatchedTokens: 16, blockSize: 16 });
    const x = g.embedding(g.input("token_ids"), g.weight("e", { dtype: "f32", shape: [10, 16] }));
    const heads = (n: string) => g.reshape(g.linear(x, g.weight(n, { dtype: "f32", shape: [16, 16] })), [g.T, 1, 16]);
    const node = g.scope("layers.0.attn", () => {
      const kv = g.storeKv(g.kvCache(0, "f32", 1, 16), heads("k"), heads("v"));
      return g.pagedAttention(heads("q"), kv, 1, null);
    });
    g.setLogits(g.reshape(node, [g.T, 16]));
    expect(() => formKernels(g)).toThrow(/store_kv at layers\.0\.attn .*one fused projection/);
  });
});
