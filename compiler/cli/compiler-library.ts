/**
 * The package's entry `ingot/compiler`: architectures described, models compiled.
 */
import type { CompileReport } from "../compile.ts";
import { compileModel } from "./compile-model.ts";
import { UsageError } from "./exit.ts";
import { modelSource } from "./model-source.ts";
import { type CompileFlags, defaultCompileFlags } from "./options.ts";

export {
  type Architecture,
  type ArchitectureDefinition,
  computeDType,
  defineArchitecture,
  type ModelConfig,
  type UnusedTensors,
  type WeightSpec,
} from "../architecture.ts";
export type { CompileReport } from "../compile.ts";
export { CompileError, ToolchainError, UnsupportedError } from "../errors.ts";
export { Graph, type StepLimits } from "../ir/graph.ts";
export { Interpreter, interpret } from "../ir/interpret.ts";
export type { InputName, Node, NodeOf, OpName, RopeStyle } from "../ir/ops.ts";
export type { Dim, DType, SymDim, TensorType } from "../ir/tensor-type.ts";
export { UsageError } from "./exit.ts";

/** As the flags of `ingot compile`; `output` is the engine folder. */
export type CompileOptions = Partial<CompileFlags> & {
  readonly output?: string;
  readonly build?: boolean;
  readonly weightsFile?: boolean;
};

/**
 * Compiles a model folder, or a preset with `weights: "random"`, into an engine folder.
 * Throws `CompileError`, `ToolchainError`, and `UsageError` for options that make no sense.
 */
export async function compile(model: string, options: CompileOptions = {}): Promise<CompileReport> {
  const { output, build = true, weightsFile = true, ...flags } = options;
  const all = { ...defaultCompileFlags(), ...flags };
  const source = modelSource(model, all.weights);
  if (source.kind === "engine") throw new UsageError(`${model} is an engine already`);
  return compileModel(source, all, { build, weightsFile, out: output, say: () => {} });
}
