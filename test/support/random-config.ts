/**
 * Configurations nobody publishes, of every family: sizes uneven on purpose, options on and off.
 */
import type { SeededRandom } from "./seeded-random.ts";

type ConfigJson = Readonly<Record<string, unknown>>;

/** A config.json of each family, by the first part of its architecture's name. */
const families = {
  Llama: (random, common) => ({
    ...common,
    rope_scaling: random.pick([common.rope_scaling, common.rope_scaling, longrope(random, common.head_dim as number)]),
    attention_bias: flip(random),
    mlp_bias: flip(random),
  }),
  Mistral: (random, common) => ({ ...common, sliding_window: maybeWindow(random) }),
  Qwen2: (random, common) => ({ ...common, ...qwenWindows(random) }),
  Qwen3: (random, common) => ({ ...common, ...qwenWindows(random), attention_bias: flip(random) }),
  Olmo2: (random, common) => ({ ...common, attention_bias: flip(random) }),
  Glm: (random, common) => ({ ...common, ...glmRotation(random), attention_bias: flip(random) }),
  Glm4: (random, common) => ({ ...common, ...glmRotation(random), attention_bias: flip(random) }),
  Phi3(random, common) {
    const partial = random.pick([1, 0.75, 0.5]);
    return {
      ...common,
      rope_scaling: random.pick([null, longrope(random, partial * (common.head_dim as number))]),
      partial_rotary_factor: partial,
      sliding_window: maybeWindow(random),
    };
  },
  Gemma3: (random, { hidden_act: _, ...common }) => ({
    ...common,
    ...layers(random, 3),
    hidden_activation: "gelu_pytorch_tanh",
    attention_bias: flip(random),
    query_pre_attn_scalar: random.pick([16, 64, 200]),
    sliding_window: random.pick(WINDOWS),
    sliding_window_pattern: 1 + random.below(3),
    final_logit_softcapping: random.pick([null, 5]),
    rope_scaling: random.pick([null, { rope_type: "linear", factor: 8 }]),
    rope_local_base_freq: random.pick([1000, 10000]),
  }),
  OPT(random, common) {
    const hidden = (common.num_attention_heads as number) * random.pick([16, 32, 48, 64]);
    return {
      architectures: common.architectures,
      hidden_size: hidden,
      ffn_dim: common.intermediate_size,
      num_hidden_layers: common.num_hidden_layers,
      num_attention_heads: common.num_attention_heads,
      vocab_size: common.vocab_size,
      max_position_embeddings: common.max_position_embeddings,
      tie_word_embeddings: common.tie_word_embeddings,
      torch_dtype: "float32",
      do_layer_norm_before: flip(random),
      _remove_final_layer_norm: random.below(4) === 0,
      enable_bias: random.below(4) > 0,
      word_embed_proj_dim: random.pick([null, hidden, 48, 100]),
    };
  },
  Mixtral: (random, common) => ({
    ...common,
    ...chosenExperts(random, "num_local_experts", expertNumber(random)),
    sliding_window: maybeWindow(random),
  }),
  Qwen2Moe: (random, common) => ({
    ...common,
    ...qwenWindows(random),
    ...qwenExperts(random),
    shared_expert_intermediate_size: random.pick(EXPERT_WIDTHS),
    qkv_bias: flip(random),
  }),
  Qwen3Moe: (random, common) => ({
    ...common,
    ...qwenWindows(random),
    ...qwenExperts(random),
    attention_bias: flip(random),
  }),
  Glm4Moe(random, common) {
    const groups = random.pick([1, 1, 2, 3, 4]);
    const size = groups === 1 ? expertNumber(random) : random.pick([2, 3, 8]);
    const experts = chosenExperts(random, "n_routed_experts", groups * size);
    const fewest = Math.ceil(experts.num_experts_per_tok / size);
    return {
      ...common,
      ...layers(random, 3),
      ...experts,
      ...glmRotation(random),
      attention_bias: flip(random),
      use_qk_norm: flip(random),
      moe_intermediate_size: random.pick(EXPERT_WIDTHS),
      n_shared_experts: 1 + random.below(2),
      first_k_dense_replace: random.below(3),
      n_group: groups,
      topk_group: fewest + random.below(groups - fewest + 1),
      norm_topk_prob: flip(random),
      routed_scaling_factor: random.pick([1, 1.5, 2.5]),
    };
  },
  GptOss: (random, common) => ({
    ...common,
    ...layers(random, 3),
    ...chosenExperts(random, "num_local_experts", expertNumber(random)),
    rope_scaling: random.pick([
      common.rope_scaling,
      { rope_type: "yarn", factor: 4, original_max_position_embeddings: 64, truncate: false },
    ]),
    attention_bias: flip(random),
    sliding_window: random.pick(WINDOWS),
    swiglu_limit: random.pick([0.5, 7]),
  }),
} satisfies Record<string, (random: SeededRandom, common: ConfigJson) => ConfigJson>;

