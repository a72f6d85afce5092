/**
 * Recognises what stands between projections and attention: q, k and v as head chains, each over rows of its own source.
 *
 * chain = rope? · rms_norm? · reshape? · slice? of the source; v has neither norm nor rotation in the families we know, but may.
 */
import { UnsupportedError } from "../errors.ts";
import type { Graph } from "../ir/graph.ts";
import type { Node, NodeOf, RopeStyle } from "../ir/ops.ts";
import type { HeadChain } from "./spec.ts";
import type { KernelValues } from "./values.ts";

/** One of q, k, v before its values are named. */
export interface ChainNodes {
  readonly source: Node;
  readonly col: number;
  readonly numHeads: number;
  readonly norm: { readonly gain: Node; readonly eps: number } | null;
  readonly rope: { readonly style: RopeStyle; readonly angles: Node } | null;
}

export interface AttentionInputs {
  readonly store: NodeOf<"store_kv">;
  readonly headDim: number;
  readonly q: ChainNodes;
  readonly k: ChainNodes;
  readonly v: ChainNodes;
  /** What attention reads as q. */
  readonly qRoot: Node;
  /** Nodes the kernel computes besides the store itself. */
  readonly inner: readonly Node[];
}

/** Matches the inputs of one layer's attention. Throws `UnsupportedError`, naming the model path, when they have another shape. */
export function matchAttentionInputs(graph: Graph, store: NodeOf<"store_kv">, users: readonly Node[]): AttentionInputs {
  const refuse = (why: string): never => {
    throw new UnsupportedError(`store_kv at ${graph.originText(store)}: ${why}`);
  };
  const attention = users.filter((u) => u.op === "paged_attention");
  const [first] = attention;
  if (!first || attention.length !== 1 || users.length !== 1)
    return refuse("exactly one paged_attention must read the stored cache");
  const [, k, v] = store.operands;
  const q = first.operands[0] as Node;
  const chains = { q: unwind(q), k: unwind(k), v: unwind(v) };
  for (const { chain } of Object.values(chains)) {
    const { dtype } = chain.source.type;
    if (dtype !== "f32") return refuse(`heads are made of f32 rows; ${graph.originText(chain.source)} has ${dtype}`);
  }
  return {
    store,
    headDim: q.type.shape[2] as number,
    q: chains.q.chain,
    k: chains.k.chain,
    v: chains.v.chain,
    qRoot: q,
    inner: [...new Set([...chains.q.nodes, ...chains.k.nodes, ...chains.v.nodes])].sort((a, b) => a.id - b.id),
  };
}

/** The kernel that makes heads of rows and stores them, before its name is known. */
export function storeKv({ store, qRoot, headDim, inner, ...chains }: AttentionInputs, values: KernelValues) {
  const [kv, , , positions, seqIds, blockTables] = store.operands;
  const chain = ({ source, col, numHeads, norm, rope }: ChainNodes): HeadChain => ({
    x: values.bufferOf(source),
    col,
    numHeads,
    norm: norm && { gain: values.tensor(norm.gain), eps: norm.eps },
    rope: rope && {
      style: rope.style,
      angles: values.bufferOf(rope.angles),
      half: (rope.angles.type.shape[1] as number) / 2,
    },
  });
  const [q, k, v] = [chain(chains.q), chain(chains.k), chain(chains.v)];
  // Heads that some kernel wrote already are copied into a buffer of the layout that attention reads.
  const naming = values.bufferAt(qRoot) ? { name: `v${qRoot.id}_heads` } : {};
  return {
    kind: "store_kv",
    projection: null,
    q,
    k,
    v,
    headDim,
    kv: values.kv(kv),
    positions: values.input(positions),
    seqIds: values.input(seqIds),
    blockTables: values.input(blockTables),
    out: values.output(qRoot, naming),
    nodes: [...inner, store],
  } as const;
}

function unwind(root: Node): { chain: ChainNodes; nodes: Node[] } {
  const nodes: Node[] = [];
  let node = root;
  const step = (next: Node) => {
    nodes.push(node);
    node = next;
  };
  let rope: ChainNodes["rope"] = null;
  let norm: ChainNodes["norm"] = null;
  if (node.op === "rope") {
    rope = { style: node.attrs.style, angles: node.operands[1] };
    step(node.operands[0]);
  }
  if (node.op === "rms_norm") {
    norm = { gain: node.operands[1], eps: node.attrs.eps };
    step(node.operands[0]);
  }
  if (node.op === "reshape") step(node.operands[0]);
  let col = 0;
  // Columns of a row: whole heads, or part of a flat row. Part of every head is not one range of columns.
  if (node.op === "slice" && node.attrs.axis === 1) {
    col = node.attrs.start * node.type.shape.slice(2).reduce<number>((p, d) => p * (d as number), 1);
    step(node.operands[0]);
  }
  return { chain: { source: node, col, numHeads: root.type.shape[1] as number, norm, rope }, nodes };
}
