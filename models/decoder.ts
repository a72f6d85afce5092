/**
 * The decoder most families share: embedding, layers that add attention and then an MLP to the residual stream, final norm, head.
 *
 * Families are this with different data: where norms stand, and for each layer its rotation, its window and its MLP, dense or experts.
 */
import { computeDType, type ModelConfig } from "../compiler/architecture.ts";
import type { Graph } from "../compiler/ir/graph.ts";
import type { Node } from "../compiler/ir/ops.ts";
import { roundTo } from "../compiler/ir/rounding.ts";
import { type ExpertsOptions, mixtureOfExperts } from "./experts.ts";
import { type AttentionOptions, attention, gatedMlp, type MlpOptions, matrix, type Naming, rmsNorm } from "./layers.ts";
import { type RopeConfig, ropeFrequencies } from "./rope.ts";

/** The MLP of a layer. */
export type DecoderMlp = ({ readonly kind: "dense" } & MlpOptions) | ({ readonly kind: "experts" } & ExpertsOptions);

/** What may differ from layer to layer. */
export interface DecoderLayer {
  /** Null: q and k are not rotated. */
  readonly rope: RopeConfig | null;
  /** Tokens a position sees, itself included, or null for all. */
  readonly window: number | null;
  readonly mlp: DecoderMlp;
}

/** The norms of a layer by their place: x + after(attention(before(x))), then the same with the MLP. Null where none stands. */
export interface LayerNorms {
  readonly beforeAttention: string | null;
  readonly afterAttention: string | null;
  readonly beforeMlp: string | null;
  readonly afterMlp: string | null;
}

/** Llama's placement, which most families have. */
export const PRE_NORM: LayerNorms = {
  beforeAttention: "input_layernorm",
  afterAttention: null,
  beforeMlp: "post_attention_layernorm",
  afterMlp: null,
};

export interface DecoderConfig extends ModelConfig {
  readonly rmsNormEps: number;
  readonly layers: readonly DecoderLayer[];
  readonly qkvBias: boolean;
  readonly outputBias: boolean;
  /** RMS norms of q and k before rotation: of each head, or of whole rows. */
  readonly qkNorm: "heads" | "rows" | null;
  /** `PRE_NORM` unless given. */
  readonly norms?: LayerNorms;
  /** Norm tensors hold gain − 1. */
  readonly zeroCenteredNorms?: boolean;
  /** Embeddings are multiplied with √hiddenSize. */
  readonly scaledEmbeddings?: boolean;
  /** What attention scores are multiplied with; 1 / √headDim unless given. */
  readonly attentionScale?: number;
  readonly fusedQkv?: boolean;
  readonly sinks?: boolean;
  /** Logits are squeezed into ± this: cap · tanh(logits / cap). */
  readonly logitSoftcap?: number;
}

/** Builds the whole model, taps `hidden.0` … `hidden.L` included. */
export function buildDecoder(config: DecoderConfig, g: Graph): void {
  const naming: Naming = { prefix: "model.", dtype: computeDType(config.dtype) };
  const shape = [config.vocabSize, config.hiddenSize];
  const table = g.scope("embed_tokens", () => matrix(g, "weight", shape, naming));
  const angles = rotaryAngles(config.layers, g);

  let x: Node = g.tap("hidden.0", embedded(config, g, table)); // (T, hidden)
  config.layers.forEach((layer, index) => {
    const rope = layer.rope && { angles: angles.get(layer.rope) as Node, style: layer.rope.style };
    x = g.scope(`layers.${index}`, () => decoderLayer(config, g, x, layer, { layer: index, rope }, naming));
    if (index + 1 < config.numLayers) g.tap(`hidden.${index + 1}`, x);
  });

  const sampled = g.gatherRows(x, g.input("sample_rows")); // (S, hidden)
  const normed = rmsNorm(g, sampled, "norm", config.rmsNormEps, naming, { zeroCentered: config.zeroCenteredNorms });
  const last = g.tap(`hidden.${config.numLayers}`, normed);
  const head = config.tieWordEmbeddings ? table : g.weight("lm_head.weight", { dtype: naming.dtype, shape });
  g.setLogits(g.scope("lm_head", () => softcapped(g, g.linear(last, head), config.logitSoftcap))); // (S, vocab)
}

function embedded(config: DecoderConfig, g: Graph, table: Node): Node {
  return g.scope("embed_tokens", () => {
    const rows = g.embedding(g.input("token_ids"), table);
    if (!config.scaledEmbeddings) return rows;
    // The reference keeps the factor in the compute dtype.
    const [factor] = roundTo(computeDType(config.dtype), Float32Array.of(Math.sqrt(config.hiddenSize)));
    return g.mul(rows, g.constant(factor as number));
  });
}

/** The angles of every rotation that a layer asks for, (T, dim) each. */
function rotaryAngles(layers: readonly DecoderLayer[], g: Graph): ReadonlyMap<RopeConfig, Node> {
  const ropes = new Set(layers.flatMap(({ rope }) => (rope ? [rope] : [])));
  const build = (rope: RopeConfig): Node => {
    const { invFreq, attentionFactor, long } = ropeFrequencies(rope);
    return g.scope("rotary_emb", () => g.ropeAngles(g.input("positions"), invFreq, attentionFactor, long));
  };
  return new Map([...ropes].map((rope) => [rope, build(rope)]));
}

function decoderLayer(
  config: DecoderConfig,
  g: Graph,
  x: Node,
  { mlp, window }: DecoderLayer,
  { layer, rope }: Pick<AttentionOptions, "layer" | "rope">,
  naming: Naming,
): Node {
  const { rmsNormEps: eps, norms = PRE_NORM, zeroCenteredNorms: zeroCentered, attentionScale: scale } = config;
  const norm = (y: Node, name: string | null) => (name === null ? y : rmsNorm(g, y, name, eps, naming, { zeroCentered }));
  const options = { ...config, layer, rope, window, scale, qkNorm: config.qkNorm && { over: config.qkNorm, eps, zeroCentered } };
  const mixed = attention(g, norm(x, norms.beforeAttention), options, naming);
  const attended = g.plus(x, norm(mixed, norms.afterAttention));
  const read = norm(attended, norms.beforeMlp);
  const y = mlp.kind === "dense" ? gatedMlp(g, read, mlp, naming) : mixtureOfExperts(g, read, mlp, naming);
  return g.plus(attended, norm(y, norms.afterMlp));
}

const softcapped = (g: Graph, logits: Node, cap: number | undefined): Node =>
  cap === undefined ? logits : g.mul(g.tanh(g.mul(logits, g.constant(1 / cap))), g.constant(cap));
