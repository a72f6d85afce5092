/**
 * OPT: learned positions, LayerNorm with biases, ReLU, no gates. The 350M model norms after its layers instead of before, and its
 * embeddings are narrower than its layers.
 */
import { z } from "zod";
import { computeDType, defineArchitecture, type ModelConfig } from "../compiler/architecture.ts";
import { CompileError, UnsupportedError } from "../compiler/errors.ts";
import type { Graph } from "../compiler/ir/graph.ts";
import type { Node } from "../compiler/ir/ops.ts";
import { commonFields, readFields, readModelFacts, requireActivation } from "./config.ts";
import { attention, layerNorm, linear, matrix, type Naming } from "./layers.ts";

const fields = z
  .object(commonFields)
  .omit({ hidden_act: true, intermediate_size: true, head_dim: true, num_key_value_heads: true, rms_norm_eps: true })
  .extend({
    ffn_dim: commonFields.intermediate_size,
    activation_function: z.string().default("relu"),
    do_layer_norm_before: z.boolean().default(true),
    _remove_final_layer_norm: z.boolean().default(false),
    word_embed_proj_dim: commonFields.hidden_size.nullish(),
    enable_bias: z.boolean().default(true),
    layer_norm_elementwise_affine: z.boolean().default(true),
  });

const LAYER_NORM_EPS = 1e-5;
/** Rows of the position table that no position uses. */
const POSITION_OFFSET = 2;

interface OptConfig extends ModelConfig {
  readonly embeddingSize: number;
  readonly bias: boolean;
  /** Norms stand before attention and MLP, else after they were added. */
  readonly normBefore: boolean;
  readonly finalNorm: boolean;
}

export const opt = defineArchitecture<OptConfig>({
  name: "OPTForCausalLM",
  readConfig(json) {
    const read = readFields(json, fields);
    requireActivation("activation_function", read.activation_function, "relu");
    if (!read.layer_norm_elementwise_affine) {
      throw new UnsupportedError("config.json: layer_norm_elementwise_affine: expected true; found false");
    }
    if (read.hidden_size % read.num_attention_heads !== 0) {
      throw new CompileError(
        `config.json: hidden_size: expected a multiple of num_attention_heads (${read.num_attention_heads}); found ${read.hidden_size}`,
      );
    }
    const { rmsNormEps: _, ...facts } = readModelFacts(
      { ...read, intermediate_size: read.ffn_dim, rms_norm_eps: LAYER_NORM_EPS },
      { tieWordEmbeddings: true, numKvHeads: null, headDim: null, bosTokenId: 2, eosTokenIds: [2] },
    );
    return {
      ...facts,
      embeddingSize: read.word_embed_proj_dim ?? read.hidden_size,
      bias: read.enable_bias,
      normBefore: read.do_layer_norm_before,
      finalNorm: read.do_layer_norm_before && !read._remove_final_layer_norm,
    };
  },
  build,
});

function build(config: OptConfig, g: Graph): void {
  const { hiddenSize, embeddingSize, vocabSize, numLayers, normBefore } = config;
  const naming: Naming = { prefix: "model.decoder.", dtype: computeDType(config.dtype) };
  const table = g.scope("embed_tokens", () => matrix(g, "weight", [vocabSize, embeddingSize], naming));
  const isNarrow = embeddingSize !== hiddenSize;

  const tokens = g.embedding(g.input("token_ids"), table); // (T, embeddingSize)
  const widened = isNarrow ? linear(g, tokens, "project_in", hiddenSize, naming) : tokens;
  let x: Node = g.tap("hidden.0", g.plus(widened, positions(config, g, naming))); // (T, hidden)
  for (let layer = 0; layer < numLayers; layer++) {
    x = g.scope(`layers.${layer}`, () => {
      const attend = (y: Node) => attention(g, y, attentionOptions(config, layer), naming);
      const attended = addNormed(g, x, "self_attn_layer_norm", normBefore, attend, naming);
      return addNormed(g, attended, "final_layer_norm", normBefore, (y) => reluMlp(config, g, y, naming), naming);
    });
    if (layer + 1 < numLayers) g.tap(`hidden.${layer + 1}`, x);
  }

  const sampled = g.gatherRows(x, g.input("sample_rows")); // (S, hidden)
  const normed = config.finalNorm ? layerNorm(g, sampled, "final_layer_norm", LAYER_NORM_EPS, naming) : sampled;
  const last = g.tap(`hidden.${numLayers}`, normed);
  const narrowed = isNarrow ? linear(g, last, "project_out", embeddingSize, naming) : last;
  const head = config.tieWordEmbeddings ? table : g.weight("lm_head.weight", table.type);
  g.setLogits(g.scope("lm_head", () => g.linear(narrowed, head))); // (S, vocab)
}

function positions(config: OptConfig, g: Graph, naming: Naming): Node {
  return g.scope("embed_positions", () => {
    const { maxPositionEmbeddings: count, hiddenSize } = config;
    const table = matrix(g, "weight", [count + POSITION_OFFSET, hiddenSize], naming);
    return g.embedding(g.input("positions"), g.slice(table, 0, POSITION_OFFSET, count));
  });
}

const attentionOptions = (config: OptConfig, layer: number) => ({
  ...config,
  layer,
  qkvBias: config.bias,
  outputBias: config.bias,
  outputName: "out_proj",
  qkNorm: null,
  rope: null,
  window: null,
});

/** x + f(norm(x)), or norm(x + f(x)). */
function addNormed(g: Graph, x: Node, name: string, normBefore: boolean, f: (y: Node) => Node, naming: Naming): Node {
  const norm = (y: Node) => layerNorm(g, y, name, LAYER_NORM_EPS, naming);
  return normBefore ? g.plus(x, f(norm(x))) : norm(g.plus(x, f(x)));
}

/** fc2(max(fc1(x), 0)) */
function reluMlp({ intermediateSize, hiddenSize, bias }: OptConfig, g: Graph, x: Node, naming: Naming): Node {
  const inner = g.max(linear(g, x, "fc1", intermediateSize, naming, { bias }), g.constant(0));
  return linear(g, inner, "fc2", hiddenSize, naming, { bias });
}
