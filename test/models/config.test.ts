import { describe, expect, it } from "vitest";
import type { Architecture } from "../../compiler/architecture.ts";
import type { DecoderConfig } from "../../models/decoder.ts";
import { gemma3 } from "../../models/gemma3.ts";
import { glm, glm4 } from "../../models/glm4.ts";
import { glm4Moe } from "../../models/glm4-moe.ts";
import { gptOss } from "../../models/gpt-oss.ts";
import { llama } from "../../models/llama.ts";
import { mistral } from "../../models/mistral.ts";
import { opt } from "../../models/opt.ts";
import { phi3 } from "../../models/phi3.ts";
import { qwen2 } from "../../models/qwen2.ts";
import { qwen2Moe } from "../../models/qwen2-moe.ts";
import { qwen3 } from "../../models/qwen3.ts";
import { qwen3Moe } from "../../models/qwen3-moe.ts";
import { findArchitecture } from "../../models/registry.ts";
import { FAMILIES, hasGolden, readJson } from "../support/golden.ts";

const json = {
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 512,
  max_position_embeddings: 512,
};

const windowsOf = (config: DecoderConfig) => config.layers.map(({ window }) => window);

describe.skipIf(!hasGolden)("both spellings of config.json", () => {
  it.each(FAMILIES)("read alike for %s", (family) => {
    const [v5, v4] = ["config.json", "config.v4.json"].map((file) => readJson(family, file));
    const architecture = findArchitecture(v5);
    expect(architecture.readConfig(v4)).toEqual(architecture.readConfig(v5));
  });
});

/** A factor for each pair of a head of 16. */
const eight = [1, 2, 3, 4, 5, 6, 7, 8];

