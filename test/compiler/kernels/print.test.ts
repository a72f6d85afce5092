import { describe, expect, test } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import { formKernels } from "../../../compiler/kernels/form.ts";
import { printKernels } from "../../../compiler/kernels/print.ts";
import { denseGraph, smallDense } from "../../support/dense-graph.ts";

describe("kernels as text", () => {
  test("are a line each: what it reads, what it writes, its slot as a formula", () => {
    const shape = { ...smallDense, layers: 1, qkNorm: true, bias: true, window: 5 };
    const graph = denseGraph({ ...shape, weightDtype: "bf16", linearInput: "bf16" });
    expect(printKernels(formKernels(graph).kernels)).toMatchInlineSnapshot(`
      "000 embedding_bf16_64(token_ids, embed) -> v2 f32(T, 64)
      001 rope_angles_16(positions) -> v4 f32(T, 32)
      002 rms_norm_bf16_64(v2, 0.norm1) -> v11 bf16(T, 64)
      003 linear_bf16_256x64__bias(v11, 0.q+0.k+0.v, 0.qb+0.kb+0.vb) -> v17 f32(T, 256) = (acc0 + 0.qb+0.kb+0.vb)
      004 norm_rope_store_kv_bf16_4x2x32(v17, 0.qnorm, v4, 0.knorm, v4, kv.0, positions, seq_ids, block_tables) -> v33 f32(T, 128)
      005 paged_attention_bf16_4x2x32_window5(v33, kv.0, positions, seq_ids, block_tables) -> v37 bf16(T, 128)
      006 linear_bf16_64x128__add(v37, 0.o, v2) -> v39 f32(T, 64) = (v2 + acc0)
      007 rms_norm_bf16_64(v39, 0.norm2) -> v45 bf16(T, 64)
      008 linear_bf16_96x64__silu_mul(v45, 0.gate+0.up) -> v52 bf16(T, 96) = (silu(acc0) * acc1)
      009 linear_bf16_64x96__add(v52, 0.down, v39) -> v54 f32(T, 64) = (v39 + acc0)
      010 rms_norm_gather_f32_64(v54, sample_rows, norm) -> v58 f32(S, 64)
      011 elementwise_64(v58) -> v60 bf16(S, 64) = v58
      012 linear_bf16_100x64(v60, head) -> v61 f32(S, 100)
      "
    `);
  });

  test("keep the order of operations and say constants and roundings", () => {
    const g = new Graph({ maxModelLen: 64, maxNumSeqs: 2, maxNumBatchedTokens: 16, blockSize: 16 });
    const x = g.embedding(g.input("token_ids"), g.weight("e", { dtype: "f32", shape: [10, 8] }));
    const scaled = g.mul(g.plus(x, g.constant(0.5)), g.plus(g.silu(x), x));
    g.tap("y", g.plus(g.cast(g.tap("half", g.cast(scaled, "f16")), "bf16"), g.weight("b", { dtype: "f32", shape: [8] })));
    g.setLogits(g.rmsNorm(g.gatherRows(x, g.input("sample_rows")), g.weight("n", { dtype: "f32", shape: [8] }), 1e-6));
    expect(printKernels(formKernels(g).kernels)).toMatchInlineSnapshot(`
      "000 embedding_f32_8(token_ids, e) -> v2 f32(T, 8)
      001 elementwise_8__add(v2) -> v4 f32(T, 8) = (v2 + 0.5)
      002 elementwise_8__silu_add_mul(v2, v4) -> v8 f16(T, 8) = (v4 * (silu(v2) + v2))
      003 elementwise_8__round_bf16_bias(v8, b) -> v11 f32(T, 8) = (round_bf16(v8) + b)
      004 rms_norm_gather_f32_8(v2, sample_rows, n) -> v15 f32(S, 8)
      "
    `);
  });
});
