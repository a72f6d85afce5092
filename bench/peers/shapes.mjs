// The models of the comparison, as numbers: shapes from their published config.json, and what a step of one must read and compute.

const QWEN3 = {
  headDim: 128,
  rotaryDim: 128,
  qkNorm: true,
  attentionBias: false,
  vocabSize: 151936,
  maxPositionEmbeddings: 40960,
  ropeTheta: 1e6,
  rmsNormEps: 1e-6,
  bosTokenId: 151643,
  eosTokenId: 151645,
};

/**
 * By name. `architecture` is llama.cpp's name. `experts` is null or says how many there are, how many each token uses beside `shared`
 * ones that all use, and how many layers at the start have none.
 */
const SHAPES = {
  "qwen3-0.6b": {
    ...QWEN3,
    architecture: "qwen3",
    numLayers: 28,
    hiddenSize: 1024,
    intermediateSize: 3072,
    numHeads: 16,
    numKvHeads: 8,
    tieWordEmbeddings: true,
    experts: null,
  },
  "qwen3-30b-a3b": {
    ...QWEN3,
    architecture: "qwen3moe",
    numLayers: 48,
    hiddenSize: 2048,
    intermediateSize: 6144, // of dense layers: there are none
    numHeads: 32,
    numKvHeads: 4,
    tieWordEmbeddings: false,
    experts: { count: 128, perToken: 8, shared: 0, intermediateSize: 768, denseLayers: 0, scoring: "softmax" },
  },
  "glm-4.5-air": {
    architecture: "glm4moe",
    numLayers: 46,
    hiddenSize: 4096,
    intermediateSize: 10944,
    numHeads: 96,
    numKvHeads: 8,
    headDim: 128,
    rotaryDim: 64,
    qkNorm: false,
    attentionBias: true,
    vocabSize: 151552,
    maxPositionEmbeddings: 131072,
    ropeTheta: 1e6,
    rmsNormEps: 1e-5,
    bosTokenId: 151331,
    eosTokenId: 151329,
    tieWordEmbeddings: false,
    experts: { count: 128, perToken: 8, shared: 1, intermediateSize: 1408, denseLayers: 1, scoring: "sigmoid" },
  },
};

export const MODEL_NAMES = Object.keys(SHAPES);

/** The shape called `name`, cut to its first `layers` layers unless that is undefined. */
export function shapeOf(name, layers) {
  const shape = Object.hasOwn(SHAPES, name) ? SHAPES[name] : undefined;
  if (shape === undefined) throw new Error(`no model is named ${name}; expected one of ${MODEL_NAMES.join(", ")}`);
  const { numLayers, experts } = shape;
  const fewest = 1 + (experts?.denseLayers ?? 0);
  if (layers !== undefined && (layers < fewest || layers > numLayers))
    throw new Error(`${layers} layers of ${name} are asked for; expected ${fewest} to ${numLayers}`);
  return { name, ...shape, numLayers: layers ?? numLayers };
}

/** Name for files of a shape. */
export const labelOf = ({ name, numLayers }) => `${name}-${numLayers}l`;

/**
 * What one step costs at least, bf16 weights and 16-bit KV: bytes of weights that every step reads, bytes of all routed experts and
 * the share of them that one token uses, bytes of weights that a step of one token reads, bytes of KV per token, FLOPs per prompt
 * token. Norms and biases are left out.
 */
export function stepCosts(shape) {
  const { numLayers, hiddenSize, intermediateSize, numHeads, numKvHeads, headDim, vocabSize, experts } = shape;
  const attention = hiddenSize * (2 * numHeads + 2 * numKvHeads) * headDim;
  const mlp = (size) => 3 * hiddenSize * size;
  const denseLayers = experts?.denseLayers ?? numLayers;
  const expertLayers = numLayers - denseLayers;
  // Of one layer with experts: the router and what all tokens share; all routed experts.
  const shared = experts === null ? 0 : hiddenSize * experts.count + mlp(experts.shared * experts.intermediateSize);
  const routed = experts === null ? 0 : experts.count * mlp(experts.intermediateSize);
  const expertShare = experts === null ? 0 : experts.perToken / experts.count;

  const layers = numLayers * attention + denseLayers * mlp(intermediateSize) + expertLayers * shared;
  const lastMlp = expertLayers > 0 ? shared + routed * expertShare : mlp(intermediateSize);
  const costs = {
    sharedBytes: 2 * (layers + vocabSize * hiddenSize), // the head reads a whole matrix, the embedding a row
    expertBytes: 2 * expertLayers * routed,
    expertShare,
  };
  return {
    ...costs,
    weightBytes: weightBytesOf(costs, 1),
    kvBytesPerToken: 2 * numLayers * numKvHeads * headDim * 2,
    // The last layer's MLP or experts and the head run for the last prompt token only, attention grows with the position: left out.
    flopsPerPromptToken: 2 * (layers + expertLayers * routed * expertShare - lastMlp),
  };
}

/** Bytes of weights that a step of `sequences` reads when their tokens choose experts independently: of each expert, 1 - (1 - share)ⁿ. */
export function weightBytesOf({ sharedBytes, expertBytes, expertShare }, sequences) {
  return sharedBytes + expertBytes * (1 - (1 - expertShare) ** sequences);
}
