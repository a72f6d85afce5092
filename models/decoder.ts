/**
 * The pre-norm decoder: embedding, layers of x + attention(norm x) and x + mlp(norm x), final norm, head.
 *
 * Llama, Mistral, Qwen2 and Qwen3 are this with different options. What varies from layer to layer is data.
 */
import { computeDType, type ModelConfig } from "../compiler/architecture.ts";
import type { Graph } from "../compiler/ir/graph.ts";
import type { Node } from "../compiler/ir/ops.ts";
import { attention, type Naming, rmsNorm, swigluMlp } from "./layers.ts";
import { type RopeConfig, ropeFrequencies } from "./rope.ts";

export interface DecoderConfig extends ModelConfig {
  readonly rmsNormEps: number;
  readonly rope: RopeConfig;
  readonly qkvBias: boolean;
  readonly outputBias: boolean;
  readonly mlpBias: boolean;
  /** RMS norm of each head of q and k before rotation. */
  readonly qkNorm: boolean;
  /** For each layer the tokens a position sees, itself included, or null for all. */
  readonly windows: readonly (number | null)[];
}

/** Builds the whole model, taps `hidden.0` … `hidden.L` included. */
export function buildDecoder(config: DecoderConfig, g: Graph): void {
  const naming: Naming = { prefix: "model.", dtype: computeDType(config.dtype) };
  const table = g.weight("model.embed_tokens.weight", { dtype: naming.dtype, shape: [config.vocabSize, config.hiddenSize] });
  const { invFreq, attentionFactor } = ropeFrequencies(config.rope);
  const angles = g.scope("rotary_emb", () => g.ropeAngles(g.input("positions"), invFreq, attentionFactor));

  let x: Node = g.tap(
    "hidden.0",
    g.scope("embed_tokens", () => g.embedding(g.input("token_ids"), table)),
  ); // (T, hidden)
  config.windows.forEach((window, layer) => {
    x = g.scope(`layers.${layer}`, () => {
      const options = {
        ...config,
        layer,
        window,
        qkNorm: config.qkNorm ? { eps: config.rmsNormEps } : null,
        rope: { angles, style: config.rope.style },
      };
      const attended = g.plus(x, attention(g, rmsNorm(g, x, "input_layernorm", config.rmsNormEps, naming), options, naming));
      const normed = rmsNorm(g, attended, "post_attention_layernorm", config.rmsNormEps, naming);
      const mlp = { intermediateSize: config.intermediateSize, bias: config.mlpBias };
      return g.plus(attended, swigluMlp(g, normed, mlp, naming));
    });
    if (layer + 1 < config.numLayers) g.tap(`hidden.${layer + 1}`, x);
  });

  const sampled = g.gatherRows(x, g.input("sample_rows")); // (S, hidden)
  const last = g.tap(`hidden.${config.numLayers}`, rmsNorm(g, sampled, "norm", config.rmsNormEps, naming));
  const head = config.tieWordEmbeddings
    ? table
    : g.weight("lm_head.weight", { dtype: naming.dtype, shape: [config.vocabSize, config.hiddenSize] });
  g.setLogits(g.scope("lm_head", () => g.linear(last, head))); // (S, vocab)
}
