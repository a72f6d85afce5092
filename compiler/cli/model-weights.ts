/**
 * The weights of what a user named: those of its checkpoint, or random ones.
 */
import { type Architecture, computeDType, type ModelConfig } from "../architecture.ts";
import { underWholeNames } from "../weights/base-model.ts";
import { RandomWeights } from "../weights/random.ts";
import { type Checkpoint, openCheckpoint } from "../weights/safetensors.ts";
import type { WeightDType, WeightSource } from "../weights/source.ts";
import type { ModelSource } from "./model-source.ts";
import type { ModelFlags } from "./options.ts";

export interface ModelWeights {
  readonly source: WeightSource;
  /** The files behind `source`; null where they are random. */
  readonly checkpoint: Checkpoint | null;
  close(): void;
}

/** Opens the weights that `architecture` reads, under its names; a preset has random ones. Throws `CompileError`. */
export function openWeights(
  model: Exclude<ModelSource, { kind: "engine" }>,
  architecture: Architecture,
  config: ModelConfig,
  flags: ModelFlags,
): ModelWeights {
  const specs = architecture.weights(config);
  if (flags.weights === "random" || model.kind === "preset") {
    const shapes = new Map(specs.map((w) => [w.name, w.shape]));
    const source = new RandomWeights(flags.weightsSeed, computeDType(config.dtype) as WeightDType, shapes);
    return { source, checkpoint: null, close: () => {} };
  }
  const names = specs.map((w) => w.name);
  const checkpoint = openCheckpoint(model.folder);
  return { source: underWholeNames(checkpoint, names), checkpoint, close: () => checkpoint.close() };
}
