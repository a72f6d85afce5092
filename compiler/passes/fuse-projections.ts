/**
 * Joins linears that read the same input into one: q, k and v; gate and up.
 *
 *     x·w₀ᵀ, x·w₁ᵀ, …  =  slices of x·[w₀; w₁; …]ᵀ
 *
 * One pass over x instead of several, and one kernel. It looks at all users of a value, so it is a function, not a list of rules.
 */
import type { Graph } from "../ir/graph.ts";
import type { Node, NodeOf } from "../ir/ops.ts";
import { mergeOrigins } from "../ir/origin.ts";
import { printExpression } from "../ir/print.ts";
import type { Pass } from "./pass.ts";

/** A projection of a group: `root` is the value that becomes a slice, the linear itself or its sum with the bias. */
interface Member {
  readonly linear: NodeOf<"linear">;
  readonly root: Node;
  readonly bias: Node | null;
}

interface Group {
  readonly name: string;
  readonly members: readonly Member[];
}

export const fuseProjections: Pass = {
  name: "fuse-projections",
  run(graph, record) {
    const groups = findGroups(graph);
    const placed = new Map<Node, { group: Group; start: number; size: number }>();
    for (const group of groups) {
      let start = 0;
      for (const { linear, root } of group.members) {
        const size = linear.type.shape.at(-1) as number;
        placed.set(root, { group, start, size });
        start += size;
      }
    }
    const fused = new Map<Group, Node>();
    return graph.rebuild((node, map, into) => {
      const place = placed.get(node);
      if (!place) return undefined;
      const { group, start, size } = place;
      const whole = fused.get(group) ?? fuse(group, graph, into, map);
      if (!fused.has(group))
        record(group.name, group.members.map((m) => printExpression(m.root)).join(", "), printExpression(whole));
      fused.set(group, whole);
      return into.slice(whole, whole.type.shape.length - 1, start, size);
    });
  },
};

function fuse(group: Group, graph: Graph, into: Graph, map: (old: Node) => Node): Node {
  const { members } = group;
  const joined = (nodes: readonly Node[]) => into.concat(nodes.map(map), 0);
  return into.withOrigins(mergeOrigins(members.map((m) => graph.originsOf(m.linear))), () => {
    const product = into.linear(map(members[0]!.linear.operands[0]), joined(members.map((m) => m.linear.operands[1])));
    const biases = members.map((m) => m.bias).filter((b) => b !== null);
    return biases.length > 0 ? into.plus(product, joined(biases)) : product;
  });
}

function findGroups(graph: Graph): Group[] {
  const nodes = graph.liveNodes();
  const users = new Map<Node, Node[]>();
  for (const node of nodes) for (const operand of node.operands) users.set(operand, [...(users.get(operand) ?? []), node]);
  const named = new Set<Node>([graph.logits, ...graph.taps.values()]);
  const taken = new Set<Node>();
  const groups: Group[] = [];

  // A weight with another reader (a tied embedding table) stays as it is: joined, it would be stored twice.
  const isCandidate = (node: Node | undefined): node is NodeOf<"linear"> =>
    node?.op === "linear" && !taken.has(node) && node.operands[1].op === "weight" && users.get(node.operands[1])?.length === 1;
  const add = (name: string, members: readonly Member[]) => {
    for (const { linear } of members) taken.add(linear);
    groups.push({ name, members });
  };

  // silu(gate) · up, gate first. Biases stay behind the slices, where the elementwise work is.
  for (const node of nodes) {
    if (node.op !== "mul") continue;
    const silu = node.operands.find((o) => o.op === "silu");
    const other = node.operands.find((o) => o !== silu);
    const [gate, up] = [silu?.operands[0], other].map((n) => (n?.op === "add" ? n.operands[0] : n));
    if (gate === up || !isCandidate(gate) || !isCandidate(up) || !joinable(gate, up)) continue;
    if (gate.type.shape.at(-1) !== up.type.shape.at(-1)) continue;
    add(
      "gate and up are one linear",
      [gate, up].map((linear) => ({ linear, root: linear, bias: null })),
    );
  }

  // Everything else that reads the same x, in the order it was built.
  for (const first of nodes) {
    if (!isCandidate(first)) continue;
    const siblings = (users.get(first.operands[0]) ?? []).filter(
      (n): n is NodeOf<"linear"> => isCandidate(n) && joinable(first, n),
    );
    if (siblings.length < 2) continue;
    const biased = siblings.map((linear) => withBias(linear, users.get(linear) ?? [], named));
    const members = biased.every((m) => m !== null) ? biased : siblings.map((linear) => ({ linear, root: linear, bias: null }));
    add("projections of one value are one linear", members);
  }
  return groups;
}

const joinable = (a: NodeOf<"linear">, b: NodeOf<"linear">): boolean =>
  a.operands[0] === b.operands[0] && a.operands[1].type.dtype === b.operands[1].type.dtype;

/** The linear with the bias that is its only user, or null. */
function withBias(linear: NodeOf<"linear">, users: readonly Node[], named: ReadonlySet<Node>): Member | null {
  const [sum] = users;
  if (users.length !== 1 || sum?.op !== "add" || named.has(linear)) return null;
  const bias = sum.operands.find((o) => o !== linear);
  return bias?.op === "weight" && bias.type.shape.length === 1 ? { linear, root: sum, bias } : null;
}
