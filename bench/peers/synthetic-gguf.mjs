// Makes a GGUF file of Qwen3-0.6B's exact shapes with random bf16 weights and a synthetic vocabulary: enough to time it, nothing
// to read. `node synthetic-gguf.mjs` writes .cache/qwen3-0.6b-bf16.gguf (1.2 GB) unless it is there.
//
// Weights are N(0, 0.02): windows at random places of a pool of 4 Mi Gaussian values, since drawing 596 M of them takes minutes
// and speed does not depend on them.

import { existsSync, mkdirSync, renameSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { TENSOR_TYPES, writeGguf } from "./gguf-writer.mjs";
import { QWEN3_0_6B } from "./shapes.mjs";

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

function tensorList(s) {
  const matrix = (name, inner, outer) => ({ name: `${name}.weight`, shape: [inner, outer], type: "bf16" });
  const norm = (name, size) => ({ name: `${name}.weight`, shape: [size], type: "f32" });
  const layer = (i) => [
    norm(`blk.${i}.attn_norm`, s.hiddenSize),
    matrix(`blk.${i}.attn_q`, s.hiddenSize, s.numHeads * s.headDim),
    matrix(`blk.${i}.attn_k`, s.hiddenSize, s.numKvHeads * s.headDim),
    matrix(`blk.${i}.attn_v`, s.hiddenSize, s.numKvHeads * s.headDim),
    norm(`blk.${i}.attn_q_norm`, s.headDim),
    norm(`blk.${i}.attn_k_norm`, s.headDim),
    matrix(`blk.${i}.attn_output`, s.numHeads * s.headDim, s.hiddenSize),
    norm(`blk.${i}.ffn_norm`, s.hiddenSize),
    matrix(`blk.${i}.ffn_gate`, s.hiddenSize, s.intermediateSize),
    matrix(`blk.${i}.ffn_up`, s.hiddenSize, s.intermediateSize),
    matrix(`blk.${i}.ffn_down`, s.intermediateSize, s.hiddenSize),
  ];
  // No output.weight: the head is tied to the embedding.
  return [
    matrix("token_embd", s.hiddenSize, s.vocabSize),
    ...Array.from({ length: s.numLayers }, (_, i) => layer(i)).flat(),
    norm("output_norm", s.hiddenSize),
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
  const string = (value) => ({ type: "string", value });
  const array = (of, value) => ({ type: "array", of, value });
  const NORMAL = 1;
  const CONTROL = 3;
  const tokens = vocabulary(s.vocabSize);
  return {
    "general.architecture": string("qwen3"),
    "general.name": string("Qwen3-0.6B, random weights"),
    "general.file_type": u32(32), // mostly BF16
    "qwen3.block_count": u32(s.numLayers),
    "qwen3.context_length": u32(s.maxPositionEmbeddings),
    "qwen3.embedding_length": u32(s.hiddenSize),
    "qwen3.feed_forward_length": u32(s.intermediateSize),
    "qwen3.attention.head_count": u32(s.numHeads),
    "qwen3.attention.head_count_kv": u32(s.numKvHeads),
    "qwen3.attention.key_length": u32(s.headDim),
    "qwen3.attention.value_length": u32(s.headDim),
    "qwen3.attention.layer_norm_rms_epsilon": f32(s.rmsNormEps),
    "qwen3.rope.freq_base": f32(s.ropeTheta),
    "tokenizer.ggml.model": string("gpt2"),
    "tokenizer.ggml.pre": string("qwen2"),
    "tokenizer.ggml.tokens": array("string", tokens),
    "tokenizer.ggml.token_type": array(
      "int32",
      tokens.map((_, i) => (i === s.bosTokenId || i === s.eosTokenId ? CONTROL : NORMAL)),
    ),
    "tokenizer.ggml.merges": array("string", [`${tokens[104]} ${tokens[105]}`]),
    "tokenizer.ggml.bos_token_id": u32(s.bosTokenId),
    "tokenizer.ggml.eos_token_id": u32(s.eosTokenId),
    "tokenizer.ggml.add_bos_token": { type: "bool", value: false },
  };
}

/** Path of the synthetic model, written on first use. A killed run leaves only a .part file. */
export function ensureSyntheticModel(shape = QWEN3_0_6B) {
  const path = join(CACHE, `${shape.name}-bf16.gguf`);
  if (existsSync(path)) return path;
  mkdirSync(CACHE, { recursive: true });
  const random = seededRandom(1);
  const pool = Buffer.from(toBf16(gaussian(random, POOL, 0, 0.02)).buffer);
  const part = `${path}.part`;
  writeGguf(part, metadataOf(shape), tensorList(shape), function* (tensor) {
    const count = tensor.shape.reduce((a, b) => a * b, 1);
    if (tensor.type === "f32") return void (yield Buffer.from(gaussian(random, count, 1, 0.02).buffer));
    const bytes = TENSOR_TYPES.bf16.bytes;
    for (let done = 0; done < count; done += WINDOW) {
      const start = Math.floor(random() * (POOL - WINDOW)) * bytes;
      yield pool.subarray(start, start + Math.min(WINDOW, count - done) * bytes);
    }
  });
  renameSync(part, path);
  return path;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) console.log(ensureSyntheticModel());