describe("config.json", () => {
  it("may leave out what the family defines", () => {
    expect(llama.readConfig({ ...json, num_key_value_heads: undefined })).toMatchObject({
      architecture: "LlamaForCausalLM",
      headDim: 16,
      numKvHeads: 4,
      tieWordEmbeddings: false,
      dtype: "float32",
      bosTokenId: 1,
      eosTokenIds: [2],
      rmsNormEps: 1e-6,
      layers: new Array(3).fill({ rope: { theta: 10000, dim: 16, style: "half", scaling: { type: "default" } } }),
    });
    expect(qwen2.readConfig({ ...json, num_key_value_heads: null, head_dim: null })).toMatchObject({
      numKvHeads: 4,
      headDim: 16,
    });
    expect(qwen3.readConfig(json)).toMatchObject({ headDim: 128, qkNorm: "heads", bosTokenId: null, eosTokenIds: [] });
    expect(windowsOf(mistral.readConfig(json))).toEqual([4096, 4096, 4096]);
    expect(windowsOf(mistral.readConfig({ ...json, sliding_window: null }))).toEqual([null, null, null]);
  });

  it("gives biases, end tokens, dtype and tied embeddings as it states them", () => {
    const config = llama.readConfig({
      ...json,
      attention_bias: true,
      mlp_bias: true,
      eos_token_id: [7, 9],
      torch_dtype: "torch.float16",
      tie_word_embeddings: true,
    });
    expect(config).toMatchObject({ qkvBias: true, outputBias: true, eosTokenIds: [7, 9], dtype: "float16" });
    const names = llama.weights(config).map((w) => w.name);
    expect(names).toContain("model.layers.2.self_attn.o_proj.bias");
    expect(names).toContain("model.layers.0.mlp.down_proj.bias");
    expect(names).not.toContain("lm_head.weight");
  });

  it("lets Qwen2 slide from max_window_layers on, only where use_sliding_window says so", () => {
    const sliding = { ...json, sliding_window: 24, max_window_layers: 1 };
    expect(windowsOf(qwen2.readConfig({ ...sliding, use_sliding_window: true }))).toEqual([null, 24, 24]);
    expect(windowsOf(qwen2.readConfig(sliding))).toEqual([null, null, null]);
    const typed = {
      ...sliding,
      use_sliding_window: true,
      layer_types: ["sliding_attention", "full_attention", "full_attention"],
    };
    expect(windowsOf(qwen2.readConfig(typed))).toEqual([24, null, null]);
  });

  it("reaches as far as YaRN stretches it", () => {
    const yarn = { type: "yarn", factor: 4, original_max_position_embeddings: 512 };
    expect(qwen2.readConfig({ ...json, rope_scaling: yarn }).maxPositionEmbeddings).toBe(2048);
  });

  it.each([
    [{ hidden_size: "64" }, /config\.json: hidden_size: .*expected.* found "64"/],
    [{ num_hidden_layers: 0 }, /config\.json: num_hidden_layers: .*found 0/],
    [
      { vocab_size: undefined },
      /config\.json: vocab_size: expected number; found nothing: give it, or have the schema say .*\.default/,
    ],
    [
      { vocab_size: undefined, vocab_sizes: 96 },
      /config\.json: vocab_size: expected number; found nothing: is vocab_sizes meant\?/,
    ],
    [{ vocab_size: 1e12 }, /config\.json: vocab_size: .*found 1000000000000/],
    [{ num_attention_heads: 5 }, /num_attention_heads: expected a multiple of num_key_value_heads \(2\); found 5/],
    [{ hidden_size: 66 }, /hidden_size: expected a multiple of num_attention_heads \(4\) where head_dim is absent; found 66/],
    [{ hidden_act: "gelu" }, /hidden_act: expected "silu"; found "gelu"/],
    [{ torch_dtype: "int8" }, /torch_dtype: expected float32, float16 or bfloat16; found "int8"/],
    [{ quantization_config: { quant_method: "awq" } }, /quantization_config: the checkpoint is quantized \("awq"\)/],
    [
      { rope_scaling: { type: "dynamic", factor: 2 } },
      /rope_scaling\.rope_type: expected one of default, linear, llama3, yarn, longrope; found "dynamic"/,
    ],
    [{ rope_parameters: { rope_type: "longrope" } }, /rope_parameters\.short_factor: .*found nothing/],
    [
      { rope_scaling: { type: "su", short_factor: eight, long_factor: eight.slice(1) } },
      /rope_scaling\.long_factor: expected 8 numbers, one for two of 16 rotated elements; found 7/,
    ],
    [
      { rope_scaling: { type: "longrope", short_factor: eight, long_factor: eight.with(3, 0) } },
      /rope_scaling\.long_factor\.3: .*found 0/,
    ],
    [
      { rope_scaling: { type: "longrope", short_factor: eight, long_factor: eight }, original_max_position_embeddings: 1 },
      /original_max_position_embeddings: expected at least 2; found 1/,
    ],
    [{ rope_parameters: { rope_type: "constructor" } }, /rope_parameters\.rope_type: expected one of .*; found "constructor"/],
    [{ rope_scaling: { type: "linear" } }, /config\.json: rope_scaling\.factor: .*found nothing/],
    [{ rope_scaling: { type: "linear", factor: -2 } }, /config\.json: rope_scaling\.factor: .*found -2/],
    [{ rope_theta: 1 }, /config\.json: rope_theta: .*found 1/],
    [
      { rope_scaling: { type: "yarn", factor: 60000, original_max_position_embeddings: 100000 } },
      /rope_scaling\.factor: expected at most 67108864 positions; found 100000 · 60000/,
    ],
    [{ head_dim: 15 }, /head_dim: expected an even number of rotated elements; found 15 of 15/],
  ])("%j is refused by name, with what was found", (change, message) => {
    expect(() => llama.readConfig({ ...json, ...change })).toThrow(message);
  });

  it("that is no object is refused", () => {
    expect(() => llama.readConfig([])).toThrow(/config\.json: the file: .*found \[\]/);
    expect(() => llama.readConfig(null)).toThrow(/found null/);
  });

  it("whose layer_types do not fit the layers is refused", () => {
    expect(() => qwen3.readConfig({ ...json, layer_types: ["full_attention"] })).toThrow(
      /expected one entry a layer \(3\); found 1/,
    );
    const types = ["full_attention", "sliding_attention", "full_attention"];
    expect(() => qwen3.readConfig({ ...json, layer_types: types })).toThrow(/layer_types\.1: sliding_attention needs/);
  });
});

