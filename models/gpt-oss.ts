/**
 * gpt-oss: attention with sinks, full in every other layer and sliding in the rest; experts with biases and clamped SwiGLU behind a
 * softmax over the chosen logits; YaRN. Its checkpoints in MXFP4 are refused, those in bf16 are read.
 */
import { z } from "zod";
import { defineArchitecture } from "../compiler/architecture.ts";
import { commonFields, readFields, readModelFacts } from "./config.ts";
import { buildDecoder, type DecoderConfig, type DecoderMlp } from "./decoder.ts";
import { checkExperts, expertCount } from "./expert-fields.ts";
import { reachablePositions, readRope } from "./rope.ts";
import { layerTypes, readLayerTypes, windowSize } from "./windows.ts";

const fields = z.object({
  ...commonFields,
  rms_norm_eps: commonFields.rms_norm_eps.default(1e-5),
  attention_bias: z.boolean().default(true),
  sliding_window: windowSize.nullable().default(128),
  layer_types: layerTypes,
  num_local_experts: expertCount,
  num_experts_per_tok: expertCount,
  swiglu_alpha: z.number().positive().default(1.702),
  swiglu_limit: z.number().positive().default(7),
});

const ropeDefaults = {
  rope_theta: 150000,
  rope_scaling: { rope_type: "yarn", factor: 32, original_max_position_embeddings: 4096, truncate: false },
};

export const gptOss = defineArchitecture<DecoderConfig>({
  name: "GptOssForCausalLM",
  readConfig(json) {
    const read = readFields(json, fields);
    const facts = readModelFacts(read, {
      tieWordEmbeddings: false,
      numKvHeads: 8,
      headDim: 64,
      bosTokenId: null,
      eosTokenIds: [],
    });
    const rope = readRope({ ...ropeDefaults, ...(json as object) }, facts.headDim, "half");
    const types = readLayerTypes(read.layer_types, facts.numLayers, (layer) => layer % 2 === 0);
    const mlp = readExperts(read, facts.numLayers);
    return {
      ...facts,
      maxPositionEmbeddings: reachablePositions(rope, facts.maxPositionEmbeddings),
      layers: types.map((type) => ({ rope, window: type === "sliding_attention" ? read.sliding_window : null, mlp })),
      qkvBias: read.attention_bias,
      outputBias: read.attention_bias,
      qkNorm: null,
      sinks: true,
    };
  },
  build: buildDecoder,
});

function readExperts(read: z.output<typeof fields>, numLayers: number): DecoderMlp {
  const counts = { numExperts: read.num_local_experts, numExpertsPerToken: read.num_experts_per_tok };
  checkExperts(counts, numLayers, "num_local_experts");
  return {
    kind: "experts",
    ...counts,
    intermediateSize: read.intermediate_size,
    router: {
      name: "router",
      bias: true,
      scores: "softmax_of_chosen",
      correctionBias: false,
      groups: null,
      renormalizeEps: null,
      scale: 1,
    },
    storage: { kind: "interleaved" },
    clamp: { alpha: read.swiglu_alpha, limit: read.swiglu_limit },
    shared: null,
  };
}
