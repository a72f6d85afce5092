/**
 * What comes with Ingot: a table of families, and one of architectures that are known and not done.
 */
import type { Architecture } from "../compiler/architecture.ts";
import { gemma3 } from "./gemma3.ts";
import { glm, glm4 } from "./glm4.ts";
import { glm4Moe } from "./glm4-moe.ts";
import { gptOss } from "./gpt-oss.ts";
import { llama } from "./llama.ts";
import { mistral } from "./mistral.ts";
import { mixtral } from "./mixtral.ts";
import { olmo2 } from "./olmo2.ts";
import { opt } from "./opt.ts";
import { phi3 } from "./phi3.ts";
import { qwen2 } from "./qwen2.ts";
import { qwen2Moe } from "./qwen2-moe.ts";
import { qwen3 } from "./qwen3.ts";
import { qwen3Moe } from "./qwen3-moe.ts";
import { smollm3 } from "./smollm3.ts";

/** An architecture as README's table shows it. */
export interface Family {
  readonly architecture: Architecture;
  /** Published models that have it. */
  readonly models: string;
  /** What sets it apart. */
  readonly features: string;
}

/** Every family this version compiles. README's table is made of this. */
export const FAMILIES: readonly Family[] = [
  {
    architecture: llama,
    models: "Llama 2, 3, 3.x; DeepSeek-R1-Distill-Llama",
    features: "rope scaling (linear, Llama 3, YaRN)",
  },
  { architecture: mistral, models: "Mistral 7B, Nemo, Small", features: "sliding window" },
  {
    architecture: qwen2,
    models: "Qwen2, Qwen2.5, QwQ; DeepSeek-R1-Distill-Qwen",
    features: "biases on q, k, v; YaRN; sliding layers",
  },
  { architecture: qwen3, models: "Qwen3 (dense)", features: "norms on q and k" },
  { architecture: olmo2, models: "OLMo-2", features: "norms after attention and MLP alone, and on whole rows of q and k" },
  { architecture: smollm3, models: "SmolLM3", features: "layers without rotation" },
  { architecture: glm, models: "GLM-4-9B, GLM-Edge", features: "half of each head rotated, pairs side by side; fused gate-up" },
  { architecture: glm4, models: "GLM-4-0414 9B and 32B, GLM-Z1", features: "the same, with norms after attention and MLP" },
  {
    architecture: phi3,
    models: "Phi-3, Phi-3.5-mini, Phi-4, Phi-4-mini",
    features: "fused q-k-v and gate-up; LongRoPE; partial rotation; sliding window",
  },
  {
    architecture: gemma3,
    models: "Gemma 3 270M and 1B",
    features: "sliding and full layers with a rotary base each; norms on all sides; GELU gates",
  },
  {
    architecture: opt,
    models: "OPT",
    features: "learned positions; LayerNorm before or after; ReLU; narrow embeddings (350M)",
  },
  { architecture: mixtral, models: "Mixtral 8x7B, 8x22B", features: "experts" },
  {
    architecture: qwen2Moe,
    models: "Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B",
    features: "experts, a gated shared one; dense layers between",
  },
  {
    architecture: qwen3Moe,
    models: "Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder",
    features: "experts; norms on q and k",
  },
  {
    architecture: glm4Moe,
    models: "GLM-4.5, 4.5-Air, 4.6, 4.7",
    features: "experts behind a sigmoid router with groups and correction bias; shared experts; first layers dense",
  },
  {
    architecture: gptOss,
    models: "gpt-oss-20b and -120b in bf16",
    features: "attention sinks; sliding layers; experts with biases and clamped SwiGLU",
  },
];

const LATENT_ATTENTION = "attention over a compressed latent cache is not done";
const RECURRENT_STATE = "linear-attention layers keep a state that is not a KV cache, which is not done";
const MULTIMODAL = "models of images or sound are not done; a text-only checkpoint of the same family may be";
const ENCODER = "models with an encoder are not done";

/** Architectures that people ask for and that are not compiled, and why. */
export const NOT_DONE: Readonly<Record<string, string>> = {
  DeepseekV2ForCausalLM: LATENT_ATTENTION,
  DeepseekV3ForCausalLM: LATENT_ATTENTION,
  DeepseekV32ForCausalLM: LATENT_ATTENTION,
  Glm4MoeLiteForCausalLM: LATENT_ATTENTION,
  GlmMoeDsaForCausalLM: LATENT_ATTENTION,
  Qwen3NextForCausalLM: RECURRENT_STATE,
  Qwen3_5ForCausalLM: RECURRENT_STATE,
  Qwen3_5MoeForCausalLM: RECURRENT_STATE,
  KimiLinearForCausalLM: RECURRENT_STATE,
  MambaForCausalLM: RECURRENT_STATE,
  Mamba2ForCausalLM: RECURRENT_STATE,
  JambaForCausalLM: RECURRENT_STATE,
  GemmaForCausalLM: "Gemma 1 is not done",
  Gemma2ForCausalLM: "soft-capped attention scores are not done",
  Gemma3nForCausalLM: "per-layer embeddings and shared caches are not done",
  Qwen2VLForConditionalGeneration: MULTIMODAL,
  Qwen2_5_VLForConditionalGeneration: MULTIMODAL,
  Qwen3VLForConditionalGeneration: MULTIMODAL,
  Qwen3VLMoeForConditionalGeneration: MULTIMODAL,
  Qwen3_5ForConditionalGeneration: MULTIMODAL,
  Qwen3_5MoeForConditionalGeneration: MULTIMODAL,
  Gemma3ForConditionalGeneration: MULTIMODAL,
  Gemma3nForConditionalGeneration: MULTIMODAL,
  Llama4ForConditionalGeneration: MULTIMODAL,
  MllamaForConditionalGeneration: MULTIMODAL,
  Mistral3ForConditionalGeneration: MULTIMODAL,
  LlavaForConditionalGeneration: MULTIMODAL,
  Glm4vForConditionalGeneration: MULTIMODAL,
  Glm4vMoeForConditionalGeneration: MULTIMODAL,
  Phi4MultimodalForCausalLM: MULTIMODAL,
  T5ForConditionalGeneration: ENCODER,
  BartForConditionalGeneration: ENCODER,
  WhisperForConditionalGeneration: ENCODER,
  BertForMaskedLM: ENCODER,
};
