/**
 * Qwen3, dense: no biases, an RMS norm on each head of q and k, heads of 128 unless config.json says otherwise.
 */
import { z } from "zod";
import { defineArchitecture } from "../compiler/architecture.ts";
import { commonFields, readFields, readModelFacts } from "./config.ts";
import { buildDecoder, type DecoderConfig } from "./decoder.ts";
import { reachablePositions, readRope } from "./rope.ts";
import { readWindows, windowFields } from "./windows.ts";

const fields = z.object({ ...commonFields, ...windowFields, attention_bias: z.boolean().default(false) });

export const qwen3 = defineArchitecture<DecoderConfig>({
  name: "Qwen3ForCausalLM",
  readConfig(json) {
    const read = readFields(json, fields);
    const facts = readModelFacts(read, {
      tieWordEmbeddings: false,
      numKvHeads: 32,
      headDim: 128,
      bosTokenId: null,
      eosTokenIds: [],
    });
    const rope = readRope(json, facts.headDim, "half");
    const mlp = { kind: "dense", intermediateSize: facts.intermediateSize, bias: false } as const;
    return {
      ...facts,
      maxPositionEmbeddings: reachablePositions(rope, facts.maxPositionEmbeddings),
      layers: readWindows(read, facts.numLayers).map((window) => ({ rope, window, mlp })),
      qkvBias: read.attention_bias,
      outputBias: read.attention_bias,
      qkNorm: "heads",
    };
  },
  build: buildDecoder,
});