export type RandomFamily = keyof typeof families;

export const RANDOM_FAMILIES = Object.keys(families) as RandomFamily[];

/** The families without experts whose layers are Llama's. */
export const DENSE_RANDOM_FAMILIES: readonly RandomFamily[] = ["Llama", "Mistral", "Qwen2", "Qwen3"];

/** A config.json of a family. */
export function randomConfig(random: SeededRandom, family: RandomFamily): ConfigJson {
  const kvHeads = random.pick([1, 1, 2, 3]);
  const common = {
    architectures: [`${family}ForCausalLM`],
    hidden_size: random.pick([16, 48, 64, 80, 100, 144, 200, 528]),
    intermediate_size: random.pick([33, 64, 100, 160, 250, 600]),
    hidden_act: "silu",
    ...layers(random, 2),
    num_attention_heads: kvHeads * random.pick([1, 2, 3, 4, 7]),
    num_key_value_heads: kvHeads,
    head_dim: random.pick([16, 32, 64, 80, 96, 128]),
    vocab_size: random.pick([97, 130, 257, 512, 1001]),
    max_position_embeddings: 256,
    rms_norm_eps: random.pick([1e-6, 1e-5]),
    tie_word_embeddings: flip(random),
    bos_token_id: 1, // families have their own, beyond these vocabularies
    eos_token_id: 2,
    torch_dtype: "float32",
    rope_theta: random.pick([1000, 10000, 1e6]),
    rope_scaling: random.pick([
      null,
      null,
      { rope_type: "linear", factor: 3 },
      { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 64 },
      { rope_type: "yarn", factor: 4, original_max_position_embeddings: 64 },
    ]),
  };
  return families[family](random, common);
}

const WINDOWS = [1, 5, 24, 33, 100];
const EXPERT_WIDTHS = [16, 33, 48, 96, 130];

const flip = (random: SeededRandom): boolean => random.below(2) === 0;
const maybeWindow = (random: SeededRandom): number | null => (flip(random) ? random.pick(WINDOWS) : null);
const layers = (random: SeededRandom, most: number) => ({ num_hidden_layers: 1 + random.below(most) });

function qwenWindows(random: SeededRandom) {
  const window = maybeWindow(random);
  return { use_sliding_window: window !== null, sliding_window: window, max_window_layers: random.below(2) };
}

/** A rotation of `dim` elements of each head whose frequencies are others beyond a few tokens. */
function longrope(random: SeededRandom, dim: number) {
  const factors = (most: number) => Array.from({ length: dim / 2 }, (_, i) => 1 + ((most - 1) * i) / dim);
  const original_max_position_embeddings = random.pick([20, 64]);
  return { type: "longrope", original_max_position_embeddings, short_factor: factors(1.5), long_factor: factors(9) };
}

const glmRotation = (random: SeededRandom) => random.pick([{}, { partial_rotary_factor: 1 }, { partial_rotary_factor: 0.25 }]);

/** From one expert to more than a step has tokens. */
const expertNumber = (random: SeededRandom): number => random.pick([1, 2, 3, 5, 8, 17, 64]);

const chosenExperts = (random: SeededRandom, field: string, count: number) => ({
  [field]: count,
  num_experts_per_tok: 1 + random.below(Math.min(count, 5)),
});

const qwenExperts = (random: SeededRandom) => ({
  ...layers(random, 3),
  ...chosenExperts(random, "num_experts", expertNumber(random)),
  moe_intermediate_size: random.pick(EXPERT_WIDTHS),
  norm_topk_prob: flip(random),
  decoder_sparse_step: 1 + random.below(2),
  mlp_only_layers: random.pick([[], [0]]),
});
