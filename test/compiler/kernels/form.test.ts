import { describe, expect, test } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import { formKernels } from "../../../compiler/kernels/form.ts";
import { type DenseShape, denseGraph, smallDense } from "../../support/dense-graph.ts";
import { expectSameMeaning } from "../../support/kernel-meaning.ts";

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
    const graph = denseGraph({ ...smallDense, ...change });
    const program = formKernels(graph);
    expect(program.taps.map((t) => t.name)).toEqual(["hidden.0", "hidden.1", "hidden.2"]);
    expectSameMeaning(graph, program);
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

  test("attention whose q, k and v come from different projections stores heads of each", () => {
    const g = new Graph({ maxModelLen: 64, maxNumSeqs: 2, maxNumBatchedTokens: 16, blockSize: 16 });
    const x = g.embedding(g.input("token_ids"), g.weight("e", { dtype: "f32", shape: [64, 16] }));
    const heads = (n: string) => g.reshape(g.linear(x, g.weight(n, { dtype: "f32", shape: [16, 16] })), [g.T, 1, 16]);
    const node = g.scope("layers.0.attn", () => {
      const kv = g.storeKv(g.kvCache(0, "f32", 1, 16), heads("k"), heads("v"));
      return g.pagedAttention(heads("q"), kv, 1, null);
    });
    g.setLogits(g.reshape(node, [g.T, 16]));
    const program = formKernels(g);
    expectSameMeaning(g, program);
    expect(program.kernels.map((k) => k.name)).toEqual([
      "embedding_f32_16",
      ...Array.from({ length: 3 }, () => "linear_f32_16x16"),
      "store_kv_f32_1x1x16",
      "paged_attention_f32_1x1x16",
    ]);
  });
});
