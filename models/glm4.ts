/**
 * GLM-4: one matrix for gate and up; half of each head rotated, in pairs side by side. GLM-4-0414 also norms what attention and MLP give.
 */
import { z } from "zod";
import { defineArchitecture } from "../compiler/architecture.ts";
import { commonFields, readFields, readModelFacts } from "./config.ts";
import { buildDecoder, type DecoderConfig, type DecoderLayer, type LayerNorms, PRE_NORM } from "./decoder.ts";
import { reachablePositions, readRope } from "./rope.ts";

const fields = z.object({
  ...commonFields,
  rms_norm_eps: commonFields.rms_norm_eps.default(1.5625e-7),
  attention_bias: z.boolean().default(true),
});

function readConfig(json: unknown, norms: LayerNorms): Omit<DecoderConfig, "architecture" | "numParameters"> {
  const read = readFields(json, fields);
  const facts = readModelFacts(read, {
    tieWordEmbeddings: false,
    numKvHeads: 2,
    headDim: 128,
    bosTokenId: null,
    eosTokenIds: [151329, 151336, 151338],
  });
  const rope = readRope({ partial_rotary_factor: 0.5, ...(json as object) }, facts.headDim, "interleaved");
  const mlp = { kind: "dense", intermediateSize: facts.intermediateSize, bias: false, fusedGateUp: true } as const;
  return {
    ...facts,
    maxPositionEmbeddings: reachablePositions(rope, facts.maxPositionEmbeddings),
    layers: new Array<DecoderLayer>(facts.numLayers).fill({ rope, window: null, mlp }),
    qkvBias: read.attention_bias,
    outputBias: false,
    qkNorm: null,
    norms,
  };
}

/** GLM-4-9B as first published, and GLM-Edge. */
export const glm = defineArchitecture<DecoderConfig>({
  name: "GlmForCausalLM",
  readConfig: (json) => readConfig(json, PRE_NORM),
  build: buildDecoder,
});

/** GLM-4-0414. */
export const glm4 = defineArchitecture<DecoderConfig>({
  name: "Glm4ForCausalLM",
  readConfig: (json) =>
    readConfig(json, { ...PRE_NORM, afterAttention: "post_self_attn_layernorm", afterMlp: "post_mlp_layernorm" }),
  build: buildDecoder,
});
