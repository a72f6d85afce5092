/**
 * Expressions over checkpoint tensors alone, which no kernel computes: the packer writes their value into weights.bin.
 */
import type { Node } from "../ir/ops.ts";

/** Whether a node is made of checkpoint tensors alone: a weight, or weights joined along axis 0. */
export function isWeightExpression(node: Node): boolean {
  return node.op === "weight" || (node.op === "concat" && node.attrs.axis === 0 && node.operands.every(isWeightExpression));
}

/** The checkpoint tensors of a weight expression, in order. */
export function weightNames(node: Node): string[] {
  if (node.op === "weight") return [node.attrs.name];
  return node.operands.flatMap((o) => weightNames(o as Node));
}
