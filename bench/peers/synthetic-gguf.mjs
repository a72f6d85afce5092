// Makes GGUF files of published models' exact shapes, or of their first layers, with random bf16 weights and a synthetic vocabulary:
// enough to time them, nothing to read. `node synthetic-gguf.mjs NAME [LAYERS]` writes .cache/NAME-…l-bf16.gguf unless it is there.
//
// Weights are N(0, 0.02): windows at random places of a pool of 4 Mi Gaussian values, since drawing billions of them takes long and
// speed does not depend on them. Routers are such too: over normalised rows they spread tokens over all experts.

import { existsSync, mkdirSync, renameSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { TENSOR_TYPES, writeGguf } from "./gguf-writer.mjs";
import { labelOf, shapeOf } from "./shapes.mjs";

const CACHE = join(dirname(fileURLToPath(import.meta.url)), ".cache");
const POOL = 1 << 22;
const WINDOW = 1 << 18;

/** mulberry32: 0 ≤ x < 1, the same on every machine. */
export function seededRandom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `count` values of N(mean, deviation) by Box-Muller. */
function gaussian(random, count, mean, deviation) {
  return Float32Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - random()));
    return mean + deviation * radius * Math.cos(2 * Math.PI * random());
  });
}

/** Upper halves of the floats, rounded to nearest even. */
function toBf16(values) {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return Uint16Array.from(bits, (b) => (b + 0x7fff + ((b >>> 16) & 1)) >>> 16);
}

/** Where llama.cpp's architectures differ in names: the norm before a layer's MLP or experts, and the tokenizer's splitting rule. */
const SPELLINGS = {
  qwen3: { mlpNorm: "ffn_norm", splitting: "qwen2" },
  qwen3moe: { mlpNorm: "ffn_norm", splitting: "qwen2" },
  glm4moe: { mlpNorm: "post_attention_norm", splitting: "glm4" },
};

function tensorList(s) {
  const matrix = (name, inner, ...outer) => ({ name: `${name}.weight`, shape: [inner, ...outer], type: "bf16" });
  // Whatever is not read by a matrix kernel is f32 in every file that llama.cpp converts, and so are routers.
  const f32 = (name, shape, mean) => ({ name, shape, type: "f32", mean });
  const norm = (name, size) => f32(`${name}.weight`, [size], 1);
  const mlp = (suffix, size, ...count) => [
    matrix(`ffn_gate${suffix}`, s.hiddenSize, size, ...count),
    matrix(`ffn_up${suffix}`, s.hiddenSize, size, ...count),
    matrix(`ffn_down${suffix}`, size, s.hiddenSize, ...count),
  ];
  const experts = ({ count, shared, intermediateSize, scoring }) => [
    f32("ffn_gate_inp.weight", [s.hiddenSize, count], 0),
    ...(scoring === "sigmoid" ? [f32("exp_probs_b.bias", [count], 0)] : []),
    ...mlp("_exps", intermediateSize, count),
    ...(shared > 0 ? mlp("_shexp", shared * intermediateSize) : []),
  ];
  const projection = (name, size) => [
    matrix(name, s.hiddenSize, size),
    ...(s.attentionBias ? [f32(`${name}.bias`, [size], 0)] : []),
  ];
  const layer = (i) => [
    norm("attn_norm", s.hiddenSize),
    ...projection("attn_q", s.numHeads * s.headDim),
    ...projection("attn_k", s.numKvHeads * s.headDim),
    ...projection("attn_v", s.numKvHeads * s.headDim),
    ...(s.qkNorm ? [norm("attn_q_norm", s.headDim), norm("attn_k_norm", s.headDim)] : []),
    matrix("attn_output", s.numHeads * s.headDim, s.hiddenSize),
    norm(SPELLINGS[s.architecture].mlpNorm, s.hiddenSize),
    ...(s.experts !== null && i >= s.experts.denseLayers ? experts(s.experts) : mlp("", s.intermediateSize)),
  ];
  const inBlock = (i) => layer(i).map((t) => ({ ...t, name: `blk.${i}.${t.name}` }));
  return [
    matrix("token_embd", s.hiddenSize, s.vocabSize),
    ...Array.from({ length: s.numLayers }, (_, i) => inBlock(i)).flat(),
    norm("output_norm", s.hiddenSize),
    // Without one, the head is the embedding.
    ...(s.tieWordEmbeddings ? [] : [matrix("output", s.hiddenSize, s.vocabSize)]),
  ];
}

