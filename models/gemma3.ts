/**
 * Gemma 3, text only: five sliding layers to a full one, each kind with its own rotary base; norms before and after attention and MLP,
 * their gains stored less 1; scaled embeddings; GELU gates.
 */
import { z } from "zod";
import { defineArchitecture } from "../compiler/architecture.ts";
import { UnsupportedError } from "../compiler/errors.ts";
import { commonFields, describe, readFields, readModelFacts, requireActivation } from "./config.ts";
import { buildDecoder, type DecoderConfig } from "./decoder.ts";
import { type RopeConfig, readRope } from "./rope.ts";
import { type LayerType, layerTypes, readLayerTypes, windowSize } from "./windows.ts";

const ropeFields = z.record(z.string(), z.unknown()).nullish();
const base = z.number().nullish();

const fields = z
  .object(commonFields)
  .omit({ hidden_act: true })
  .extend({
    hidden_activation: z.string().nullish(),
    attention_bias: z.boolean().default(false),
    query_pre_attn_scalar: z.number().positive().default(256),
    sliding_window: windowSize.default(4096),
    sliding_window_pattern: z.int().min(1).default(6),
    layer_types: layerTypes,
    attn_logit_softcapping: z.number().positive().nullish(),
    final_logit_softcapping: z.number().positive().nullish(),
    use_bidirectional_attention: z.boolean().nullish(),
    // transformers 5: parameters for each type of layer
    rope_parameters: z.strictObject({ full_attention: ropeFields, sliding_attention: ropeFields }).nullish(),
    // transformers 4
    rope_theta: base,
    rope_local_base_freq: base,
    rope_scaling: ropeFields,
  });

export const gemma3 = defineArchitecture<DecoderConfig>({
  name: "Gemma3ForCausalLM",
  readConfig(json) {
    const read = readFields(json, fields);
    requireActivation("hidden_activation", read.hidden_activation ?? "gelu_pytorch_tanh", "gelu_pytorch_tanh");
    for (const field of ["attn_logit_softcapping", "use_bidirectional_attention"] as const) {
      if (!read[field]) continue;
      throw new UnsupportedError(`config.json: ${field}: is not done; expected null or nothing, found ${describe(read[field])}`);
    }
    const facts = readModelFacts(read, {
      tieWordEmbeddings: true,
      numKvHeads: 4,
      headDim: 256,
      bosTokenId: 2,
      eosTokenIds: [1],
    });
    const ropes = readRopes(read, facts.headDim);
    const types = readLayerTypes(read.layer_types, facts.numLayers, (layer) => (layer + 1) % read.sliding_window_pattern !== 0);
    const mlp = {
      kind: "dense",
      intermediateSize: facts.intermediateSize,
      bias: false,
      activation: "gelu_tanh",
    } as const;
    return {
      ...facts,
      layers: types.map((type) => ({
        rope: ropes[type],
        window: type === "sliding_attention" ? read.sliding_window : null,
        mlp,
      })),
      qkvBias: read.attention_bias,
      outputBias: read.attention_bias,
      qkNorm: "heads",
      norms: {
        beforeAttention: "input_layernorm",
        afterAttention: "post_attention_layernorm",
        beforeMlp: "pre_feedforward_layernorm",
        afterMlp: "post_feedforward_layernorm",
      },
      zeroCenteredNorms: true,
      scaledEmbeddings: true,
      attentionScale: read.query_pre_attn_scalar ** -0.5,
      logitSoftcap: read.final_logit_softcapping ?? undefined,
    };
  },
  build: buildDecoder,
});

/** The rotation of each type of layer; transformers 4's `rope_scaling` is for full attention alone. */
function readRopes(read: z.output<typeof fields>, headDim: number): Record<LayerType, RopeConfig> {
  const { rope_parameters, rope_theta, rope_local_base_freq, rope_scaling, max_position_embeddings } = read;
  const of = (parameters: z.output<typeof ropeFields>, theta: number) =>
    readRope({ max_position_embeddings, rope_parameters: parameters ?? {}, rope_theta: theta }, headDim, "half");
  return {
    full_attention: of(rope_parameters?.full_attention ?? rope_scaling, rope_theta ?? 1_000_000),
    sliding_attention: of(rope_parameters?.sliding_attention, rope_local_base_freq ?? 10_000),
  };
}
