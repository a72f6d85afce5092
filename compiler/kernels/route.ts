/**
 * Finds what chooses the experts of a layer, around a `top_k`, and writes it as steps over one row.
 *
 * From the scores on everything is row by row: backwards over what judges experts, forwards over what weighs the chosen ones. All of
 * it is one kernel, whatever a family composes it of.
 */
import { UnsupportedError } from "../errors.ts";
import type { Graph } from "../ir/graph.ts";
import { ELEMENTWISE, type Node, type NodeOf, type OpName } from "../ir/ops.ts";
import { combine } from "./region.ts";
import type { BufferValue, Expr, RouteKernel, RowStep, TensorValue } from "./spec.ts";
import { isWeightExpression } from "./weight-expression.ts";

/** The part of the graph that one routing kernel computes, in order. */
export interface Route {
  readonly nodes: readonly Node[];
  /** Nodes whose values others read. */
  readonly outs: readonly Node[];
}

const ROW_OPS: ReadonlySet<OpName> = new Set([
  ...ELEMENTWISE,
  "softmax",
  "renormalize",
  "group_limit",
  "top_k",
  "gather_cols",
] satisfies OpName[]);

/** The nodes around `topK` that one kernel computes. */
export function findRoute(
  topK: NodeOf<"top_k">,
  usersOf: (node: Node) => readonly Node[],
  isNamed: (node: Node) => boolean,
): Route {
  let nodes = withWorkBefore(topK, new Set());
  const isAtHand = (node: Node) => nodes.has(node) || node.op === "constant" || isWeightExpression(node);
  // What the chosen experts are weighed by need not be what they are chosen by, where it is there when they are chosen.
  for (const user of usersOf(topK)) {
    if (user.op !== "gather_cols") continue;
    const more = withWorkBefore(user, new Set(nodes));
    const isThere = (node: Node) => more.has(node) || isAtHand(node) || node.id < topK.id;
    if ([...more].every((node) => node.operands.every(isThere))) nodes = more;
  }
  for (let grown = true; grown; ) {
    const users = new Set([...nodes].flatMap(usersOf));
    const next = [...users].filter(
      (user) => !nodes.has(user) && ROW_OPS.has(user.op) && !isNarrow(user) && user.operands.every(isAtHand),
    );
    for (const user of next) nodes.add(user);
    grown = next.length > 0;
  }
  const ordered = [...nodes].sort((a, b) => a.id - b.id);
  const outs = ordered.filter((node) => isNamed(node) || usersOf(node).some((user) => !nodes.has(user)));
  return { nodes: ordered, outs };
}

/** `nodes` with `node` and all row by row work that it is made by. */
function withWorkBefore(node: Node, nodes: Set<Node>): Set<Node> {
  if (nodes.has(node) || !ROW_OPS.has(node.op) || isWeightExpression(node)) return nodes;
  nodes.add(node);
  for (const operand of node.operands) withWorkBefore(operand, nodes);
  return nodes;
}

/** Rows are kept in f32: what others read in another dtype is rounded by a kernel of its own. */
const isNarrow = ({ type: { dtype } }: Node): boolean => dtype !== "f32" && dtype !== "i32";

/** The steps of a route. `read` gives what the kernel reads from memory. Throws `UnsupportedError` for what is not one row's work. */
export function routeSteps(
  graph: Graph,
  { nodes, outs }: Route,
  read: (node: Node) => BufferValue | TensorValue,
  outputOf: (node: Node) => BufferValue,
): Pick<RouteKernel, "inputs" | "steps" | "outs"> {
  const steps: RowStep[] = [];
  const inputs: (BufferValue | TensorValue)[] = [];
  const stepOf = new Map<Node, number>();
  const stepFor = (node: Node): number => {
    const known = stepOf.get(node);
    if (known !== undefined) return known;
    const from = read(node);
    inputs.push(from);
    steps.push({ op: "load", from, size: from.cols });
    stepOf.set(node, steps.length - 1);
    return steps.length - 1;
  };
  for (const node of nodes) {
    const size = node.type.shape.at(-1);
    if (node.type.shape.length !== 2 || typeof size !== "number") {
      throw new UnsupportedError(`${node.op} at ${graph.originText(node)}: experts are chosen by rows of scores, (T, E)`);
    }
    steps.push(stepOfNode(node, size, stepFor, graph));
    stepOf.set(node, steps.length - 1);
  }
  return { inputs, steps, outs: outs.map((node) => ({ step: stepOf.get(node) as number, value: outputOf(node) })) };
}

function stepOfNode(node: Node, size: number, stepFor: (node: Node) => number, graph: Graph): RowStep {
  switch (node.op) {
    case "softmax":
      return { op: "softmax", x: stepFor(node.operands[0]), size };
    case "renormalize":
      return { op: "renormalize", x: stepFor(node.operands[0]), eps: node.attrs.eps, size };
    case "group_limit":
      return { op: "group_limit", x: stepFor(node.operands[0]), ...node.attrs, size };
    case "top_k":
      return { op: "top_k", x: stepFor(node.operands[0]), size };
    case "gather_cols":
      return { op: "gather_cols", x: stepFor(node.operands[0]), ids: stepFor(node.operands[1]), size };
    default: {
      const operands: number[] = [];
      const args = node.operands.map((operand): Expr => {
        if (operand.op === "constant") return { kind: "constant", value: operand.attrs.value };
        if (operand.type.shape.at(-1) !== size) {
          throw new UnsupportedError(`${node.op} at ${graph.originText(node)}: its operands are rows of other sizes`);
        }
        operands.push(stepFor(operand));
        return { kind: "operand", index: operands.length - 1 };
      });
      const expr = combine(node, args as [Expr, Expr]);
      if (!expr) throw new UnsupportedError(`${node.op} at ${graph.originText(node)}: it has no scalar form`);
      return { op: "map", expr, operands, size };
    }
  }
}