describe("config.json of a family with experts", () => {
  const experts = { ...json, num_experts_per_tok: 2, moe_intermediate_size: 48 };
  const qwen = { ...experts, num_experts: 8, num_hidden_layers: 6, shared_expert_intermediate_size: 96 };
  const glm = { ...experts, head_dim: 16, n_routed_experts: 8 };
  const kinds = (config: DecoderConfig) => config.layers.map(({ mlp }) => mlp.kind[0]).join("");

  it("says which layers of Qwen have them", () => {
    expect(kinds(qwen3Moe.readConfig(qwen))).toBe("eeeeee");
    expect(kinds(qwen3Moe.readConfig({ ...qwen, decoder_sparse_step: 2 }))).toBe("dedede");
    expect(kinds(qwen2Moe.readConfig({ ...qwen, decoder_sparse_step: 3, mlp_only_layers: [5] }))).toBe("ddeddd");
    expect(kinds(qwen3Moe.readConfig({ ...qwen, num_experts: 0 }))).toBe("dddddd");
  });

  it("keeps the weights of experts as they were scored, unless norm_topk_prob", () => {
    const eps = (config: DecoderConfig) => config.layers.map(({ mlp }) => mlp.kind === "experts" && mlp.router.renormalizeEps)[2];
    expect(eps(qwen3Moe.readConfig(qwen))).toBeNull();
    expect(eps(qwen3Moe.readConfig({ ...qwen, norm_topk_prob: true }))).toBe(0);
    expect(eps(glm4Moe.readConfig(glm))).toBe(1e-20);
    expect(eps(glm4Moe.readConfig({ ...glm, norm_topk_prob: false }))).toBeNull();
  });

  it("lets every other layer of Qwen2-MoE slide below max_window_layers, and all of Qwen3-MoE's", () => {
    const sliding = { ...qwen, use_sliding_window: true, sliding_window: 24, max_window_layers: 4 };
    expect(windowsOf(qwen2Moe.readConfig(sliding))).toEqual([24, null, 24, null, null, null]);
    expect(windowsOf(qwen3Moe.readConfig(sliding))).toEqual(new Array(6).fill(24));
    expect(windowsOf(qwen2Moe.readConfig({ ...qwen, sliding_window: 0 }))).toEqual(new Array(6).fill(null));
  });

  it("starts GLM-4.5 with dense layers, and leaves what predicts further tokens in the checkpoint", () => {
    const config = glm4Moe.readConfig({ ...glm, first_k_dense_replace: 2, num_nextn_predict_layers: 1, use_qk_norm: true });
    expect(kinds(config)).toBe("dde");
    expect(config).toMatchObject({ qkNorm: "heads", qkvBias: false, layers: [{ rope: { dim: 8, style: "half" } }, {}, {}] });
    expect(glm4Moe.unusedTensors?.(config)).toEqual([{ prefix: "model.layers.3.", why: expect.stringContaining("layer 3") }]);
  });

  it("of gpt-oss has YaRN to 32 times 4096 positions unless it says otherwise", () => {
    const config = gptOss.readConfig({ ...experts, num_local_experts: 4 });
    expect(config).toMatchObject({ maxPositionEmbeddings: 131072, headDim: 64, numKvHeads: 2 });
    expect(config.layers[0]).toMatchObject({ window: 128, rope: { theta: 150000, scaling: { type: "yarn", truncate: false } } });
    expect(config.layers[1]).toMatchObject({ window: null });
  });

  it.each<[Architecture, object, RegExp]>([
    [qwen3Moe, { ...qwen, num_experts: undefined }, /num_experts: expected a number of experts; found nothing/],
    [qwen3Moe, { ...qwen, num_experts_per_tok: 9 }, /num_experts_per_tok: expected at most num_experts \(8\); found 9/],
    [qwen3Moe, { ...qwen, num_experts: 1e6 }, /config\.json: num_experts: .*found 1000000/],
    [qwen3Moe, { ...qwen, num_experts: 4096, num_hidden_layers: 1000 }, /num_experts: expected at most 131072 experts in all/],
    [qwen2Moe, { ...qwen, shared_expert_intermediate_size: undefined }, /shared_expert_intermediate_size: .*found nothing/],
    [glm4Moe, { ...glm, n_group: 3 }, /n_group: expected equal groups of at least 2 of the 8 experts .*; found 3/],
    [glm4Moe, { ...glm, n_group: 8, topk_group: 4 }, /n_group: expected equal groups of at least 2/],
    [glm4Moe, { ...glm, n_group: 4, topk_group: 5 }, /topk_group: expected at most n_group \(4\).*; found 5/],
    [glm4Moe, { ...glm, n_group: 4, topk_group: 1, num_experts_per_tok: 3 }, /topk_group: .*enough groups of 2 .*; found 1/],
    [
      gptOss,
      { ...experts, num_local_experts: 4, quantization_config: { quant_method: "mxfp4" } },
      /quantization_config: the checkpoint is quantized \("mxfp4"\)/,
    ],
    [gptOss, { ...experts, num_local_experts: 4, layer_types: ["full_attention"] }, /layer_types: expected one entry a layer/],
  ])("is refused by name: %#", (architecture, config, message) => {
    expect(() => architecture.readConfig(config)).toThrow(message);
  });
});

