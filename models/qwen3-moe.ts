/**
 * Qwen3 with experts (30B-A3B, 235B-A22B, Coder): Qwen3's attention; a softmax router in every `decoder_sparse_step`-th layer.
 */
import { z } from "zod";
import { defineArchitecture } from "../compiler/architecture.ts";
import { commonFields, readFields, readModelFacts } from "./config.ts";
import { buildDecoder, type DecoderConfig } from "./decoder.ts";
import { qwenExpertFields, readQwenMlps } from "./expert-fields.ts";
import { reachablePositions, readRope } from "./rope.ts";
import { readWindow, windowFields } from "./windows.ts";

const fields = z.object({
  ...commonFields,
  ...qwenExpertFields,
  use_sliding_window: windowFields.use_sliding_window,
  sliding_window: windowFields.sliding_window,
  attention_bias: z.boolean().default(false),
});

export const qwen3Moe = defineArchitecture<DecoderConfig>({
  name: "Qwen3MoeForCausalLM",
  readConfig(json) {
    const read = readFields(json, fields);
    const facts = readModelFacts(read, {
      tieWordEmbeddings: false,
      numKvHeads: 4,
      headDim: null,
      bosTokenId: null,
      eosTokenIds: [],
    });
    const rope = readRope(json, facts.headDim, "half");
    const dense = { kind: "dense", intermediateSize: facts.intermediateSize, bias: false } as const;
    const window = readWindow(read); // of all layers, whatever max_window_layers says
    return {
      ...facts,
      maxPositionEmbeddings: reachablePositions(rope, facts.maxPositionEmbeddings),
      layers: readQwenMlps(read, facts.numLayers, dense, null).map((mlp) => ({ rope, window, mlp })),
      qkvBias: read.attention_bias,
      outputBias: read.attention_bias,
      qkNorm: "heads",
    };
  },
  build: buildDecoder,
});
