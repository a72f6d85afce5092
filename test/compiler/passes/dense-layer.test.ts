import { describe, expect, it } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import { printGraph } from "../../../compiler/ir/print.ts";
import { runPasses } from "../../../compiler/passes/pass.ts";
import { passesFor } from "../../../compiler/pipeline.ts";
import { qwen2 } from "../../../models/qwen2.ts";
import { qwen3 } from "../../../models/qwen3.ts";

const json = {
  hidden_size: 8,
  intermediate_size: 24,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 4,
  vocab_size: 32,
  max_position_embeddings: 64,
  torch_dtype: "bfloat16",
  tie_word_embeddings: true,
};

const bf16Inputs = passesFor({ linearInput: (w) => (w === "bf16" ? "bf16" : "f32") });

describe("a dense layer after all passes", () => {
  it("is one projection for q, k and v, one for gate and up, each behind a cast where the target asks for one", () => {
    const g = new Graph({ maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16, blockSize: 16 });
    qwen3.build(qwen3.readConfig(json), g);
    const { graph } = runPasses(g, bf16Inputs);
    expect(printGraph(graph)).toMatchInlineSnapshot(`
      "%0 = weight model.embed_tokens.weight : bf16(32, 8)
      %1 = input positions : i32(T)
      %2 = rope_angles %1 invFreq=1.000000…0.01000000 : f32(T, 4)
      %3 = input token_ids : i32(T)
      %4 = embedding %3 %0 : f32(T, 8)
      %5 = weight model.layers.0.input_layernorm.weight : f32(8)
      %6 = rms_norm %4 %5 eps=0.000001 : f32(T, 8)
      %7 = weight model.layers.0.self_attn.q_proj.weight : bf16(16, 8)
      %8 = weight model.layers.0.self_attn.k_proj.weight : bf16(8, 8)
      %9 = weight model.layers.0.self_attn.v_proj.weight : bf16(8, 8)
      %10 = concat %7 %8 %9 axis=0 : bf16(32, 8)
      %11 = cast %6 bf16 : bf16(T, 8)
      %12 = linear %11 %10 : f32(T, 32)
      %13 = slice %12 axis=1 0…15 : f32(T, 16)
      %14 = slice %12 axis=1 16…23 : f32(T, 8)
      %15 = slice %12 axis=1 24…31 : f32(T, 8)
      %16 = reshape %13 : f32(T, 4, 4)
      %17 = weight model.layers.0.self_attn.q_norm.weight : f32(4)
      %18 = rms_norm %16 %17 eps=0.000001 : f32(T, 4, 4)
      %19 = rope %18 %2 half : f32(T, 4, 4)
      %20 = reshape %14 : f32(T, 2, 4)
      %21 = weight model.layers.0.self_attn.k_norm.weight : f32(4)
      %22 = rms_norm %20 %21 eps=0.000001 : f32(T, 2, 4)
      %23 = rope %22 %2 half : f32(T, 2, 4)
      %24 = kv_cache layer=0 : bf16(2, 2, 4)
      %25 = reshape %15 : f32(T, 2, 4)
      %26 = input seq_ids : i32(T)
      %27 = input block_tables : i32(B, P)
      %28 = store_kv %24 %23 %25 %1 %26 %27 : bf16(2, 2, 4)
      %29 = paged_attention %19 %28 %1 %26 %27 scale=0.5 : f32(T, 4, 4)
      %30 = input sample_rows : i32(S)
      %31 = gather_rows %4 %30 : f32(S, 8)
      %32 = gather_rows %29 %30 : f32(S, 4, 4)
      %33 = reshape %32 : f32(S, 16)
      %34 = weight model.layers.0.self_attn.o_proj.weight : bf16(8, 16)
      %35 = cast %33 bf16 : bf16(S, 16)
      %36 = linear %35 %34 : f32(S, 8)
      %37 = add %31 %36 : f32(S, 8)
      %38 = weight model.layers.0.post_attention_layernorm.weight : f32(8)
      %39 = rms_norm %37 %38 eps=0.000001 : f32(S, 8)
      %40 = weight model.layers.0.mlp.gate_proj.weight : bf16(24, 8)
      %41 = weight model.layers.0.mlp.up_proj.weight : bf16(24, 8)
      %42 = concat %40 %41 axis=0 : bf16(48, 8)
      %43 = cast %39 bf16 : bf16(S, 8)
      %44 = linear %43 %42 : f32(S, 48)
      %45 = slice %44 axis=1 0…23 : f32(S, 24)
      %46 = slice %44 axis=1 24…47 : f32(S, 24)
      %47 = silu %45 : f32(S, 24)
      %48 = mul %47 %46 : f32(S, 24)
      %49 = weight model.layers.0.mlp.down_proj.weight : bf16(8, 24)
      %50 = cast %48 bf16 : bf16(S, 24)
      %51 = linear %50 %49 : f32(S, 8)
      %52 = add %37 %51 : f32(S, 8)
      %53 = weight model.norm.weight : f32(8)
      %54 = rms_norm %52 %53 eps=0.000001 : f32(S, 8)
      %55 = cast %54 bf16 : bf16(S, 8)
      %56 = linear %55 %0 : f32(S, 32)
      tap hidden.0 %4
      tap hidden.1 %54
      logits %56
      "
    `);
  });

  it("keeps q, k and v biases as one vector before the slices", () => {
    const g = new Graph({ maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16, blockSize: 16 });
    qwen2.build(qwen2.readConfig({ ...json, torch_dtype: "float32" }), g);
    const { graph } = runPasses(g, passesFor({ linearInput: () => "f32" }));
    expect(printGraph(graph).split("\n").slice(0, 26).join("\n")).toMatchInlineSnapshot(`
      "%0 = weight model.embed_tokens.weight : f32(32, 8)
      %1 = input positions : i32(T)
      %2 = rope_angles %1 invFreq=1.000000…0.01000000 : f32(T, 4)
      %3 = input token_ids : i32(T)
      %4 = embedding %3 %0 : f32(T, 8)
      %5 = weight model.layers.0.input_layernorm.weight : f32(8)
      %6 = rms_norm %4 %5 eps=0.000001 : f32(T, 8)
      %7 = weight model.layers.0.self_attn.q_proj.weight : f32(16, 8)
      %8 = weight model.layers.0.self_attn.q_proj.bias : f32(16)
      %9 = weight model.layers.0.self_attn.k_proj.weight : f32(8, 8)
      %10 = weight model.layers.0.self_attn.v_proj.weight : f32(8, 8)
      %11 = concat %7 %9 %10 axis=0 : f32(32, 8)
      %12 = linear %6 %11 : f32(T, 32)
      %13 = weight model.layers.0.self_attn.k_proj.bias : f32(8)
      %14 = weight model.layers.0.self_attn.v_proj.bias : f32(8)
      %15 = concat %8 %13 %14 axis=0 : f32(32)
      %16 = add %12 %15 : f32(T, 32)
      %17 = slice %16 axis=1 0…15 : f32(T, 16)
      %18 = slice %16 axis=1 16…23 : f32(T, 8)
      %19 = slice %16 axis=1 24…31 : f32(T, 8)
      %20 = reshape %17 : f32(T, 4, 4)
      %21 = rope %20 %2 half : f32(T, 4, 4)
      %22 = reshape %18 : f32(T, 2, 4)
      %23 = rope %22 %2 half : f32(T, 2, 4)
      %24 = kv_cache layer=0 : f32(2, 2, 4)
      %25 = reshape %19 : f32(T, 2, 4)"
    `);
  });

  it("still points at the model path and source line of every projection it fused", () => {
    const g = new Graph({ maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16, blockSize: 16 });
    qwen3.build(qwen3.readConfig(json), g);
    const { graph } = runPasses(g, bf16Inputs);
    const qkv = graph.liveNodes().find((n) => n.op === "linear")!;
    expect(graph.originText(qkv)).toMatch(
      /^layers\.0\.self_attn\.q_proj \+ layers\.0\.self_attn\.k_proj \+ layers\.0\.self_attn\.v_proj \(models\/layers\.ts:\d+\)$/,
    );
  });
});
