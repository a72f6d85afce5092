/**
 * Expressions over checkpoint tensors, which no kernel computes: the packer writes their value into weights.bin.
 */
import type { Node, OpName } from "../ir/ops.ts";

/** Whether a node is made of checkpoint tensors and constants alone. Which of these the packer folds says `weights/rows.ts`. */
export function isWeightExpression(node: Node): boolean {
  let hasWeights = node.op === "weight";
  for (const operand of node.operands) {
    if (operand.op === "constant") continue;
    if (!isWeightExpression(operand)) return false;
    hasWeights = true;
  }
  return hasWeights;
}

/** Names that are spelt out; of more, the first and their number. */
const MOST_NAMES = 3;

/** The checkpoint tensors of an expression in a few words: `q+k+v`, `experts.0.gate_proj.weight + 255 more`. */
export function printWeights(node: Node): string {
  const names = weightNames(node);
  const [first, ...others] = names;
  return names.length <= MOST_NAMES ? names.join("+") : `${first} + ${others.length} more`;
}

/** The checkpoint tensors of an expression, each once, in the order of first use. */
export const weightNames = (node: Node): string[] =>
  node.op === "weight" ? [node.attrs.name] : [...new Set(node.operands.flatMap(weightNames))];

/** The ops of an expression, each once: none of a tensor that is read as the checkpoint has it. */
export const weightOps = (node: Node): OpName[] =>
  node.op === "weight" || node.op === "constant" ? [] : [...new Set([...node.operands.flatMap(weightOps), node.op])];
