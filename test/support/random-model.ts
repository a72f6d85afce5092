/**
 * Models nobody trained, of shapes nobody publishes: a config.json and weights that follow from a seed.
 *
 * Sizes are uneven on purpose, and weights are spread so wide that every mistake shows: attention that picks, gains far from 1,
 * biases far from 0.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { converter } from "../../compiler/weights/convert.ts";
import { elementsOf, type WeightDType } from "../../compiler/weights/source.ts";
import { findArchitecture } from "../../models/registry.ts";
import { safetensorsFile } from "../compiler/weights/safetensors-file.ts";
import { type SeededRandom, seededRandom } from "./seeded-random.ts";

export interface RandomModel {
  readonly folder: string;
  readonly config: Readonly<Record<string, unknown>>;
  /** Values as stored, in f32. */
  readonly weights: (name: string) => Float32Array;
}

/** Writes the model of `seed` into `folder`, which must not be there. */
export function writeRandomModel(folder: string, seed: number): RandomModel {
  const random = seededRandom(seed);
  const config = randomConfig(random);
  const stored = random.pick<WeightDType>(["f32", "bf16", "f16"]);
  const architecture = findArchitecture(config);
  const specs = architecture.weights(architecture.readConfig(config));
  const values = new Map<string, Float32Array>();
  const tensors = specs.map(({ name, shape }) => {
    const data = narrow(randomTensor(random, name, shape), stored);
    values.set(name, data.values);
    return { name, dtype: stored.toUpperCase(), shape, data: data.bytes };
  });
  mkdirSync(folder);
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  writeFileSync(join(folder, "model.safetensors"), safetensorsFile(tensors));
  return { folder, config, weights: (name) => values.get(name)! };
}

function randomConfig(random: SeededRandom): Record<string, unknown> {
  const heads = random.pick([1, 1, 2, 3]);
  const family = random.pick(["Llama", "Mistral", "Qwen2", "Qwen3"]);
  const layers = 1 + random.below(2);
  const windowed = random.below(2) === 0;
  const window = random.pick([1, 5, 24, 33, 100]);
  const common = {
    architectures: [`${family}ForCausalLM`],
    hidden_size: random.pick([16, 48, 64, 80, 100, 144, 200, 528]),
    intermediate_size: random.pick([33, 64, 100, 160, 250, 600]),
    num_hidden_layers: layers,
    num_attention_heads: heads * random.pick([1, 2, 3, 4, 7]),
    num_key_value_heads: heads,
    head_dim: random.pick([16, 32, 64, 80, 96, 128]),
    vocab_size: random.pick([97, 130, 257, 512, 1001]),
    max_position_embeddings: 256,
    rms_norm_eps: random.pick([1e-6, 1e-5]),
    tie_word_embeddings: random.below(2) === 0,
    torch_dtype: "float32",
    rope_theta: random.pick([1000, 10000, 1e6]),
    rope_scaling: random.pick([
      null,
      null,
      { rope_type: "linear", factor: 3 },
      { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 64 },
      { rope_type: "yarn", factor: 4, original_max_position_embeddings: 64 },
    ]),
  };
  switch (family) {
    case "Llama":
      return { ...common, attention_bias: random.below(2) === 0, mlp_bias: random.below(2) === 0 };
    case "Mistral":
      return { ...common, sliding_window: windowed ? window : null };
    default: {
      const windows = {
        use_sliding_window: windowed,
        sliding_window: windowed ? window : null,
        max_window_layers: random.below(2),
      };
      return { ...common, ...windows, ...(family === "Qwen3" ? { attention_bias: random.below(2) === 0 } : {}) };
    }
  }
}

function randomTensor(random: SeededRandom, name: string, shape: readonly number[]): Float32Array {
  const isMatrix = shape.length === 2;
  const isGain = !isMatrix && name.endsWith(".weight");
  const sharpness = /[qk]_proj/.test(name) ? 1.5 : 1;
  const scale = !isMatrix ? 0.3 : name.includes("embed_tokens") ? 1 : sharpness / Math.sqrt(shape[1]!);
  return Float32Array.from({ length: elementsOf(shape) }, () => (isGain ? 1 : 0) + scale * random.normal());
}

/** `values` as `dtype` holds them: the bytes, and what they read back as. */
function narrow(values: Float32Array, dtype: WeightDType): { bytes: Uint8Array; values: Float32Array } {
  const bytes = new Uint8Array(values.length * (dtype === "f32" ? 4 : 2));
  converter("f32", dtype)(new Uint8Array(values.buffer), bytes, values.length);
  const back = new Float32Array(values.length);
  converter(dtype, "f32")(bytes, new Uint8Array(back.buffer), values.length);
  return { bytes, values: back };
}
