/**
 * What the compiler asks of a model: a configuration read from `config.json` and a function that builds the graph.
 *
 * Models live outside the compiler and are handed to it; this file is the contract between the two.
 */
import type { ModelFacts } from "../runtime/manifest.ts";
import { Graph } from "./ir/graph.ts";
import type { DType } from "./ir/tensor-type.ts";

/** The facts every model states; an architecture extends them with its own. `dtype` is what the model computes in. */
export type ModelConfig = ModelFacts;

/** A checkpoint tensor a model reads. `dtype` is what the graph wants it as, whatever the checkpoint stores. */
export interface WeightSpec {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** Checkpoint tensors, by how their names begin, that a model knowingly does not read. */
export interface UnusedTensors {
  readonly prefix: string;
  /** A clause for a report: "layer 46 predicts further tokens ahead, which is not done". */
  readonly why: string;
}

export interface Architecture<C extends ModelConfig = ModelConfig> {
  /** As `architectures` of config.json says it: "Qwen3ForCausalLM". */
  readonly name: string;
  /** Reads untrusted `config.json`. Throws `CompileError` naming the field, what was expected and what was found. */
  readConfig(json: unknown): C;
  /** Builds the model into `g`, ending with `g.setLogits`. Throws `CompileError`. */
  build(config: C, g: Graph): void;
  /** Every tensor the built graph reads, in the order of its first use. */
  weights(config: C): readonly WeightSpec[];
  /** What published checkpoints hold beyond `weights`. Absent: nothing that is known. */
  unusedTensors?(config: C): readonly UnusedTensors[];
}

/** What the author of an architecture writes; the rest follows from the graph. */
export interface ArchitectureDefinition<C extends ModelConfig> {
  readonly name: string;
  readonly readConfig: (json: unknown) => Omit<C, "architecture" | "numParameters">;
  readonly build: (config: C, g: Graph) => void;
  readonly unusedTensors?: (config: C) => readonly UnusedTensors[];
}

/** Completes an architecture: its weights and its number of parameters are read off the graph it builds. */
export function defineArchitecture<C extends ModelConfig>(definition: ArchitectureDefinition<C>): Architecture<C> {
  const { name, build, unusedTensors } = definition;
  const weights = (config: C): readonly WeightSpec[] => {
    const g = new Graph({ maxModelLen: 1, maxNumSeqs: 1, maxNumBatchedTokens: 1, blockSize: 1 });
    build(config, g);
    return g.liveNodes().flatMap((node) => {
      if (node.op !== "weight") return [];
      return [{ name: node.attrs.name, dtype: node.type.dtype, shape: node.type.shape as readonly number[] }];
    });
  };
  return {
    name,
    build,
    weights,
    ...(unusedTensors ? { unusedTensors } : {}),
    readConfig(json) {
      const config = { ...definition.readConfig(json), architecture: name, numParameters: 0 } as C;
      const sizes = weights(config).map(({ shape }) => shape.reduce((a, b) => a * b, 1));
      return { ...config, numParameters: sizes.reduce((a, b) => a + b, 0) };
    },
  };
}

/** The dtype of weights and KV cache for a `dtype` as config.json names it. */
export const computeDType = (dtype: ModelConfig["dtype"]): DType =>
  ({ float32: "f32", float16: "f16", bfloat16: "bf16" })[dtype] as DType;
