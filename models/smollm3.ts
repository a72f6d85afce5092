/**
 * SmolLM3: a Llama some of whose layers rotate nothing, so that they see what was said and not where. The example of TUTORIAL.md.
 */
import { z } from "zod";
import { defineArchitecture } from "../compiler/architecture.ts";
import { CompileError } from "../compiler/errors.ts";
import { commonFields, readFields, readModelFacts } from "./config.ts";
import { buildDecoder, type DecoderConfig } from "./decoder.ts";
import { reachablePositions, readRope } from "./rope.ts";
import { readWindows, windowFields } from "./windows.ts";

const fields = z.object({
  ...commonFields,
  ...windowFields,
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  no_rope_layers: z.array(z.union([z.literal(0), z.literal(1)])).nullish(), // 1 rotates, 0 does not
  no_rope_layer_interval: z.int().min(1).default(4),
});

export const smollm3 = defineArchitecture<DecoderConfig>({
  name: "SmolLM3ForCausalLM",
  readConfig(json) {
    const read = readFields(json, fields);
    const facts = readModelFacts(read, {
      tieWordEmbeddings: true,
      numKvHeads: 4,
      headDim: null,
      bosTokenId: 128000,
      eosTokenIds: [128001],
    });
    const isLast = (layer: number) => (layer + 1) % read.no_rope_layer_interval === 0;
    const rotated = read.no_rope_layers ?? Array.from({ length: facts.numLayers }, (_, layer) => (isLast(layer) ? 0 : 1));
    if (rotated.length < facts.numLayers) {
      throw new CompileError(
        `config.json: no_rope_layers: expected an entry a layer (${facts.numLayers}); found ${rotated.length}`,
      );
    }
    const rope = readRope({ rope_theta: 2e6, ...(json as object) }, facts.headDim, "half");
    const windows = readWindows(read, facts.numLayers, (layer) => rotated[layer] === 0);
    const mlp = { kind: "dense", intermediateSize: facts.intermediateSize, bias: read.mlp_bias } as const;
    return {
      ...facts,
      maxPositionEmbeddings: reachablePositions(rope, facts.maxPositionEmbeddings),
      layers: windows.map((window, layer) => ({ rope: rotated[layer] ? rope : null, window, mlp })),
      qkvBias: read.attention_bias,
      outputBias: read.attention_bias,
      qkNorm: null,
    };
  },
  build: buildDecoder,
});
