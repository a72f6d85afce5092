import { describe, expect, it } from "vitest";
import { computeDType, defineArchitecture } from "../../compiler/architecture.ts";
import { buildDecoder, type DecoderConfig } from "../../models/decoder.ts";
import { qwen3 } from "../../models/qwen3.ts";

const json = {
  hidden_size: 8,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 4,
  vocab_size: 32,
  max_position_embeddings: 64,
  dtype: "bfloat16",
};

describe("an architecture", () => {
  it("knows its weights from the graph it builds: matrices in the compute dtype, gains in f32", () => {
    const config = qwen3.readConfig(json);
    const weights = qwen3.weights(config);
    expect(weights).toHaveLength(2 * 11 + 3);
    expect(weights).toContainEqual({ name: "model.layers.1.self_attn.k_proj.weight", dtype: "bf16", shape: [8, 8] });
    expect(weights).toContainEqual({ name: "model.layers.1.self_attn.k_norm.weight", dtype: "f32", shape: [4] });
    expect(weights).toContainEqual({ name: "lm_head.weight", dtype: "bf16", shape: [32, 8] });
    const f16 = qwen3.weights({ ...config, dtype: "float16" });
    expect(f16.filter((w) => w.dtype === "f16")).toHaveLength(weights.filter((w) => w.dtype === "bf16").length);
  });

  it("counts its parameters, a tied table once", () => {
    const layer = 8 * (16 + 8 + 8) + 16 * 8 + 2 * 4 + 3 * 8 * 24 + 2 * 8;
    const rest = 32 * 8 + 8;
    expect(qwen3.readConfig({ ...json, tie_word_embeddings: true }).numParameters).toBe(2 * layer + rest);
    expect(qwen3.readConfig(json).numParameters).toBe(2 * layer + rest + 32 * 8);
  });

  it("is defined by a reader and a builder", () => {
    const own = defineArchitecture<DecoderConfig>({
      name: "OwnForCausalLM",
      readConfig: (config) => ({ ...qwen3.readConfig(config), qkNorm: null }),
      build: buildDecoder,
    });
    const config = own.readConfig(json);
    expect(config.architecture).toBe("OwnForCausalLM");
    expect(config.numParameters).toBe(qwen3.readConfig(json).numParameters - 2 * 2 * 4);
  });

  it("computes in the dtype config.json names", () => {
    expect(["float32", "float16", "bfloat16"].map((d) => computeDType(d as "float32"))).toEqual(["f32", "f16", "bf16"]);
  });
});
