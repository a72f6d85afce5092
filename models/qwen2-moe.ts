/**
 * Qwen2 and Qwen1.5 with experts: Qwen2's attention; a softmax router, and a shared expert weighed by a sigmoid gate of its own.
 */
import { z } from "zod";
import { defineArchitecture } from "../compiler/architecture.ts";
import { commonFields, readFields, readModelFacts } from "./config.ts";
import { buildDecoder, type DecoderConfig } from "./decoder.ts";
import { expertWidth, qwenExpertFields, readQwenMlps } from "./expert-fields.ts";
import { reachablePositions, readRope } from "./rope.ts";
import { readWindows, windowFields } from "./windows.ts";

const fields = z.object({
  ...commonFields,
  ...windowFields,
  ...qwenExpertFields,
  shared_expert_intermediate_size: expertWidth,
  qkv_bias: z.boolean().default(true),
});

export const qwen2Moe = defineArchitecture<DecoderConfig>({
  name: "Qwen2MoeForCausalLM",
  readConfig(json) {
    const read = readFields(json, fields);
    const facts = readModelFacts(read, {
      tieWordEmbeddings: false,
      numKvHeads: 16,
      headDim: null,
      bosTokenId: null,
      eosTokenIds: [],
    });
    const rope = readRope(json, facts.headDim, "half");
    // Every other layer below max_window_layers slides, where Qwen2's dense models slide from there on.
    const windows = readWindows(read, facts.numLayers, (layer, maxWindowLayers) => layer % 2 === 0 && layer < maxWindowLayers);
    const dense = { kind: "dense", intermediateSize: facts.intermediateSize, bias: false } as const;
    const shared = { name: "shared_expert", intermediateSize: read.shared_expert_intermediate_size, gated: true };
    return {
      ...facts,
      maxPositionEmbeddings: reachablePositions(rope, facts.maxPositionEmbeddings),
      layers: readQwenMlps(read, facts.numLayers, dense, shared).map((mlp, i) => ({ rope, window: windows[i] ?? null, mlp })),
      qkvBias: read.qkv_bias,
      outputBias: false,
      qkNorm: null,
    };
  },
  build: buildDecoder,
});
