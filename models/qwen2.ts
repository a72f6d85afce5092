/**
 * Qwen2 and Qwen2.5: biases on q, k and v; a sliding window from layer `max_window_layers` on where `use_sliding_window` says so.
 */
import { z } from "zod";
import { defineArchitecture } from "../compiler/architecture.ts";
import { commonFields, readFields, readModelFacts } from "./config.ts";
import { buildDecoder, type DecoderConfig } from "./decoder.ts";
import { reachablePositions, readRope } from "./rope.ts";
import { readWindows, windowFields } from "./windows.ts";

const fields = z.object({ ...commonFields, ...windowFields });

export const qwen2 = defineArchitecture<DecoderConfig>({
  name: "Qwen2ForCausalLM",
  readConfig(json) {
    const read = readFields(json, fields);
    const facts = readModelFacts(read, {
      tieWordEmbeddings: false,
      numKvHeads: 32,
      headDim: null,
      bosTokenId: null,
      eosTokenIds: [],
    });
    const rope = readRope(json, facts.headDim, "half");
    const mlp = { kind: "dense", intermediateSize: facts.intermediateSize, bias: false } as const;
    return {
      ...facts,
      maxPositionEmbeddings: reachablePositions(rope, facts.maxPositionEmbeddings),
      layers: readWindows(read, facts.numLayers).map((window) => ({ rope, window, mlp })),
      qkvBias: true,
      outputBias: false,
      qkNorm: null,
    };
  },
  build: buildDecoder,
});
