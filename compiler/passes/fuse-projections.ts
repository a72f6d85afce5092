/**
 * Joins linears that read the same input into one: q, k and v; gate and up.
 *
 *     x·w₀ᵀ, x·w₁ᵀ, …  =  slices of x·[w₀; w₁; …]ᵀ
 *
 * One pass over x instead of several, and one kernel. Only where the kernel behind reads the slices in place: before attention, and
 * where gate and up meet. It looks at all users of a value, so it is a function, not a list of rules.
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

  const isPrivate = (node: Node) => users.get(node)?.length === 1 && !named.has(node);
  // A weight with another reader (a tied embedding table) stays as it is: joined, it would be stored twice.
  const isFree = ({ linear }: Member) => {
    const [, w] = linear.operands;
    return !taken.has(linear) && w.op === "weight" && users.get(w)?.length === 1;
  };
  const add = (name: string, members: readonly Member[]) => {
    if (!members.every(isFree) || !joinable(members.map((m) => m.linear))) return;
    for (const { linear } of members) taken.add(linear);
    groups.push({ name, members });
  };

  for (const node of nodes) {
    // silu(gate) · up, gate first, where nothing else reads either: one kernel computes both halves of each column and their
    // product. Biases stay behind the slices, where the elementwise work is.
    if (node.op === "mul") {
      const silu = node.operands.find((o) => o.op === "silu");
      const [gate, up] = [silu?.operands[0], node.operands.find((o) => o !== silu)].map(projection);
      if (!silu || !gate || !up || gate.linear.type.shape.at(-1) !== up.linear.type.shape.at(-1)) continue;
      if (![silu, gate.root, gate.linear, up.root, up.linear].every(isPrivate)) continue;
      add(
        "gate and up are one linear",
        [gate, up].map(({ linear }) => ({ linear, root: linear, bias: null })),
      );
    }
    // q, k and v of one attention, biases with them when each has its own, all of one dtype.
    if (node.op === "paged_attention" && node.operands[1].op === "store_kv") {
      const [, k, v] = node.operands[1].operands;
      const found = [node.operands[0], k, v].map((root) => projection(beforeHeads(root)));
      const members = found.filter((m) => m !== null);
      if (members.length !== 3 || new Set(members.map((m) => m.linear)).size !== 3) continue;
      const biasDtypes = new Set(members.map((m) => m.bias?.type.dtype ?? null));
      const allBiased = biasDtypes.size === 1 && !biasDtypes.has(null) && members.every((m) => isPrivate(m.linear));
      add("q, k and v are one linear", allBiased ? members : members.map(({ linear }) => ({ linear, root: linear, bias: null })));
    }
  }
  return groups;
}

/** Whether linears read the same value through weights of one dtype. */
const joinable = ([first, ...others]: readonly NodeOf<"linear">[]): boolean =>
  others.every((o) => o.operands[0] === first?.operands[0] && o.operands[1].type.dtype === first.operands[1].type.dtype);

/** `node` as a linear or as the sum of one and its bias vector, or null. */
function projection(node: Node | undefined): Member | null {
  if (node?.op === "linear") return { linear: node, root: node, bias: null };
  if (node?.op !== "add") return null;
  const linear = node.operands.find((o) => o.op === "linear");
  const bias = node.operands.find((o) => o !== linear);
  return linear && bias?.op === "weight" && bias.type.shape.length === 1 ? { linear, root: node, bias } : null;
}

/** What a row of heads was made of: the value before rotation, norm and the view as heads. */
function beforeHeads(node: Node): Node {
  return node.op === "rope" || node.op === "rms_norm" || node.op === "reshape" ? beforeHeads(node.operands[0]) : node;
}
