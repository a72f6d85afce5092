/**
 * Phi-3, Phi-3.5 and Phi-4: one matrix for q, k and v, one for gate and up; part of each head rotated, by LongRoPE where contexts are
 * long; one window for all layers.
 */
import { z } from "zod";
import { defineArchitecture } from "../compiler/architecture.ts";
import { commonFields, readFields, readModelFacts } from "./config.ts";
import { buildDecoder, type DecoderConfig, type DecoderLayer } from "./decoder.ts";
import { reachablePositions, readRope } from "./rope.ts";
import { windowSize } from "./windows.ts";

const fields = z.object({
  ...commonFields,
  rms_norm_eps: commonFields.rms_norm_eps.default(1e-5),
  sliding_window: windowSize.nullable().default(null),
});

export const phi3 = defineArchitecture<DecoderConfig>({
  name: "Phi3ForCausalLM",
  readConfig(json) {
    const read = readFields(json, fields);
    const facts = readModelFacts(read, {
      tieWordEmbeddings: false,
      numKvHeads: null,
      headDim: null,
      bosTokenId: 1,
      eosTokenIds: [32000],
    });
    const rope = readRope({ original_max_position_embeddings: 4096, ...(json as object) }, facts.headDim, "half");
    const mlp = { kind: "dense", intermediateSize: facts.intermediateSize, bias: false, fusedGateUp: true } as const;
    return {
      ...facts,
      maxPositionEmbeddings: reachablePositions(rope, facts.maxPositionEmbeddings),
      layers: new Array<DecoderLayer>(facts.numLayers).fill({ rope, window: read.sliding_window, mlp }),
      qkvBias: false,
      outputBias: false,
      qkNorm: null,
      fusedQkv: true,
    };
  },
  build: buildDecoder,
});
