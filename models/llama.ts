/**
 * Llama 2, 3 and 3.x: the plain pre-norm decoder, with Llama-3 frequency scaling where config.json asks for it.
 */
import { z } from "zod";
import { defineArchitecture } from "../compiler/architecture.ts";
import { commonFields, readFields, readModelFacts } from "./config.ts";
import { buildDecoder, type DecoderConfig, type DecoderLayer } from "./decoder.ts";
import { reachablePositions, readRope } from "./rope.ts";

const fields = z.object({
  ...commonFields,
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
});

export const llama = defineArchitecture<DecoderConfig>({
  name: "LlamaForCausalLM",
  readConfig(json) {
    const read = readFields(json, fields);
    const facts = readModelFacts(read, {
      tieWordEmbeddings: false,
      numKvHeads: null,
      headDim: null,
      bosTokenId: 1,
      eosTokenIds: [2],
    });
    const rope = readRope(json, facts.headDim, "half");
    const mlp = { kind: "dense", intermediateSize: facts.intermediateSize, bias: read.mlp_bias } as const;
    return {
      ...facts,
      maxPositionEmbeddings: reachablePositions(rope, facts.maxPositionEmbeddings),
      layers: new Array<DecoderLayer>(facts.numLayers).fill({ rope, window: null, mlp }),
      qkvBias: read.attention_bias,
      outputBias: read.attention_bias,
      qkNorm: null,
    };
  },
  build: buildDecoder,
});
