/**
 * Joins linears that read the same input into one: q, k and v; gate and up.
 *
 *     x·w₀ᵀ, x·w₁ᵀ, …  =  slices of x·[w₀; w₁; …]ᵀ
 *
 * One pass over x instead of several, and one kernel. Only where the kernel behind reads the slices in place: before attention, and
 * where gate and up meet. It looks at all users of a value, so it is a function, not a list of rules.
 */
import type { Graph } from "../ir/graph.ts";
import { ELEMENTWISE, type Node, type NodeOf } from "../ir/ops.ts";
import { mergeOrigins } from "../ir/origin.ts";
import type { Pass } from "./pass.ts";

type Linear = NodeOf<"linear"> | NodeOf<"grouped_linear">;

/** Elementwise nodes between gate, up and where they meet: a clamped SwiGLU has nine. */
const MOST_NODES = 32;

/** A projection of a group: `root` is the value that becomes a slice, the linear itself or its sum with the bias. */
interface Member {
  readonly linear: Linear;
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
      if (!fused.has(group)) {
        const before = group.members.map((m) => m.root);
        record(group.name, before, whole, into);
      }
      fused.set(group, whole);
      return into.slice(whole, whole.type.shape.length - 1, start, size);
    });
  },
};

function fuse(group: Group, graph: Graph, into: Graph, map: (old: Node) => Node): Node {
  const { members } = group;
  const [first] = members as readonly [Member, ...Member[]];
  const from = (part: "linear" | "root", build: () => Node) =>
    into.withOrigins(mergeOrigins(members.map((m) => graph.originsOf(m[part]))), build);
  const product = from("linear", () => {
    const x = map(first.linear.operands[0]);
    const weights = members.map((m) => map(m.linear.operands[1]));
    // The output axis of a matrix is its first, of a stack of matrices its second.
    if (first.linear.op === "grouped_linear")
      return into.groupedLinear(x, into.concat(weights, 1), map(first.linear.operands[2]));
    return into.linear(x, into.concat(weights, 0));
  });
  const biases = members.flatMap((m) => (m.bias ? [map(m.bias)] : []));
  return biases.length > 0 ? from("root", () => into.plus(product, into.concat(biases, 0))) : product;
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
    return !taken.has(linear) && users.get(w)?.length === 1;
  };
  const add = (name: string, members: readonly Member[]) => {
    if (!members.every(isFree) || !joinable(members.map((m) => m.linear))) return;
    for (const { linear } of members) taken.add(linear);
    groups.push({ name, members });
  };

  for (const node of nodes) {
    // Gate and up, where nothing else reads either: one kernel computes both halves of each column and what becomes of them.
    // Biases stay behind the slices, where the elementwise work is.
    if (ELEMENTWISE.has(node.op)) {
      const pair = meetingAt(node, users, named);
      if (pair)
        add(
          "gate and up are one linear",
          pair.map((linear) => ({ linear, root: linear, bias: null })),
        );
    }
    // q, k and v of one attention, biases with them. Where only some are biased, slices would have to be added to and stored again.
    if (node.op === "paged_attention" && node.operands[1].op === "store_kv") {
      const [, k, v] = node.operands[1].operands;
      const found = [node.operands[0], k, v].map((root) => projection(beforeHeads(root)));
      const members = found.filter((m) => m !== null);
      if (members.length !== 3 || new Set(members.map((m) => m.linear)).size !== 3) continue;
      const biases = new Set(members.map((m) => m.bias?.type.dtype));
      if (biases.size === 1 && members.every((m) => !m.bias || isPrivate(m.linear))) add("q, k and v are one linear", members);
    }
  }
  return groups;
}

/**
 * The two linears of one input whose values meet in `node` and go nowhere else; the one deeper in the expression, under the
 * activation, first.
 */
function meetingAt(node: Node, users: ReadonlyMap<Node, readonly Node[]>, named: ReadonlySet<Node>): readonly Linear[] | null {
  const inside = new Set<Node>();
  const leaves = new Set<Node>();
  const depths = new Map<Linear, number>();
  const visit = (at: Node, depth: number): void => {
    if (at.op === "linear" || at.op === "grouped_linear") depths.set(at, Math.max(depth, depths.get(at) ?? 0));
    else if (!ELEMENTWISE.has(at.op)) leaves.add(at);
    if (inside.has(at) || inside.size > MOST_NODES || !ELEMENTWISE.has(at.op)) return;
    inside.add(at);
    for (const operand of at.operands) visit(operand, depth + 1);
  };
  visit(node, 0);
  const [first, second, more] = [...depths].sort(([a, p], [b, q]) => q - p || a.id - b.id).map(([linear]) => linear);
  if (!first || !second || more || first.type.shape.at(-1) !== second.type.shape.at(-1)) return null;
  const staysInside = (n: Node) => n === node || (!named.has(n) && (users.get(n) ?? []).every((user) => inside.has(user)));
  // What else they meet in must be there when they are computed.
  const begin = Math.min(first.id, second.id);
  const isThere = (n: Node) => n.id < begin || n.op === "expert_rows" || isOfWeights(n);
  if (![...leaves].every(isThere)) return null;
  return [first, second, ...inside].every(staysInside) ? [first, second] : null;
}

/** Whether a value is made of checkpoint tensors and constants alone. */
const isOfWeights = (node: Node): boolean =>
  node.op === "weight" || node.op === "constant" || (node.operands.length > 0 && node.operands.every(isOfWeights));

/** Whether linears read the same value through weights of one dtype. */
const joinable = ([first, ...others]: readonly Linear[]): boolean =>
  others.every(
    (o) => o.op === first?.op && o.operands[0] === first.operands[0] && o.operands[1].type.dtype === first.operands[1].type.dtype,
  );

/** `node` as a linear or as the sum of one and its bias vector, or null. */
function projection(node: Node | undefined): Member | null {
  if (node?.op === "linear") return { linear: node, root: node, bias: null };
  if (node?.op !== "add") return null;
  const linear = node.operands.find((o) => o.op === "linear");
  const bias = node.operands.find((o) => o !== linear);
  return linear && bias?.op === "weight" && bias.type.shape.length === 1 ? { linear, root: node, bias } : null;
}

/** What a row of heads was made of: the value before rotation, the norm of each head and the view as heads. */
function beforeHeads(node: Node): Node {
  const isOfHeads = node.op === "rope" || node.op === "reshape" || (node.op === "rms_norm" && node.type.shape.length === 3);
  return isOfHeads ? beforeHeads(node.operands[0]) : node;
}
