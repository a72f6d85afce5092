/**
 * GLM-4.5, 4.6 and 4.7: first layers dense, then experts behind a sigmoid router with groups and a correction bias, beside shared ones.
 *
 * Checkpoints also hold layers that predict further tokens ahead, after the last one; they are not read.
 */
import { z } from "zod";
import { defineArchitecture } from "../compiler/architecture.ts";
import { CompileError } from "../compiler/errors.ts";
import { commonFields, readFields, readModelFacts } from "./config.ts";
import { buildDecoder, type DecoderConfig, type DecoderMlp } from "./decoder.ts";
import { checkExperts, expertCount, expertWidth } from "./expert-fields.ts";
import { EXPERT_MODULES } from "./experts.ts";
import { reachablePositions, readRope } from "./rope.ts";

const fields = z.object({
  ...commonFields,
  rms_norm_eps: commonFields.rms_norm_eps.default(1e-5),
  attention_bias: z.boolean().default(false),
  use_qk_norm: z.boolean().default(false),
  n_routed_experts: expertCount,
  num_experts_per_tok: expertCount,
  moe_intermediate_size: expertWidth,
  n_shared_experts: z.int().min(1).max(64).default(1),
  first_k_dense_replace: z.int().min(0).default(1),
  n_group: z.int().min(1).default(1),
  topk_group: z.int().min(1).default(1),
  norm_topk_prob: z.boolean().default(true),
  routed_scaling_factor: z.number().positive().default(1),
  num_nextn_predict_layers: z.int().min(0).max(64).default(1),
});

interface Glm4MoeConfig extends DecoderConfig {
  /** Layers of the checkpoint after the last that predict further tokens. */
  readonly numPredictLayers: number;
}

export const glm4Moe = defineArchitecture<Glm4MoeConfig>({
  name: "Glm4MoeForCausalLM",
  readConfig(json) {
    const read = readFields(json, fields);
    const facts = readModelFacts(read, {
      tieWordEmbeddings: false,
      numKvHeads: 8,
      headDim: null,
      bosTokenId: null,
      eosTokenIds: [],
    });
    const rope = readRope({ partial_rotary_factor: 0.5, ...(json as object) }, facts.headDim, "half");
    const dense = { kind: "dense", intermediateSize: facts.intermediateSize, bias: false } as const;
    const experts = readExperts(read, facts.numLayers);
    const mlps = Array.from({ length: facts.numLayers }, (_, i) => (i < read.first_k_dense_replace ? dense : experts));
    return {
      ...facts,
      maxPositionEmbeddings: reachablePositions(rope, facts.maxPositionEmbeddings),
      layers: mlps.map((mlp) => ({ rope, window: null, mlp })),
      qkvBias: read.attention_bias,
      outputBias: false,
      qkNorm: read.use_qk_norm ? "heads" : null,
      numPredictLayers: read.num_nextn_predict_layers,
    };
  },
  build: buildDecoder,
  unusedTensors: ({ numLayers, numPredictLayers }) =>
    Array.from({ length: numPredictLayers }, (_, i) => ({
      prefix: `model.layers.${numLayers + i}.`,
      why: `layer ${numLayers + i} predicts further tokens ahead (num_nextn_predict_layers), which is not done`,
    })),
});

function readExperts(read: z.output<typeof fields>, numLayers: number): DecoderMlp {
  const { n_routed_experts: numExperts, num_experts_per_tok: numExpertsPerToken, n_group: count, topk_group: keep } = read;
  checkExperts({ numExperts, numExpertsPerToken }, numLayers, "n_routed_experts");
  if (count > 1) {
    const size = numExperts / count;
    if (!Number.isInteger(size) || size < 2) {
      throw new CompileError(
        `config.json: n_group: expected equal groups of at least 2 of the ${numExperts} experts (n_routed_experts); found ${count}`,
      );
    }
    if (keep > count || keep * size < numExpertsPerToken) {
      throw new CompileError(
        `config.json: topk_group: expected at most n_group (${count}), and enough groups of ${size} for num_experts_per_tok ` +
          `(${numExpertsPerToken}); found ${keep}`,
      );
    }
  }
  return {
    kind: "experts",
    numExperts,
    numExpertsPerToken,
    intermediateSize: read.moe_intermediate_size,
    router: {
      name: "gate",
      bias: false,
      scores: "sigmoid",
      correctionBias: true,
      groups: count > 1 ? { count, keep } : null,
      renormalizeEps: read.norm_topk_prob ? 1e-20 : null,
      scale: read.routed_scaling_factor,
    },
    storage: EXPERT_MODULES,
    clamp: null,
    shared: { name: "shared_experts", intermediateSize: read.moe_intermediate_size * read.n_shared_experts, gated: false },
  };
}
