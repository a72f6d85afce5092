/**
 * Mistral: Llama's decoder whose layers may all see only a sliding window. An absent `sliding_window` means 4096, null means none.
 */
import { z } from "zod";
import { defineArchitecture } from "../compiler/architecture.ts";
import { commonFields, readFields, readModelFacts } from "./config.ts";
import { buildDecoder, type DecoderConfig, type DecoderLayer } from "./decoder.ts";
import { reachablePositions, readRope } from "./rope.ts";
import { windowSize } from "./windows.ts";

const fields = z.object({
  ...commonFields,
  sliding_window: windowSize.nullable().default(4096),
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
    const mlp = { kind: "dense", intermediateSize: facts.intermediateSize, bias: false } as const;
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
