/**
 * The graph of a model or of an engine, as the architecture builds it.
 */
import type { Manifest } from "../../runtime/manifest.ts";
import { type Architecture, computeDType, type ModelConfig } from "../architecture.ts";
import type { Graph } from "../ir/graph.ts";
import type { DType } from "../ir/tensor-type.ts";
import { buildGraph } from "../pipeline.ts";
import { architectureOfEngine, configOfEngine } from "./architecture-of.ts";
import { describeModel } from "./compile-model.ts";
import { UsageError } from "./exit.ts";
import { modelSource } from "./model-source.ts";
import { defaultCompileFlags, type ModelFlags } from "./options.ts";

/** The graph of a model folder or a preset, or of its first `layers` layers; `arch` is a file with its architecture. Throws `CompileError`, `UsageError`. */
export async function modelGraph(model: string, asked: Pick<ModelFlags, "arch" | "layers">): Promise<Graph> {
  const flags = { ...defaultCompileFlags(), weights: "random", ...asked }; // no weight is read
  const source = modelSource(model, flags.weights);
  if (source.kind === "engine") throw new UsageError(`${model} is an engine`);
  const { architecture, config } = await describeModel(source, flags);
  return graphOf(architecture, config, computeDType(config.dtype));
}

/** A graph of sequences as long as the model knows, whose cache is `kvCacheDtype`. */
export function graphOf(architecture: Architecture, config: ModelConfig, kvCacheDtype: DType): Graph {
  const { maxNumSeqs, maxNumBatchedTokens } = defaultCompileFlags();
  const limits = { maxModelLen: config.maxPositionEmbeddings, maxNumSeqs, maxNumBatchedTokens };
  return buildGraph({ architecture, config, limits, kvCacheDtype });
}

/** The graph that an engine was compiled from. Throws as `architectureOfEngine` does. */
export async function engineGraph(folder: string, manifest: Manifest, arch: string | undefined): Promise<Graph> {
  const architecture = await architectureOfEngine(folder, manifest, arch);
  const config = { ...architecture.readConfig(configOfEngine(folder)), dtype: manifest.model.dtype };
  return buildGraph({ architecture, config, limits: manifest.limits, kvCacheDtype: manifest.kvCache.dtype as DType });
}
