/**
 * Grows the region of a kernel: the elementwise work around an anchor that its slots can do while a value is still in a register.
 *
 * A region grows over elementwise users while their other operands are already there; it is cut at the last place where exactly
 * one value leaves it. What the anchor itself computes is `form.ts`'s business.
 */
import { ELEMENTWISE, type Node } from "../ir/ops.ts";
import { type Dim, maxOf, sameDim } from "../ir/tensor-type.ts";
import type { BufferValue, Expr, TensorValue } from "./spec.ts";
import { isWeightExpression } from "./weight-expression.ts";

/** A kernel's part of the graph: `root` is the one value that leaves it, computed by `epilogue` over `operands`. */
export interface Region {
  readonly root: Node;
  readonly epilogue: Expr;
  readonly operands: readonly (BufferValue | TensorValue)[];
  readonly nodes: readonly Node[];
}

/** What growing must know of the graph around a region. */
export interface Surroundings {
  usersOf(node: Node): readonly Node[];
  /** Whether a node's value is wanted by name: as a tap or as the logits. */
  isNamed(node: Node): boolean;
  /** Whether another kernel computes a node already. */
  isComputed(node: Node): boolean;
  /** The buffer of a value that a kernel before this one writes. */
  bufferAt(node: Node): BufferValue | undefined;
  /** The tensor of a weight expression. */
  tensorOf(node: Node): TensorValue;
}

/** Elements of a row: everything but the first extent. */
export const rowElements = (shape: readonly Dim[]): number => shape.slice(1).reduce<number>((p, d) => p * maxOf(d), 1);

/** Whether two shapes are the same rows in row-major order: equal first extents, rows of as many elements. */
export const sameRows = (a: readonly Dim[], b: readonly Dim[]): boolean =>
  a[0] !== undefined && b[0] !== undefined && sameDim(a[0], b[0]) && rowElements(a) === rowElements(b);

/**
 * The largest region over the anchor's values `start`, or null when no single value leaves any (two halves that never meet).
 * `operands` are what `start` reads already; without `takesOperands` only work over the anchor's own values is taken in.
 */
export function growRegion(
  around: Surroundings,
  start: ReadonlyMap<Node, Expr>,
  { operands = [], takesOperands = true }: { operands?: Region["operands"]; takesOperands?: boolean } = {},
): Region | null {
  const exprs = new Map(start);
  let read = operands;
  let best: Region | null = null;
  for (let next: Node | undefined = [...start.keys()].at(-1); next; ) {
    const leaving = [...exprs.keys()].filter((n) => around.isNamed(n) || around.usersOf(n).some((u) => !exprs.has(u)));
    if (leaving.length <= 1 && (leaving[0] ?? next) === next) {
      best = { root: next, epilogue: exprs.get(next) as Expr, operands: read, nodes: [...exprs.keys()] };
    }
    next = undefined;
    for (const user of usersOf(around, exprs)) {
      const applied = applyElementwise(around, user, exprs, read);
      if (!applied || (!takesOperands && applied.operands.length > 0)) continue;
      exprs.set(user, applied.expr);
      read = applied.operands;
      next = user;
      break;
    }
  }
  return best;
}

/** Users of the region that no kernel computes yet, the earliest first. */
function usersOf(around: Surroundings, exprs: ReadonlyMap<Node, Expr>): Node[] {
  const users = new Set([...exprs.keys()].flatMap((n) => around.usersOf(n)));
  return [...users].filter((u) => !exprs.has(u) && !around.isComputed(u)).sort((a, b) => a.id - b.id);
}

/** `node` as an expression over values of the region and values that are there, or undefined. Reads `operands` and perhaps more. */
export function applyElementwise(
  around: Surroundings,
  node: Node,
  exprs: ReadonlyMap<Node, Expr>,
  operands: Region["operands"],
): { readonly expr: Expr; readonly operands: Region["operands"] } | undefined {
  if (!ELEMENTWISE.has(node.op) && node.op !== "reshape") return undefined;
  let read = operands;
  const args: Expr[] = [];
  for (const operand of node.operands) {
    const inside = exprs.get(operand);
    if (inside) {
      if (!sameRows(operand.type.shape, node.type.shape)) return undefined;
      args.push(inside);
      continue;
    }
    if (operand.op === "constant") {
      args.push({ kind: "constant", value: operand.attrs.value });
      continue;
    }
    const value = leaf(around, operand, node);
    if (!value) return undefined;
    const known = read.findIndex((o) => o.name === value.name);
    if (known < 0) read = [...read, value];
    args.push({ kind: "operand", index: known < 0 ? read.length - 1 : known });
  }
  const expr = combine(node, args as [Expr, Expr]);
  return expr && { expr, operands: read };
}

/** `node` as a scalar expression over those of its operands, or undefined when it has none. */
export function combine(node: Node, [a, b]: readonly [Expr, Expr]): Expr | undefined {
  switch (node.op) {
    case "add":
    case "mul":
    case "min":
    case "max":
      return { kind: "binary", fn: node.op, a, b };
    case "sigmoid":
    case "silu":
    case "gelu_tanh":
    case "tanh":
      return { kind: "unary", fn: node.op, x: a };
    case "cast": {
      const { dtype } = node.attrs;
      if (dtype === "f32") return a;
      return dtype === "bf16" || dtype === "f16" ? { kind: "unary", fn: `round_${dtype}`, x: a } : undefined;
    }
    case "reshape":
      return a;
    default:
      return undefined;
  }
}

/** A value outside the region as `user` reads it: one row vector for all rows, or a buffer of the same rows, perhaps of one column. */
function leaf(around: Surroundings, node: Node, user: Node): BufferValue | TensorValue | undefined {
  const { shape } = node.type;
  // A vector an expert, taken at each sorted row's own.
  if (node.op === "expert_rows") return around.tensorOf(node.operands[0]);
  if (isWeightExpression(node)) {
    return shape.length === 1 && shape[0] === rowElements(user.type.shape) ? around.tensorOf(node) : undefined;
  }
  const isColumn = sameRows(shape, [...user.type.shape.slice(0, 1), 1]);
  return isColumn || sameRows(shape, user.type.shape) ? around.bufferAt(node) : undefined;
}
