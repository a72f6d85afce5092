import { describe, expect, it } from "vitest";
import { NOT_DONE } from "../../models/families.ts";
import { llama } from "../../models/llama.ts";
import { PRESET_NAMES, presetConfig } from "../../models/presets.ts";
import { ARCHITECTURES, findArchitecture, registerArchitecture } from "../../models/registry.ts";

describe("the registry", () => {
  it("finds every architecture by its name", () => {
    for (const architecture of ARCHITECTURES) expect(findArchitecture({ architectures: [architecture.name] })).toBe(architecture);
  });

  it("takes the first name of several that it knows", () => {
    const architectures = ["Unheard", "Qwen3ForCausalLM", "LlamaForCausalLM"];
    expect(findArchitecture({ architectures }).name).toBe("Qwen3ForCausalLM");
    expect(findArchitecture({ architectures: architectures.toReversed() }).name).toBe("LlamaForCausalLM");
  });

  it("lists the known names and how to add one when it does not know a model", () => {
    expect(() => findArchitecture({ architectures: ["GPT2LMHeadModel"] })).toThrow(
      /"GPT2LMHeadModel" is not known\. Known: LlamaForCausalLM, .*\. To add one, .*defineArchitecture/,
    );
    expect(() => findArchitecture({ model_type: "llama" })).toThrow(
      /expected a list naming one of Llama.*\(model_type is "llama"\)/,
    );
    expect(() => findArchitecture("{}")).toThrow(/config\.json: the file/);
    expect(() => findArchitecture({ architectures: "LlamaForCausalLM" })).toThrow(
      /^config\.json: architectures: .* expected array, received string; found "LlamaForCausalLM"$/,
    );
  });

  it("says of an architecture that is not done why", () => {
    expect(() => findArchitecture({ architectures: ["DeepseekV3ForCausalLM"] })).toThrow(
      /"DeepseekV3ForCausalLM": .*latent cache/,
    );
    expect(() => findArchitecture({ architectures: ["Qwen3_5ForCausalLM"] })).toThrow(/not a KV cache/);
    expect(() => findArchitecture({ architectures: ["Gemma3ForConditionalGeneration"] })).toThrow(/images or sound/);
    for (const { name } of ARCHITECTURES) expect(NOT_DONE).not.toHaveProperty(name);
  });

  it.each([
    [
      "DeepSeek-R1-Distill-Qwen-1.5B",
      {
        architectures: ["Qwen2ForCausalLM"],
        attention_dropout: 0,
        bos_token_id: 151643,
        eos_token_id: 151643,
        hidden_act: "silu",
        hidden_size: 1536,
        initializer_range: 0.02,
        intermediate_size: 8960,
        max_position_embeddings: 131072,
        max_window_layers: 21,
        model_type: "qwen2",
        num_attention_heads: 12,
        num_hidden_layers: 28,
        num_key_value_heads: 2,
        rms_norm_eps: 1e-6,
        rope_theta: 10000,
        sliding_window: 4096,
        tie_word_embeddings: false,
        torch_dtype: "bfloat16",
        use_cache: true,
        use_mrope: false,
        use_sliding_window: false,
        vocab_size: 151936,
      },
      1_777_088_000,
    ],
    [
      "DeepSeek-R1-Distill-Llama-8B",
      {
        architectures: ["LlamaForCausalLM"],
        attention_bias: false,
        bos_token_id: 128000,
        eos_token_id: 128001,
        hidden_act: "silu",
        hidden_size: 4096,
        intermediate_size: 14336,
        max_position_embeddings: 131072,
        mlp_bias: false,
        model_type: "llama",
        num_attention_heads: 32,
        num_hidden_layers: 32,
        num_key_value_heads: 8,
        pretraining_tp: 1,
        rms_norm_eps: 1e-5,
        rope_scaling: {
          factor: 8,
          high_freq_factor: 4,
          low_freq_factor: 1,
          original_max_position_embeddings: 8192,
          rope_type: "llama3",
        },
        rope_theta: 500000,
        tie_word_embeddings: false,
        torch_dtype: "bfloat16",
        use_cache: true,
        vocab_size: 128256,
      },
      8_030_261_248,
    ],
  ])("reads %s as what it was distilled into", (_, config, parameters) => {
    expect(findArchitecture(config).readConfig(config).numParameters).toBe(parameters);
  });

  it("prefers an architecture registered with it, and refuses another one of that name", () => {
    for (const name of ["LlamaForCausalLM", "DeepseekV3ForCausalLM"]) {
      const own = { ...llama, name };
      registerArchitecture(own);
      registerArchitecture(own);
      expect(findArchitecture({ architectures: [name] })).toBe(own);
      expect(() => registerArchitecture({ ...own })).toThrow(`${name} is registered already, as another architecture`);
    }
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
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "glm-4-9b": 9_400_279_040,
    "phi-3-mini": 3_821_079_552,
    "phi-4": 14_659_507_200,
    "opt-125m": 125_239_296,
    "opt-350m": 331_196_416,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    "mixtral-8x7b": 46_702_792_704,
    "gpt-oss-20b": 20_914_757_184,
    // 110 468 824 832 with the layer that predicts a further token.
    "glm-4.5-air": 106_852_251_264,
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
