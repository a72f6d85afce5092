/**
 * What must hold of any graph, checked after it is built and after every pass.
 *
 * Type rules are checked as nodes are made; here stand the facts about the graph as a whole. A broken one names the culprit.
 */
import { CompileError, invariant } from "../errors.ts";
import type { Graph } from "./graph.ts";
import { inferType, sameShape } from "./infer.ts";
import type { Node } from "./ops.ts";
import { printType, sameDim } from "./tensor-type.ts";

/** Something that holds of a graph after a pass, or must hold before one: `counterexample` gives a node that breaks it. */
export interface Claim {
  readonly says: string;
  readonly counterexample: (graph: Graph) => Node | undefined;
}

/** Throws `CompileError` naming the model path where a model is not well formed, `InternalError` where the graph itself is not. */
export function verifyGraph(graph: Graph): void {
  const fail = (node: Node, message: string): never => {
    throw new CompileError(`${node.op} at ${graph.originText(node)}: ${message}`);
  };
  const nodes = graph.liveNodes();
  const weights = new Map<string, Node>();
  const stores = new Map<Node, Node>();
  for (const node of nodes) {
    for (const operand of node.operands) invariant(operand.id < node.id, `${node.op} %${node.id} comes before its operand`);
    const type = (inferType[node.op] as (operands: Node["operands"], attrs: Node["attrs"]) => Node["type"])(
      node.operands,
      node.attrs,
    );
    invariant(
      type.dtype === node.type.dtype && sameShape(type.shape, node.type.shape),
      `${node.op} %${node.id} says ${printType(node.type)} but is ${printType(type)}`,
    );
    if (node.op === "weight") {
      const other = weights.get(node.attrs.name);
      if (other)
        fail(node, `${node.attrs.name} is used as ${printType(node.type)} and as ${printType(other.type)}; one is wrong`);
      weights.set(node.attrs.name, node);
    }
    if (node.op === "store_kv") {
      const [cache] = node.operands;
      const other = stores.get(cache);
      if (other) fail(node, `the same cache is also written at ${graph.originText(other)}; writes must follow one another`);
      stores.set(cache, node);
    }
    if (node.op === "paged_attention" && node.operands[1].op === "kv_cache") {
      fail(node, "attention reads the cache before this step's keys and values are stored; give it the store_kv");
    }
  }
  verifyLogits(graph, fail);
}

function verifyLogits(graph: Graph, fail: (node: Node, message: string) => never): void {
  const { dtype, shape } = graph.logits.type;
  const [rows, vocab] = shape;
  if (dtype !== "f32" || shape.length !== 2 || !sameDim(rows as number, graph.S) || typeof vocab !== "number") {
    fail(graph.logits, `the logits are ${printType(graph.logits.type)}; expected f32(S, vocab)`);
  }
}

/** Throws `InternalError` unless `claim` holds of `graph`. */
export function verifyClaim(graph: Graph, claim: Claim, when: string): void {
  const node = claim.counterexample(graph);
  invariant(!node, `${when}: "${claim.says}" does not hold of ${node?.op} at ${node ? graph.originText(node) : ""}`);
}
