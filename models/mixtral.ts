/**
 * Mixtral: Mistral's attention; in every layer experts behind a softmax router whose chosen weights are made to sum to 1.
 */
import { z } from "zod";
import { defineArchitecture } from "../compiler/architecture.ts";
import { commonFields, readFields, readModelFacts } from "./config.ts";
import { buildDecoder, type DecoderConfig, type DecoderLayer } from "./decoder.ts";
import { checkExperts, expertCount } from "./expert-fields.ts";
import { reachablePositions, readRope } from "./rope.ts";
import { windowSize } from "./windows.ts";

const fields = z.object({
  ...commonFields,
  rms_norm_eps: commonFields.rms_norm_eps.default(1e-5),
  sliding_window: windowSize.nullable().default(null),
  num_local_experts: expertCount,
  num_experts_per_tok: expertCount,
});

export const mixtral = defineArchitecture<DecoderConfig>({
  name: "MixtralForCausalLM",
  readConfig(json) {
    const read = readFields(json, fields);
    const facts = readModelFacts(read, {
      tieWordEmbeddings: false,
      numKvHeads: 8,
      headDim: null,
      bosTokenId: 1,
      eosTokenIds: [2],
    });
    const rope = readRope(json, facts.headDim, "half");
    const counts = { numExperts: read.num_local_experts, numExpertsPerToken: read.num_experts_per_tok };
    checkExperts(counts, facts.numLayers, "num_local_experts");
    const mlp = {
      kind: "experts",
      name: "block_sparse_moe",
      ...counts,
      intermediateSize: facts.intermediateSize,
      router: {
        name: "gate",
        bias: false,
        scores: "softmax",
        correctionBias: false,
        groups: null,
        renormalizeEps: 0,
        scale: 1,
      },
      storage: { kind: "modules", gate: "w1", up: "w3", down: "w2" },
      clamp: null,
      shared: null,
    } as const;
    return {
      ...facts,
      maxPositionEmbeddings: reachablePositions(rope, facts.maxPositionEmbeddings),
      layers: new Array<DecoderLayer>(facts.numLayers).fill({ rope, window: read.sliding_window, mlp }),
      qkvBias: false,
      outputBias: false,
      qkNorm: null,
    };
  },
  build: buildDecoder,
});