describe("config.json of another family", () => {
  it("of GLM-4 rotates half of each head unless it says otherwise, and norms what layers give only in 0414", () => {
    expect(glm4.readConfig(json)).toMatchObject({ headDim: 128, layers: new Array(3).fill({ rope: { dim: 64 } }) });
    expect(glm4.readConfig({ ...json, partial_rotary_factor: 0.25 }).layers[0]).toMatchObject({ rope: { dim: 32 } });
    const names = (architecture: typeof glm4) => architecture.weights(architecture.readConfig(json)).map((w) => w.name);
    const both = names(glm4);
    expect(both.filter((name) => !names(glm).includes(name))).toEqual(
      [0, 1, 2].flatMap((l) => [
        `model.layers.${l}.post_self_attn_layernorm.weight`,
        `model.layers.${l}.post_mlp_layernorm.weight`,
      ]),
    );
  });

  it("of Gemma 3 gives each type of layer its rotation, in both spellings", () => {
    const v4 = {
      ...json,
      head_dim: 16,
      sliding_window_pattern: 3,
      sliding_window: 24,
      rope_scaling: { type: "linear", factor: 8 },
    };
    const parameters = { full_attention: { rope_type: "linear", factor: 8, rope_theta: 1e6 }, sliding_attention: null };
    const v5 = { ...json, head_dim: 16, sliding_window: 24, rope_parameters: parameters };
    const types = { layer_types: ["sliding_attention", "sliding_attention", "full_attention"] };
    const config = gemma3.readConfig(v4);
    expect(config.layers).toMatchObject([
      { window: 24, rope: { theta: 10000, scaling: { type: "default" } } },
      { window: 24, rope: { theta: 10000, scaling: { type: "default" } } },
      { window: null, rope: { theta: 1e6, scaling: { type: "linear", factor: 8 } } },
    ]);
    expect(gemma3.readConfig({ ...v5, ...types })).toEqual(config);
  });

  it("of Phi-3 was trained on 4096 positions unless it says otherwise", () => {
    const rope_scaling = { type: "longrope", short_factor: eight, long_factor: eight };
    const beyond = (extra: object) => {
      const [layer] = phi3.readConfig({ ...json, rope_scaling, ...extra }).layers;
      return layer?.rope?.scaling.type === "longrope" && layer.rope.scaling.originalMaxPositionEmbeddings;
    };
    expect(beyond({})).toBe(4096);
    expect(beyond({ original_max_position_embeddings: 64 })).toBe(64);
  });

  it("of OPT says where norms stand and how narrow embeddings are", () => {
    const { intermediate_size: ffn_dim, ...rest } = json;
    const shapes = (config: object) => {
      const weights = opt.weights(opt.readConfig({ ...rest, ffn_dim, ...config }));
      return new Map(weights.map(({ name, shape }) => [name, shape]));
    };
    const before = shapes({});
    expect(before.get("model.decoder.embed_positions.weight")).toEqual([514, 64]);
    expect(before.has("model.decoder.final_layer_norm.weight")).toBe(true);
    expect(shapes({ _remove_final_layer_norm: true }).has("model.decoder.final_layer_norm.weight")).toBe(false);
    const after = shapes({
      do_layer_norm_before: false,
      word_embed_proj_dim: 32,
      tie_word_embeddings: false,
      enable_bias: false,
    });
    expect(after.has("model.decoder.final_layer_norm.weight")).toBe(false);
    expect(after.has("model.decoder.layers.0.fc1.bias")).toBe(false);
    expect(after.get("model.decoder.project_in.weight")).toEqual([64, 32]);
    expect(after.get("model.decoder.project_out.weight")).toEqual([32, 64]);
    expect(after.get("lm_head.weight")).toEqual([512, 32]);
  });

  it.each<[Architecture, object, RegExp]>([
    [gemma3, { attn_logit_softcapping: 50 }, /attn_logit_softcapping: is not done; .*found 50/],
    [gemma3, { use_bidirectional_attention: true }, /use_bidirectional_attention: is not done/],
    [gemma3, { hidden_activation: "gelu" }, /hidden_activation: expected "gelu_pytorch_tanh"; found "gelu"/],
    [gemma3, { rope_parameters: { rope_theta: 10000 } }, /config\.json: rope_parameters: .*rope_theta/],
    [phi3, { sliding_window: 0 }, /sliding_window: .*found 0/],
    [opt, { ffn_dim: undefined }, /ffn_dim: .*found nothing/],
    [opt, { ffn_dim: 160, activation_function: "gelu" }, /activation_function: expected "relu"; found "gelu"/],
    [opt, { ffn_dim: 160, layer_norm_elementwise_affine: false }, /layer_norm_elementwise_affine: expected true; found false/],
    [opt, { ffn_dim: 160, hidden_size: 66 }, /hidden_size: expected a multiple of num_attention_heads \(4\)/],
  ])("is refused by name: %#", (architecture, change, message) => {
    expect(() => architecture.readConfig({ ...json, ...change })).toThrow(message);
  });
});
