// The model of the comparison, as numbers: Qwen3-0.6B's published config.json, and what a step of it must read and compute.

export const QWEN3_0_6B = {
  name: "qwen3-0.6b",
  numLayers: 28,
  hiddenSize: 1024,
  intermediateSize: 3072,
  numHeads: 16,
  numKvHeads: 8,
  headDim: 128,
  vocabSize: 151936,
  maxPositionEmbeddings: 40960,
  ropeTheta: 1e6,
  rmsNormEps: 1e-6,
  bosTokenId: 151643,
  eosTokenId: 151645,
};

/** What one step costs at least, bf16 weights and 16-bit KV: bytes of weights read, bytes of KV per token, FLOPs per prompt token. */
export function stepCosts(shape) {
  const { numLayers, hiddenSize, intermediateSize, numHeads, numKvHeads, headDim, vocabSize } = shape;
  const layer = hiddenSize * (2 * numHeads + 2 * numKvHeads) * headDim + 3 * hiddenSize * intermediateSize;
  return {
    weightBytes: 2 * (numLayers * layer + vocabSize * hiddenSize), // the tied head reads the whole embedding
    kvBytesPerToken: 2 * numLayers * numKvHeads * headDim * 2,
    // The head runs for the last prompt token only, attention grows with the position: both left out.
    flopsPerPromptToken: 2 * numLayers * layer,
  };
}
