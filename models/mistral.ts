/**
 * Mistral: Llama's decoder whose layers may all see only a sliding window. An absent `sliding_window` means 4096, null means none.
 */
import { z } from "zod";
import { defineArchitecture } from "../compiler/architecture.ts";
import { commonFields, readFields, readModelFacts } from "./config.ts";
import { buildDecoder, type DecoderConfig } from "./decoder.ts";
import { reachablePositions, readRope } from "./rope.ts";

const fields = z.object({
  ...commonFields,
  sliding_window: z
    .int()
    .min(1)
    .max(2 ** 26)
    .nullable()
    .default(4096),
});

export const mistral = defineArchitecture<DecoderConfig>({
  name: "MistralForCausalLM",
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
    return {
      ...facts,
      maxPositionEmbeddings: reachablePositions(rope, facts.maxPositionEmbeddings),
      rope,
      qkvBias: false,
      outputBias: false,
      mlpBias: false,
      qkNorm: false,
      windows: new Array(facts.numLayers).fill(read.sliding_window),
    };
  },
  build: buildDecoder,
});
