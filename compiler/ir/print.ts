/**
 * A graph as readable text, one numbered line a node: what dumps, error reports and snapshots show.
 *
 * Numbers count live nodes in order, so text does not depend on nodes that rewriting left behind.
 */
import type { Graph } from "./graph.ts";
import type { Attrs, Node, OpName } from "./ops.ts";
import { printType } from "./tensor-type.ts";

export interface PrintOptions {
  /** Ends each line with the model path and source line of the node. */
  readonly origins?: boolean;
}

/** `%7 = linear %5 %6 : f32(T, 96)`; taps and logits follow the nodes. */
export function printGraph(graph: Graph, options: PrintOptions = {}): string {
  const numbers = new Map(graph.liveNodes().map((node, i) => [node, `%${i}`]));
  const name = (node: Node) => numbers.get(node) as string;
  const lines = [...numbers.keys()].map((node) => {
    const parts = [node.op, ...node.operands.map(name), printAttrs(node)].filter((part) => part !== "");
    const origin = options.origins ? `  # ${graph.originText(node)}` : "";
    return `${name(node)} = ${parts.join(" ")} : ${printType(node.type)}${origin}`;
  });
  for (const [tap, node] of graph.taps) lines.push(`tap ${tap} ${name(node)}`);
  lines.push(`logits ${name(graph.logits)}`);
  return `${lines.join("\n")}\n`;
}

/** A node and what it is made of, `depth` levels down: `mul(silu(%a : f32(T, 8)), constant 2)`. */
export function printExpression(node: Node, depth = 3): string {
  const head = [node.op, printAttrs(node)].filter((part) => part !== "").join(" ");
  if (node.operands.length === 0) return head;
  if (depth === 0) return `… : ${printType(node.type)}`;
  return `${head}(${node.operands.map((o) => printExpression(o, depth - 1)).join(", ")})`;
}

function printAttrs(node: Node): string {
  return (attrText[node.op] as (attrs: Node["attrs"]) => string)(node.attrs);
}

const none = () => "";

const attrText: { readonly [K in OpName]: (attrs: Attrs<K>) => string } = {
  input: ({ name }) => name,
  weight: ({ name }) => name,
  kv_cache: ({ layer }) => `layer=${layer}`,
  constant: ({ value }) => String(value),
  cast: ({ dtype }) => dtype,
  add: none,
  mul: none,
  min: none,
  max: none,
  sigmoid: none,
  silu: none,
  gelu_tanh: none,
  tanh: none,
  slice: ({ axis, start, size }) => `axis=${axis} ${start}…${start + size - 1}`,
  transpose: none,
  concat: ({ axis }) => `axis=${axis}`,
  reshape: none,
  embedding: none,
  linear: none,
  rms_norm: ({ eps }) => `eps=${eps}`,
  layer_norm: ({ eps }) => `eps=${eps}`,
  softmax: none,
  group_limit: ({ groups, keep, best }) => `groups=${groups} keep=${keep} best=${best}`,
  top_k: ({ k }) => `k=${k}`,
  gather_cols: none,
  renormalize: ({ eps }) => `eps=${eps}`,
  dispatch: none,
  grouped_linear: none,
  expert_rows: none,
  combine: none,
  rope_angles: ({ invFreq, attentionFactor, long }) => {
    const ends = (all: readonly number[]) => [all[0], all.at(-1)].map((f) => f?.toPrecision(7)).join("…");
    const other = long ? ` beyond=${long.beyond} longInvFreq=${ends(long.invFreq)}` : "";
    return `invFreq=${ends(invFreq)}${other}${attentionFactor === 1 ? "" : ` attentionFactor=${attentionFactor}`}`;
  },
  rope: ({ style }) => style,
  store_kv: none,
  paged_attention: ({ scale, window }) => `scale=${scale}${window === null ? "" : ` window=${window}`}`,
  gather_rows: none,
};
