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
import { DENSE_RANDOM_FAMILIES, type RandomFamily, randomConfig } from "./random-config.ts";
import { type SeededRandom, seededRandom } from "./seeded-random.ts";

export interface RandomModel {
  readonly config: Readonly<Record<string, unknown>>;
  /** Values as stored, in f32. */
  readonly weights: (name: string) => Float32Array;
}

/** The model of `seed`: of a random shape of one of the families, or of the one shape given. */
export function randomModel(
  seed: number,
  shape: readonly RandomFamily[] | RandomModel["config"],
): RandomModel & { readonly file: Uint8Array } {
  const random = seededRandom(seed);
  const config = Array.isArray(shape) ? randomConfig(random, random.pick(shape)) : (shape as RandomModel["config"]);
  const stored = random.pick<WeightDType>(["f32", "bf16", "f16"]);
  const architecture = findArchitecture(config);
  const specs = architecture.weights(architecture.readConfig(config));
  const values = new Map<string, Float32Array>();
  const tensors = specs.map(({ name, shape }) => {
    const data = narrow(randomTensor(random, name, shape), stored);
    values.set(name, data.values);
    return { name, dtype: stored.toUpperCase(), shape, data: data.bytes };
  });
  return { config, weights: (name) => values.get(name)!, file: safetensorsFile(tensors) };
}

/** Writes the model of `seed` into `folder`, which must not be there. */
export function writeRandomModel(
  folder: string,
  seed: number,
  shape: readonly RandomFamily[] | RandomModel["config"] = DENSE_RANDOM_FAMILIES,
): RandomModel & { readonly folder: string } {
  const { config, weights, file } = randomModel(seed, shape);
  mkdirSync(folder);
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  writeFileSync(join(folder, "model.safetensors"), file);
  return { folder, config, weights };
}

/** Spread so wide that routers and attention decide, and never so wide that values grow from layer to layer. */
function randomTensor(random: SeededRandom, name: string, shape: readonly number[]): Float32Array {
  const isBias = /bias$|sinks$/.test(name);
  const isMatrix = !isBias && shape.length > 1;
  const isGain = !isBias && !isMatrix;
  const sharpness = /[qk]_proj|mlp\.(gate|router)|block_sparse_moe\.gate/.test(name) ? 1.5 : 1;
  const scale = !isMatrix ? 0.3 : name.includes("embed_") ? 1 : sharpness / Math.sqrt(shape[1]!);
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
