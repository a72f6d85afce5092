/**
 * What the compiler makes of a model for a CUDA target, without weights and without building: kernels at their true shapes.
 */
import { computeDType } from "../../compiler/architecture.ts";
import { describeModel } from "../../compiler/cli/compile-model.ts";
import { modelSource } from "../../compiler/cli/model-source.ts";
import { defaultCompileFlags } from "../../compiler/cli/options.ts";
import { type Generated, generate } from "../../compiler/pipeline.ts";

/**
 * All stages for a preset or a model folder, with the command line's limits; of at most `mostLayers` layers, which have every kind of layer
 * that the model has.
 */
export async function generateForCuda(model: string, target: string, mostLayers = Number.POSITIVE_INFINITY): Promise<Generated> {
  const source = modelSource(model, "random");
  if (source.kind === "engine") throw new Error(`${model} is an engine already`);
  const { num_hidden_layers: all } = source.config as { num_hidden_layers: number };
  const flags = defaultCompileFlags();
  const { architecture, config } = await describeModel(source, { ...flags, ...(all > mostLayers ? { layers: mostLayers } : {}) });
  const { maxNumSeqs, maxNumBatchedTokens } = flags;
  const limits = { maxModelLen: config.maxPositionEmbeddings, maxNumSeqs, maxNumBatchedTokens };
  return generate({ architecture, config, target, limits, kvCacheDtype: computeDType(config.dtype) });
}

/** Enough for every kind of layer of the presets: one in six of Gemma 3's sees all positions. */
export const FEW_LAYERS = 6;
