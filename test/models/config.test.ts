import { describe, expect, it } from "vitest";
import type { DecoderConfig } from "../../models/decoder.ts";
import { llama } from "../../models/llama.ts";
import { mistral } from "../../models/mistral.ts";
import { PRESET_NAMES, presetConfig } from "../../models/presets.ts";
import { qwen2 } from "../../models/qwen2.ts";
import { qwen3 } from "../../models/qwen3.ts";
import { ARCHITECTURES, findArchitecture } from "../../models/registry.ts";
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
    expect(qwen3.readConfig(json)).toMatchObject({ headDim: 128, qkNorm: true, bosTokenId: null, eosTokenIds: [] });
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
    [{ vocab_size: undefined }, /config\.json: vocab_size: .*found nothing/],
    [{ vocab_size: 1e12 }, /config\.json: vocab_size: .*found 1000000000000/],
    [{ num_attention_heads: 5 }, /num_attention_heads: expected a multiple of num_key_value_heads \(2\); found 5/],
    [{ hidden_size: 66 }, /hidden_size: expected a multiple of num_attention_heads \(4\) where head_dim is absent; found 66/],
    [{ hidden_act: "gelu" }, /hidden_act: expected "silu"; found "gelu"/],
    [{ torch_dtype: "int8" }, /torch_dtype: expected float32, float16 or bfloat16; found "int8"/],
    [{ quantization_config: { quant_method: "awq" } }, /quantization_config: the checkpoint is quantized \("awq"\)/],
    [
      { rope_scaling: { type: "dynamic", factor: 2 } },
      /rope_scaling\.rope_type: expected one of default, linear, llama3, yarn; found "dynamic"/,
    ],
    [{ rope_parameters: { rope_type: "longrope" } }, /rope_parameters\.rope_type: expected one of .*; found "longrope"/],
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

describe("the registry", () => {
  it("finds every architecture by its name", () => {
    for (const architecture of ARCHITECTURES) expect(findArchitecture({ architectures: [architecture.name] })).toBe(architecture);
  });

  it("lists the known names and how to add one when it does not know a model", () => {
    expect(() => findArchitecture({ architectures: ["GPT2LMHeadModel"] })).toThrow(
      /"GPT2LMHeadModel" is not known\. Known: LlamaForCausalLM, .*\. To add one, .*defineArchitecture/,
    );
    expect(() => findArchitecture({ model_type: "llama" })).toThrow(
      /expected a list naming one of Llama.*\(model_type is "llama"\)/,
    );
    expect(() => findArchitecture("{}")).toThrow(/config\.json: the file/);
  });

  it("prefers an architecture handed to it", () => {
    const own = { ...llama };
    expect(findArchitecture({ architectures: ["LlamaForCausalLM"] }, [own])).toBe(own);
  });
});

describe("presets", () => {
  // As the published model cards count them.
  const parameters: Record<string, number> = {
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.1-8b": 8_030_261_248,
    "mistral-7b": 7_248_023_552,
    "qwen2.5-0.5b": 494_032_768,
  };

  it("have the parameters of the models they are named after", () => {
    const counted = PRESET_NAMES.map((name) => {
      const config = presetConfig(name);
      return [name, findArchitecture(config).readConfig(config).numParameters];
    });
    expect(Object.fromEntries(counted)).toEqual(parameters);
  });

  it("are listed when a name is unknown", () => {
    expect(() => presetConfig("qwen3-9b")).toThrow(/no preset is called "qwen3-9b"; expected one of qwen3-0\.6b, /);
  });
});
