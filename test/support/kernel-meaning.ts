/**
 * One step of a graph by both of its meanings: interpreted as a graph, and as the kernels that are formed from it.
 */
import type { Graph } from "../../compiler/ir/graph.ts";
import { type Interpretation, interpret } from "../../compiler/ir/interpret.ts";
import { oneSequenceStep, type StepInputs } from "../../compiler/ir/step.ts";
import type { KernelEnvironment } from "../../compiler/kernels/environment.ts";
import type { KernelProgram } from "../../compiler/kernels/form.ts";
import { interpretKernels } from "../../compiler/kernels/interpret.ts";
import type { TensorValue } from "../../compiler/kernels/spec.ts";
import { expectClose } from "./closeness.ts";
import { weightsOf } from "./dense-graph.ts";
import { expressionValue } from "./weight-values.ts";

/** Seventeen tokens: more than one block of 16. */
export const sampleStep = (): StepInputs =>
  oneSequenceStep([5, 17, 3, 9, 42, 7, 7, 61, 12, 30, 2, 8, 9, 1, 55, 31, 23], 0, 16, "all");

/** Empty caches, and the weights and inputs of `step`, as kernels read them. */
export function kernelEnvironment(
  graph: Graph,
  step: StepInputs,
  weights = weightsOf(graph),
  buffers: KernelEnvironment["buffers"] = new Map(),
): KernelEnvironment {
  const caches = new Map(
    graph.liveNodes().flatMap((node) => {
      if (node.op !== "kv_cache") return [];
      const size = 2 * 16 * node.attrs.numKvHeads * node.attrs.headDim;
      return [[node.attrs.layer, { blockSize: 16, k: new Float32Array(size), v: new Float32Array(size) }] as const];
    }),
  );
  return {
    binding: step.binding,
    buffers,
    tensor: (value: TensorValue) => expressionValue(value.node, (name) => weights.get(name)!),
    input: (name) => step.arrays[name],
    kv: (layer) => caches.get(layer)!,
  };
}

/** What the graph says of `step` over empty caches. */
export function graphMeaning(graph: Graph, step: StepInputs, weights = weightsOf(graph)): Interpretation {
  const { kv } = kernelEnvironment(graph, step, weights);
  return interpret(graph, { step, weights: (n) => weights.get(n)!, kv });
}

/** Fails unless kernels compute `graph`'s logits, taps and caches bit for bit: both meanings round at the same places. */
export function expectSameMeaning(graph: Graph, { kernels, logits, taps }: KernelProgram): void {
  const step = sampleStep();
  const expected = graphMeaning(graph, step);
  const env = kernelEnvironment(graph, step);
  interpretKernels(kernels, env);
  expectClose(env.buffers.get(logits.name)!, expected.logits, 0, "logits");
  for (const { name, buffer } of taps) expectClose(env.buffers.get(buffer.name)!, expected.taps.get(name)!, 0, name);
  for (const [layer, { k, v }] of expected.kv) {
    expectClose(env.kv(layer).k, k, 0, `keys of layer ${layer}`);
    expectClose(env.kv(layer).v, v, 0, `values of layer ${layer}`);
  }
}
