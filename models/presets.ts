/**
 * Published models' true shapes, as their config.json states them: for `--weights random`, which measures speed without a download.
 * No weights, no tokenizers.
 */
import { CompileError } from "../compiler/errors.ts";

type ConfigJson = Readonly<Record<string, unknown>>;

const qwen3Common = {
  architectures: ["Qwen3ForCausalLM"],
  model_type: "qwen3",
  attention_bias: false,
  bos_token_id: 151643,
  eos_token_id: 151645,
  head_dim: 128,
  hidden_act: "silu",
  max_position_embeddings: 40960,
  num_key_value_heads: 8,
  rms_norm_eps: 1e-6,
  rope_scaling: null,
  rope_theta: 1000000,
  sliding_window: null,
  torch_dtype: "bfloat16",
  use_sliding_window: false,
  vocab_size: 151936,
};

const llama3Common = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  attention_bias: false,
  bos_token_id: 128000,
  eos_token_id: [128001, 128008, 128009],
  hidden_act: "silu",
  max_position_embeddings: 131072,
  mlp_bias: false,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  torch_dtype: "bfloat16",
  vocab_size: 128256,
};

const llama3Scaling = (factor: number) => ({
  factor,
  high_freq_factor: 4,
  low_freq_factor: 1,
  original_max_position_embeddings: 8192,
  rope_type: "llama3",
});

const presets: Readonly<Record<string, ConfigJson>> = {
  "qwen3-0.6b": {
    ...qwen3Common,
    hidden_size: 1024,
    intermediate_size: 3072,
    num_attention_heads: 16,
    num_hidden_layers: 28,
    tie_word_embeddings: true,
  },
  "qwen3-1.7b": {
    ...qwen3Common,
    hidden_size: 2048,
    intermediate_size: 6144,
    num_attention_heads: 16,
    num_hidden_layers: 28,
    tie_word_embeddings: true,
  },
  "qwen3-4b": {
    ...qwen3Common,
    hidden_size: 2560,
    intermediate_size: 9728,
    num_attention_heads: 32,
    num_hidden_layers: 36,
    tie_word_embeddings: true,
  },
  "qwen3-8b": {
    ...qwen3Common,
    hidden_size: 4096,
    intermediate_size: 12288,
    num_attention_heads: 32,
    num_hidden_layers: 36,
    tie_word_embeddings: false,
  },
  "llama-3.2-1b": {
    ...llama3Common,
    head_dim: 64,
    hidden_size: 2048,
    intermediate_size: 8192,
    num_hidden_layers: 16,
    rope_scaling: llama3Scaling(32),
    tie_word_embeddings: true,
  },
  "llama-3.1-8b": {
    ...llama3Common,
    hidden_size: 4096,
    intermediate_size: 14336,
    num_hidden_layers: 32,
    rope_scaling: llama3Scaling(8),
    tie_word_embeddings: false,
  },
  // v0.3
  "mistral-7b": {
    architectures: ["MistralForCausalLM"],
    model_type: "mistral",
    bos_token_id: 1,
    eos_token_id: 2,
    hidden_act: "silu",
    hidden_size: 4096,
    intermediate_size: 14336,
    max_position_embeddings: 32768,
    num_attention_heads: 32,
    num_hidden_layers: 32,
    num_key_value_heads: 8,
    rms_norm_eps: 1e-5,
    rope_theta: 1000000,
    sliding_window: null,
    tie_word_embeddings: false,
    torch_dtype: "bfloat16",
    vocab_size: 32768,
  },
  "qwen2.5-0.5b": {
    architectures: ["Qwen2ForCausalLM"],
    model_type: "qwen2",
    bos_token_id: 151643,
    eos_token_id: 151645,
    hidden_act: "silu",
    hidden_size: 896,
    intermediate_size: 4864,
    max_position_embeddings: 32768,
    max_window_layers: 21,
    num_attention_heads: 14,
    num_hidden_layers: 24,
    num_key_value_heads: 2,
    rms_norm_eps: 1e-6,
    rope_theta: 1000000,
    sliding_window: 32768,
    tie_word_embeddings: true,
    torch_dtype: "bfloat16",
    use_sliding_window: false,
    vocab_size: 151936,
  },
};

/** The presets' names. */
export const PRESET_NAMES: readonly string[] = Object.keys(presets);

/** The config.json of a preset. Throws `CompileError` listing the names when there is none of that name. */
export function presetConfig(name: string): ConfigJson {
  const config = Object.hasOwn(presets, name) ? presets[name] : undefined;
  if (!config) throw new CompileError(`no preset is called "${name}"; expected one of ${PRESET_NAMES.join(", ")}`);
  return config;
}
