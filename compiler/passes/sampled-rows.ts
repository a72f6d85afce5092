/**
 * What follows the last attention is computed for the rows that are sampled, not for every token of a prompt.
 *
 *     gather(f(x, y), rows)  =  f(gather(x, rows), gather(y, rows))      for f that computes each row by itself
 *
 * Only values that nothing else reads go with the rows. It looks at all users of a value, so it is a function, not a list of rules.
 */
import type { Graph } from "../ir/graph.ts";
import { sortedBy } from "../ir/infer.ts";
import { ELEMENTWISE, type Node, type NodeOf, type Operands, type OpName } from "../ir/ops.ts";
import { type Dim, timesDim } from "../ir/tensor-type.ts";
import type { Pass } from "./pass.ts";

/** Ops that compute the rows of a token from those of the same token, whatever the others are. */
const BY_ROW: ReadonlySet<OpName> = new Set([
  ...ELEMENTWISE,
  "slice",
  "reshape",
  "linear",
  "rms_norm",
  "layer_norm",
  "softmax",
  "group_limit",
  "top_k",
  "gather_cols",
  "renormalize",
  "dispatch",
  "grouped_linear",
  "expert_rows",
  "combine",
] satisfies OpName[]);

export const sampledRows: Pass = {
  name: "sampled-rows",
  run(graph, record) {
    const gather = graph.liveNodes().find((n) => n.op === "gather_rows");
    if (gather?.op !== "gather_rows") return graph;
    const sunk = sinkable(graph, gather);
    if (sunk.size === 0) return graph;
    const [, rows] = gather.operands;
    const isLeft = (operand: Node) => !sunk.has(operand) && ofTokens(graph, operand);
    const left = new Set([...sunk].flatMap((node) => node.operands.filter(isLeft)));
    const sampledOf = new Map<Node, Node>();
    return graph.rebuild((node, map, into) => {
      if (node === gather) return map(gather.operands[0]);
      if (!sunk.has(node)) return undefined;
      // All of them before the first that reads one: a kernel takes along only what is there.
      for (const value of sampledOf.size > 0 ? [] : left) {
        const taken = into.withOrigins(graph.originsOf(gather), () => into.gatherRows(map(value), map(rows)));
        record("rows are sampled before what each computes by itself", [gather], taken, into);
        sampledOf.set(value, taken);
      }
      const operands = node.operands.map((o) => sampledOf.get(o) ?? map(o));
      const sampled = (d: Dim) => (typeof d === "object" && d.sym === graph.T.sym ? timesDim(into.S, d.times) : d);
      if (node.op === "reshape") return into.reshape(operands[0] as Node, node.attrs.shape.map(sampled));
      return into.add(node.op, operands as unknown as Operands<typeof node.op>, node.attrs) as Node;
    });
  },
  ensures: [
    {
      says: "rows are not sampled from a value that each row could compute by itself",
      counterexample: (graph) => graph.liveNodes().find((n) => n.op === "gather_rows" && sinkable(graph, n).size > 0),
    },
  ],
};

/** Values that only `gather` reads in the end, row by row. */
function sinkable(graph: Graph, gather: NodeOf<"gather_rows">): ReadonlySet<Node> {
  const nodes = graph.liveNodes().reverse();
  const users = new Map<Node, Node[]>();
  for (const node of nodes) for (const operand of node.operands) users.set(operand, [...(users.get(operand) ?? []), node]);
  const named = new Set<Node>([graph.logits, ...graph.taps.values()]);
  const staying = new Set<Node>(named);
  for (;;) {
    const sunk = new Set<Node>();
    for (const node of nodes) {
      const readers = users.get(node) ?? [];
      const isRead = readers.length > 0 && readers.every((reader) => reader === gather || sunk.has(reader));
      if (isRead && !staying.has(node) && BY_ROW.has(node.op) && ofTokens(graph, node)) sunk.add(node);
    }
    // Chosen experts and rows sorted by them cannot be sampled: who reads them goes only where they go.
    const torn = [...sunk].filter((node) =>
      node.operands.some((o) => !sunk.has(o) && (o.op === "top_k" || sortedBy(o) !== null)),
    );
    if (torn.length === 0) return sunk;
    for (const node of torn) staying.add(node);
  }
}

/** Whether a value has rows of the step's tokens. */
function ofTokens(graph: Graph, { type }: Node): boolean {
  const [rows] = type.shape;
  return typeof rows === "object" && rows.sym === graph.T.sym;
}
