/**
 * What the kernels of a program read of a checkpoint, and in which layout.
 */
import { panelTensors, tensorLayout } from "../codegen/layout.ts";
import { CompileError, UnsupportedError } from "../errors.ts";
import { kernelArgs } from "../kernels/operands.ts";
import type { KernelSpec, TensorValue } from "../kernels/spec.ts";
import { weightNames } from "../kernels/weight-expression.ts";
import type { PackRequest } from "../weights/layout.ts";
import type { WeightDType } from "../weights/source.ts";

/** Every tensor the kernels read, once, in the order of first use. */
export function packRequests(kernels: readonly KernelSpec[]): PackRequest[] {
  const panels = panelTensors(kernels);
  const ways = new Map<string, 1 | 2>();
  for (const k of kernels) {
    if (k.kind !== "linear") continue;
    if ((ways.get(k.w.name) ?? k.ways) !== k.ways) {
      throw new UnsupportedError(
        `${k.w.name} is read both as one matrix and as a gate and its up: give one of them its own tensor`,
      );
    }
    ways.set(k.w.name, k.ways);
  }
  const requests = new Map<string, PackRequest>();
  for (const value of kernels.flatMap(tensorsOf)) {
    if (requests.has(value.name)) continue;
    requests.set(value.name, {
      name: value.name,
      sources: sourcesOf(value),
      dtype: weightDType(value),
      layout: tensorLayout(value, panels),
      ways: ways.get(value.name) ?? 1,
    });
  }
  return [...requests.values()];
}

const tensorsOf = (spec: KernelSpec): TensorValue[] =>
  kernelArgs(spec).flatMap((arg) => (arg.kind === "value" && arg.value.kind === "tensor" ? [arg.value] : []));

function sourcesOf(value: TensorValue): PackRequest["sources"] {
  const shapes = new Map<string, readonly number[]>();
  const visit = (node: TensorValue["node"]): void => {
    if (node.op === "weight") shapes.set(node.attrs.name, node.type.shape as readonly number[]);
    for (const operand of node.operands) visit(operand);
  };
  visit(value.node);
  return weightNames(value.node).map((name) => ({ name, shape: shapes.get(name) ?? [] }));
}

function weightDType({ dtype, name }: TensorValue): WeightDType {
  if (dtype === "f32" || dtype === "bf16" || dtype === "f16") return dtype;
  throw new CompileError(`${name} is wanted as ${dtype}; weights are f32, f16 or bf16`);
}