/** The 256 one-byte tokens in GPT-2's printable spelling, then placeholders; the loader needs a vocabulary, the timing does not. */
function vocabulary(size) {
  const printable = (b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let shifted = 256;
  const bytes = Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : shifted++));
  return [...bytes, ...Array.from({ length: size - 256 }, (_, i) => `<t${i + 256}>`)];
}

function metadataOf(s) {
  const u32 = (value) => ({ type: "uint32", value });
  const f32 = (value) => ({ type: "float32", value });
  const bool = (value) => ({ type: "bool", value });
  const string = (value) => ({ type: "string", value });
  const array = (of, value) => ({ type: "array", of, value });
  const NORMAL = 1;
  const CONTROL = 3;
  const SCORING = { softmax: 1, sigmoid: 2 };
  const tokens = vocabulary(s.vocabSize);
  const { architecture, experts } = s;
  const model = {
    block_count: u32(s.numLayers),
    context_length: u32(s.maxPositionEmbeddings),
    embedding_length: u32(s.hiddenSize),
    feed_forward_length: u32(s.intermediateSize),
    "attention.head_count": u32(s.numHeads),
    "attention.head_count_kv": u32(s.numKvHeads),
    "attention.key_length": u32(s.headDim),
    "attention.value_length": u32(s.headDim),
    "attention.layer_norm_rms_epsilon": f32(s.rmsNormEps),
    "rope.freq_base": f32(s.ropeTheta),
    "rope.dimension_count": u32(s.rotaryDim),
  };
  const routing = experts && {
    expert_count: u32(experts.count),
    expert_used_count: u32(experts.perToken),
    expert_feed_forward_length: u32(experts.intermediateSize),
    expert_shared_count: u32(experts.shared),
    leading_dense_block_count: u32(experts.denseLayers),
    expert_gating_func: u32(SCORING[experts.scoring]),
    expert_weights_norm: bool(true),
    expert_weights_scale: f32(1),
  };
  const ofArchitecture = Object.entries({ ...model, ...routing }).map(([key, value]) => [`${architecture}.${key}`, value]);
  return {
    "general.architecture": string(architecture),
    "general.name": string(`${s.name}, random weights`),
    "general.file_type": u32(32), // mostly BF16
    ...Object.fromEntries(ofArchitecture),
    "tokenizer.ggml.model": string("gpt2"),
    "tokenizer.ggml.pre": string(SPELLINGS[architecture].splitting),
    "tokenizer.ggml.tokens": array("string", tokens),
    "tokenizer.ggml.token_type": array(
      "int32",
      tokens.map((_, i) => (i === s.bosTokenId || i === s.eosTokenId ? CONTROL : NORMAL)),
    ),
    "tokenizer.ggml.merges": array("string", [`${tokens[104]} ${tokens[105]}`]),
    "tokenizer.ggml.bos_token_id": u32(s.bosTokenId),
    "tokenizer.ggml.eos_token_id": u32(s.eosTokenId),
    "tokenizer.ggml.add_bos_token": bool(false),
  };
}

/** Path of the synthetic model, written on first use. A killed run leaves only a .part file. */
export function ensureSyntheticModel(shape) {
  const path = join(CACHE, `${labelOf(shape)}-bf16.gguf`);
  if (existsSync(path)) return path;
  mkdirSync(CACHE, { recursive: true });
  const random = seededRandom(1);
  const pool = Buffer.from(toBf16(gaussian(random, POOL, 0, 0.02)).buffer);
  const part = `${path}.part`;
  writeGguf(part, metadataOf(shape), tensorList(shape), function* (tensor) {
    const count = tensor.shape.reduce((a, b) => a * b, 1);
    if (tensor.type === "f32") return void (yield Buffer.from(gaussian(random, count, tensor.mean, 0.02).buffer));
    const bytes = TENSOR_TYPES.bf16.bytes;
    for (let done = 0; done < count; done += WINDOW) {
      const start = Math.floor(random() * (POOL - WINDOW)) * bytes;
      yield pool.subarray(start, start + Math.min(WINDOW, count - done) * bytes);
    }
  });
  renameSync(part, path);
  return path;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const [name, layers] = process.argv.slice(2);
  console.log(ensureSyntheticModel(shapeOf(name, layers === undefined ? undefined : Number(layers))));
}
