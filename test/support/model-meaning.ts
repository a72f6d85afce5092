/**
 * What a model's own graph means, by the interpreter, and how far an engine may be from it.
 */
import { DEFAULT_KV_BLOCK_SIZE } from "../../compiler/codegen/cpu/kernel-schedule.ts";
import { Interpreter } from "../../compiler/ir/interpret.ts";
import { roundTo } from "../../compiler/ir/rounding.ts";
import { oneSequenceStep } from "../../compiler/ir/step.ts";
import type { DType } from "../../compiler/ir/tensor-type.ts";
import { legalize } from "../../compiler/passes/legalize.ts";
import { runPasses } from "../../compiler/passes/pass.ts";
import { buildGraph } from "../../compiler/pipeline.ts";
import { kernelTarget } from "../../compiler/plan/kernel-target.ts";
import { findArchitecture } from "../../models/registry.ts";
import { relativeError } from "./closeness.ts";
import type { RandomModel } from "./random-model.ts";

export type ModelDType = "float32" | "bfloat16" | "float16";

/** Logits of every row, and the rows between layers. */
export interface ModelOutputs {
  readonly logits: Float32Array;
  readonly hidden: readonly Float32Array[];
}

interface Compiled {
  readonly dtype: ModelDType;
  readonly target: string;
  /** Tokens of a sequence at most. */
  readonly context: number;
  /** What the cache holds. */
  readonly kv: DType;
  /** How far an output may be, in terms of how far the narrow dtype itself moves it; the default suits the target's linears. */
  readonly share?: number;
}

/** What a model compiled so means of `ids`; `excess` names the outputs that are further from it than roundings explain. */
export function meaningOf(model: RandomModel, ids: readonly number[], { dtype, target, context, kv, ...o }: Compiled) {
  const { linearInput } = kernelTarget(target);
  const meant = interpret(model, ids, context, { dtype, kv, linearInput });
  // How far the narrow dtype itself moves the results says how far roundings that fall the other way may. Where activations are
  // rounded, too, a difference in the last bit of a sum grows: one rounding in a few hundred falls the other way, and so on.
  const share = o.share ?? (linearInput(kv) === "f32" ? 1 / 2 : 1);
  const stored = { ...model, weights: (name: string) => roundTo(kv, model.weights(name)) };
  const moved = errors(meant, interpret(stored, ids, context, { dtype: "float32", kv: "f32", linearInput: () => "f32" }));
  return {
    excess: (found: ModelOutputs): string[] =>
      errors(found, meant).flatMap((error, i) => {
        const allowed = Math.max(1e-5, moved[i]! * share);
        const output = i === moved.length - 1 ? "logits" : `hidden.${i}`;
        return error <= allowed ? [] : [`${output}: ${error}, allowed ${allowed}`];
      }),
  };
}

/** The graph with matrices and cache of one dtype, and the roundings that a target's linears ask for. */
function interpret(
  { config: json, weights }: RandomModel,
  ids: readonly number[],
  context: number,
  o: { dtype: ModelDType; kv: DType; linearInput: (weights: DType) => DType },
): ModelOutputs {
  const architecture = findArchitecture(json);
  const config = { ...architecture.readConfig(json), dtype: o.dtype };
  const limits = { maxModelLen: context, maxNumSeqs: context, maxNumBatchedTokens: context };
  const graph = buildGraph({ architecture, config, limits, kvCacheDtype: o.kv });
  const legal = runPasses(graph, [legalize({ linearInput: o.linearInput })]).graph;
  const interpreter = new Interpreter(legal, weights, Math.ceil(context / DEFAULT_KV_BLOCK_SIZE));
  const { logits, taps } = interpreter.step(oneSequenceStep(ids, 0, DEFAULT_KV_BLOCK_SIZE, "all"));
  return { logits, hidden: Array.from({ length: config.numLayers + 1 }, (_, l) => taps.get(`hidden.${l}`)!) };
}

const errors = (actual: ModelOutputs, expected: ModelOutputs): number[] => [
  ...expected.hidden.map((e, l) => relativeError(actual.hidden[l]!, e)),
  relativeError(actual.logits, expected.logits),
];
