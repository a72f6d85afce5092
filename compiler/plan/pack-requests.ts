/**
 * What the kernels of a program read of a checkpoint, and in which layout.
 */
import { CompileError, UnsupportedError } from "../errors.ts";
import type { Node } from "../ir/ops.ts";
import { kernelTensors } from "../kernels/operands.ts";
import type { KernelSpec, TensorValue } from "../kernels/spec.ts";
import type { PackRequest } from "../weights/layout.ts";
import { weightRows } from "../weights/rows.ts";
import type { WeightDType } from "../weights/source.ts";
import { type KernelTarget, matricesOf } from "./kernel-target.ts";

/** Every tensor the kernels read, once, in the order of first use. */
export function packRequests(kernels: readonly KernelSpec[], target: Pick<KernelTarget, "tensorLayout">): PackRequest[] {
  const matrices = matricesOf(kernels);
  const ways = new Map<string, 1 | 2>();
  const readShares = new Map<string, number>();
  for (const k of kernels) {
    for (const tensor of kernelTensors(k))
      readShares.set(tensor.name, Math.max(readShares.get(tensor.name) ?? 0, readShare(k, tensor.node)));
    if (!("w" in k)) continue;
    const kernelWays = "ways" in k ? k.ways : 1;
    if ((ways.get(k.w.name) ?? kernelWays) !== kernelWays) {
      throw new UnsupportedError(
        `${k.w.name} is read both as one matrix and as a gate and its up: give one of them its own tensor`,
      );
    }
    ways.set(k.w.name, kernelWays);
  }
  const requests = new Map<string, PackRequest>();
  for (const value of kernels.flatMap(kernelTensors)) {
    if (requests.has(value.name)) continue;
    const layout = target.tensorLayout(value, matrices);
    requests.set(value.name, {
      name: value.name,
      rows: weightRows(value.node),
      dtype: weightDType(value),
      layout,
      ways: layout === "rows" ? 1 : (ways.get(value.name) ?? 1),
      readShare: readShares.get(value.name) as number,
    });
  }
  return [...requests.values()];
}

/** The part of `tensor` that `kernel` reads for a step of one token: one row of a table, the active experts of a stack. */
function readShare(kernel: KernelSpec, tensor: Node): number {
  // A vector an expert is read where its rows are.
  const readers = kernel.nodes.flatMap((node) => [node, ...node.operands.filter((o) => o.op === "expert_rows")]);
  const shares = readers.flatMap((node) => {
    if (!node.operands.some((o) => o === tensor)) return [];
    const [first] = tensor.type.shape as readonly number[];
    if (node.op === "embedding") return [1 / (first as number)];
    const ids = node.op === "grouped_linear" ? node.operands[2] : node.op === "expert_rows" ? node.operands[1] : null;
    return [ids ? (ids.type.shape[1] as number) / (first as number) : 1];
  });
  return Math.max(...shares, 0);
}

function weightDType({ dtype, name }: TensorValue): WeightDType {
  if (dtype === "f32" || dtype === "bf16" || dtype === "f16") return dtype;
  throw new CompileError(`${name} is wanted as ${dtype}; weights are f32, f16 or bf16`);
}
