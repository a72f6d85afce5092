/**
 * OLMo-2: no norm before attention and MLP, one after each, and RMS norms over whole rows of q and k, before they are heads.
 */
import { z } from "zod";
import { defineArchitecture } from "../compiler/architecture.ts";
import { commonFields, readFields, readModelFacts } from "./config.ts";
import { buildDecoder, type DecoderConfig } from "./decoder.ts";
import { reachablePositions, readRope } from "./rope.ts";

const fields = z.object({
  ...commonFields,
  rms_norm_eps: commonFields.rms_norm_eps.default(1e-5),
  attention_bias: z.boolean().default(false),
});

export const olmo2 = defineArchitecture<DecoderConfig>({
  name: "Olmo2ForCausalLM",
  readConfig(json) {
    const read = readFields(json, fields);
    const facts = readModelFacts(read, {
      tieWordEmbeddings: false,
      numKvHeads: null,
      headDim: null,
      bosTokenId: null,
      eosTokenIds: [50279],
    });
    const rope = readRope(json, facts.headDim, "half");
    const mlp = { kind: "dense", intermediateSize: facts.intermediateSize, bias: false } as const;
    return {
      ...facts,
      maxPositionEmbeddings: reachablePositions(rope, facts.maxPositionEmbeddings),
      layers: Array.from({ length: facts.numLayers }, () => ({ rope, window: null, mlp })),
      qkvBias: read.attention_bias,
      outputBias: read.attention_bias,
      qkNorm: "rows",
      norms: {
        beforeAttention: null,
        afterAttention: "post_attention_layernorm",
        beforeMlp: null,
        afterMlp: "post_feedforward_layernorm",
      },
    };
  },
  build: buildDecoder,
});
