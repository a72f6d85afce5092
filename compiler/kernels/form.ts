/**
 * Forms kernels from a legalized graph: picks anchors in program order and lets the elementwise work around each ride in its slots.
 *
 * An anchor's region grows over elementwise users while their other operands are already there; it is cut at the last place where
 * exactly one value leaves it. Attention's inputs (norm, rotation, cache write of q, k, v) form one kernel per layer.
 */
import { invariant, UnsupportedError } from "../errors.ts";
import type { Graph } from "../ir/graph.ts";
import { ELEMENTWISE, type Node, type NodeOf } from "../ir/ops.ts";
import { maxOf, printType } from "../ir/tensor-type.ts";
import { type AttentionInputs, matchAttentionInputs } from "./attention-inputs.ts";
import { kernelName, type Unnamed } from "./name.ts";
import type { BufferValue, Expr, InputValue, KernelSpec, KvValue, TensorValue } from "./spec.ts";

/** The kernels of a graph in execution order, and where its named values end up. */
export interface KernelProgram {
  readonly kernels: readonly KernelSpec[];
  readonly logits: BufferValue;
  readonly taps: readonly { readonly name: string; readonly buffer: BufferValue }[];
}

/** Forms the kernels of `graph`. Throws `UnsupportedError`, naming the model path, for a shape of graph no kernel computes. */
export function formKernels(graph: Graph): KernelProgram {
  return new Former(graph).run();
}

interface Region {
  readonly root: Node;
  readonly epilogue: Expr;
  readonly operands: readonly (BufferValue | TensorValue)[];
  readonly nodes: readonly Node[];
}

class Former {
  private readonly users = new Map<Node, Node[]>();
  private readonly escaping = new Set<Node>();
  private readonly buffers = new Map<Node, BufferValue>();
  private readonly computed = new Set<Node>();
  private readonly attention = new Map<Node, AttentionInputs>();
  private readonly kernels: KernelSpec[] = [];

  constructor(private readonly graph: Graph) {}

  run(): KernelProgram {
    const { graph } = this;
    const nodes = graph.liveNodes();
    for (const node of nodes) for (const operand of node.operands) this.users.set(operand, [...this.usersOf(operand), node]);
    this.escaping.add(graph.logits);
    for (const tap of graph.taps.values()) this.escaping.add(tap);
    for (const node of nodes) {
      if (node.op !== "store_kv") continue;
      const inputs = matchAttentionInputs(graph, node, this.usersOf(node));
      this.attention.set(node, inputs);
      for (const inner of inputs.inner) this.computed.add(inner);
    }
    for (const node of nodes) if (!this.computed.has(node)) this.emit(node);
    return {
      kernels: this.kernels,
      logits: this.bufferOf(graph.logits),
      taps: [...graph.taps].map(([name, node]) => ({ name, buffer: this.bufferOf(node) })),
    };
  }

  private usersOf(node: Node): readonly Node[] {
    return this.users.get(node) ?? [];
  }

  private emit(node: Node): void {
    switch (node.op) {
      case "embedding":
        return this.anchored(node, (r) => ({
          kind: "embedding",
          ids: this.input(node.operands[0]),
          table: this.tensor(node.operands[1]),
          ...this.slots(r),
        }));
      case "rms_norm": {
        const [x, gain] = node.operands;
        const gather = x.op === "gather_rows" ? x : null;
        return this.anchored(node, (r) => ({
          kind: "rms_norm",
          x: this.bufferOf(gather ? gather.operands[0] : x),
          rows: gather ? this.input(gather.operands[1]) : null,
          gain: this.tensor(gain),
          eps: node.attrs.eps,
          ...this.slots(r),
          nodes: gather ? [gather, ...r.nodes] : r.nodes,
        }));
      }
      case "linear":
        return this.linear(node);
      case "rope_angles": {
        const region = this.alone(node);
        return this.push(region, {
          kind: "rope_angles",
          positions: this.input(node.operands[0]),
          invFreq: node.attrs.invFreq,
          attentionFactor: node.attrs.attentionFactor,
          out: this.output(node),
          nodes: region.nodes,
        });
      }
      case "store_kv":
        return this.storeKv(node);
      case "paged_attention": {
        const [q, kv, positions, seqIds, blockTables] = node.operands;
        const [, numHeads, headDim] = node.type.shape as [unknown, number, number];
        return this.anchored(node, (r) => ({
          kind: "paged_attention",
          q: this.bufferOf(q),
          kv: this.kv(kv),
          numHeads,
          headDim,
          scale: node.attrs.scale,
          window: node.attrs.window,
          positions: this.input(positions),
          seqIds: this.input(seqIds),
          blockTables: this.input(blockTables),
          epilogue: r.epilogue,
          out: this.output(r.root),
          nodes: r.nodes,
        }));
      }
      case "gather_rows":
        // Computed by the norm that reads it.
        if (this.usersOf(node).every((u) => u.op === "rms_norm") && !this.escaping.has(node)) return;
        return this.refuse(node, "rows can be gathered only into an rms_norm");
      case "cast":
      case "add":
      case "mul":
      case "silu":
        return this.elementwise(node);
      case "reshape":
        // The same memory in row-major order: an alias of what it reads.
        this.buffers.set(node, this.bufferOf(node.operands[0]));
        return;
      case "input":
      case "weight":
      case "constant":
      case "kv_cache":
        return;
      case "concat":
        if (isWeightExpression(node)) return;
        return this.refuse(node, "concat is supported on weights only");
      case "slice":
      case "rope":
        return this.refuse(node, `no kernel computes a ${node.op} on its own`);
    }
  }

  private linear(node: NodeOf<"linear">): void {
    const [x, w] = node.operands;
    const k = x.type.shape.at(-1) as number;
    const total = node.type.shape.at(-1) as number;
    const region = this.gated(node) ?? this.grow(new Map([[node, { kind: "acc", way: 0 }]]), node);
    const ways = region.nodes.some((n) => n.op === "slice") ? 2 : 1;
    this.push(region, {
      kind: "linear",
      x: this.bufferOf(x),
      w: this.tensor(w),
      ways,
      n: total / ways,
      k,
      ...this.slots(region),
    });
  }

  /** A linear whose only users are its two halves, combined elementwise into one value. */
  private gated(node: NodeOf<"linear">): Region | null {
    const total = node.type.shape.at(-1) as number;
    const users = this.usersOf(node);
    const halves = [0, total / 2].map((start) =>
      users.find(
        (u) =>
          u.op === "slice" &&
          u.attrs.start === start &&
          u.attrs.size === total / 2 &&
          u.attrs.axis === node.type.shape.length - 1,
      ),
    );
    if (this.escaping.has(node) || users.length !== 2 || !halves[0] || !halves[1]) return null;
    const region = this.grow(
      new Map<Node, Expr>([
        [halves[0], { kind: "acc", way: 0 }],
        [halves[1], { kind: "acc", way: 1 }],
      ]),
      null,
    );
    return region.root === halves[1] ? null : { ...region, nodes: [node, ...region.nodes] };
  }

  private storeKv(node: NodeOf<"store_kv">): void {
    const inputs = this.attention.get(node);
    invariant(inputs, "every store_kv was matched");
    const [kv, , , positions, seqIds, blockTables] = node.operands;
    const chain = (c: AttentionInputs["q"]) => ({
      col: c.col,
      numHeads: c.numHeads,
      norm: c.norm && { gain: this.tensor(c.norm.gain), eps: c.norm.eps },
      rope: c.rope && {
        style: c.rope.style,
        angles: this.bufferOf(c.rope.angles),
        half: (c.rope.angles.type.shape[1] as number) / 2,
      },
    });
    const out: BufferValue = {
      kind: "buffer",
      name: this.bufferName(inputs.qRoot),
      dtype: "f32",
      rows: inputs.qRoot.type.shape[0]!,
      cols: inputs.q.numHeads * inputs.headDim,
      node: inputs.qRoot,
    };
    this.buffers.set(inputs.qRoot, out);
    this.computed.add(node);
    this.push(
      { root: node, epilogue: { kind: "acc", way: 0 }, operands: [], nodes: [...inputs.inner, node] },
      {
        kind: "store_kv",
        x: this.bufferOf(inputs.source),
        q: chain(inputs.q),
        k: chain(inputs.k),
        v: chain(inputs.v),
        headDim: inputs.headDim,
        kv: this.kv(kv),
        positions: this.input(positions),
        seqIds: this.input(seqIds),
        blockTables: this.input(blockTables),
        out,
        nodes: [...inputs.inner, node],
      },
    );
  }

  private elementwise(node: Node): void {
    const leaf = this.leaves(node);
    const region = this.grow(new Map([[node, leaf.expr]]), node, leaf.operands);
    this.push(region, { kind: "elementwise", ...this.slots(region) });
  }

  /** An elementwise node over values that are all there already. */
  private leaves(node: Node): { expr: Expr; operands: (BufferValue | TensorValue)[] } {
    const operands: (BufferValue | TensorValue)[] = [];
    const expr = this.apply(node, new Map(), operands);
    if (!expr) this.refuse(node, "its operands are not values a kernel can read");
    return { expr: expr as Expr, operands };
  }

  private anchored(node: Node, spec: (region: Region) => Unnamed): void {
    const region = this.grow(new Map([[node, { kind: "acc", way: 0 }]]), node);
    this.push(region, spec(region));
  }

  private alone(node: Node): Region {
    return { root: node, epilogue: { kind: "acc", way: 0 }, operands: [], nodes: [node] };
  }

  /** Grows a region from `start` over elementwise users; `root` is the value to leave it when nothing can be added. */
  private grow(start: ReadonlyMap<Node, Expr>, root: Node | null, external: readonly (BufferValue | TensorValue)[] = []): Region {
    const exprs = new Map(start);
    const operands = [...external];
    const first = [...start.keys()];
    let best: Region = {
      root: root ?? (first.at(-1) as Node),
      epilogue: exprs.get(root ?? (first.at(-1) as Node)) as Expr,
      operands: [...operands],
      nodes: first,
    };
    for (;;) {
      const next = this.candidate(exprs, operands);
      if (!next) return best;
      exprs.set(next.node, next.expr);
      const leaving = [...exprs.keys()].filter((n) => this.escaping.has(n) || this.usersOf(n).some((u) => !exprs.has(u)));
      if (leaving.length === 1 && leaving[0] === next.node) {
        best = { root: next.node, epilogue: next.expr, operands: [...operands], nodes: [...exprs.keys()] };
      }
    }
  }

  /** The earliest elementwise user of the region whose other operands are already there. */
  private candidate(exprs: ReadonlyMap<Node, Expr>, operands: (BufferValue | TensorValue)[]): { node: Node; expr: Expr } | null {
    const users = [...exprs.keys()].flatMap((n) => this.usersOf(n)).filter((u) => !exprs.has(u) && !this.computed.has(u));
    users.sort((a, b) => a.id - b.id);
    for (const node of users) {
      if (!ELEMENTWISE.has(node.op) && node.op !== "reshape") continue;
      const added = [...operands];
      const expr = this.apply(node, exprs, added);
      if (!expr) continue;
      operands.splice(0, operands.length, ...added);
      return { node, expr };
    }
    return null;
  }

  /** `node` as an expression over the region and over values that are there, or undefined. */
  private apply(node: Node, exprs: ReadonlyMap<Node, Expr>, operands: (BufferValue | TensorValue)[]): Expr | undefined {
    const args: Expr[] = [];
    for (const operand of node.operands) {
      const arg = exprs.get(operand) ?? this.leaf(operand, node, operands);
      if (!arg) return undefined;
      args.push(arg);
    }
    const [a, b] = args as [Expr, Expr];
    switch (node.op) {
      case "add":
      case "mul":
        return { kind: "binary", fn: node.op, a, b };
      case "silu":
        return { kind: "unary", fn: "silu", x: a };
      case "cast":
        if (node.attrs.dtype === "f32") return a;
        if (node.attrs.dtype === "bf16" || node.attrs.dtype === "f16")
          return { kind: "unary", fn: `round_${node.attrs.dtype}`, x: a };
        return undefined;
      case "reshape":
        return a;
      default:
        return undefined;
    }
  }

  private leaf(node: Node, user: Node, operands: (BufferValue | TensorValue)[]): Expr | undefined {
    if (node.op === "constant") return { kind: "constant", value: node.attrs.value };
    const value = isWeightExpression(node) ? this.rowVector(node) : this.sameShape(node, user);
    if (!value) return undefined;
    const known = operands.findIndex((o) => o.name === value.name);
    if (known >= 0) return { kind: "operand", index: known };
    operands.push(value);
    return { kind: "operand", index: operands.length - 1 };
  }

  private rowVector(node: Node): TensorValue | undefined {
    return node.type.shape.length === 1 ? this.tensor(node) : undefined;
  }

  private sameShape(node: Node, user: Node): BufferValue | undefined {
    const value = this.buffers.get(node);
    const elements = (n: Node) => n.type.shape.slice(1).reduce<number>((p, d) => p * maxOf(d), 1);
    return value && elements(node) === elements(user) ? value : undefined;
  }

  private slots(region: Region) {
    return { epilogue: region.epilogue, operands: region.operands, out: this.output(region.root), nodes: region.nodes };
  }

  private push(region: Region, spec: Unnamed): void {
    for (const node of region.nodes) this.computed.add(node);
    const unnamed = stripStoredRounding(spec);
    this.kernels.push({ ...unnamed, name: kernelName(unnamed) });
  }

  private output(node: Node): BufferValue {
    const [rows, ...rest] = node.type.shape;
    invariant(rows !== undefined, `a kernel writes rows, not a scalar: ${printType(node.type)}`);
    const value: BufferValue = {
      kind: "buffer",
      name: this.bufferName(node),
      dtype: node.type.dtype,
      rows,
      cols: rest.reduce<number>((p, d) => p * maxOf(d), 1),
      node,
    };
    this.buffers.set(node, value);
    return value;
  }

  private bufferName(node: Node): string {
    return `v${node.id}`;
  }

  private bufferOf(node: Node): BufferValue {
    const value = this.buffers.get(node);
    if (!value && node.op === "reshape") return this.bufferOf(node.operands[0]);
    if (!value) return this.refuse(node, "its value is needed as a buffer, but no kernel writes it");
    return value;
  }

  private tensor(node: Node): TensorValue {
    if (!isWeightExpression(node)) return this.refuse(node, "a weight is expected here");
    const [rows, cols] = node.type.shape.length === 1 ? [1, node.type.shape[0] as number] : (node.type.shape as [number, number]);
    return { kind: "tensor", name: weightNames(node).join("+"), dtype: node.type.dtype, rows, cols, node };
  }

  private input(node: Node): InputValue {
    if (node.op !== "input") return this.refuse(node, "a step input is expected here");
    return { kind: "input", name: node.attrs.name, dtype: node.type.dtype, node };
  }

  private kv(node: Node): KvValue {
    if (node.op === "store_kv") return this.kv(node.operands[0]);
    if (node.op !== "kv_cache") return this.refuse(node, "a KV cache is expected here");
    return { kind: "kv", ...node.attrs, node };
  }

  private refuse(node: Node, why: string): never {
    throw new UnsupportedError(`${node.op} at ${this.graph.originText(node)}: ${why}`);
  }
}

/** A rounding to the very dtype the result is stored in says nothing more than the store does. */
function stripStoredRounding(spec: Unnamed): Unnamed {
  if (!("epilogue" in spec)) return spec;
  const { epilogue, out } = spec;
  return epilogue.kind === "unary" && epilogue.fn === `round_${out.dtype}` ? { ...spec, epilogue: epilogue.x } : spec;
}

/** Whether a node is made of checkpoint tensors alone: a weight, or a concatenation of weights that the packer writes. */
export function isWeightExpression(node: Node): boolean {
  return node.op === "weight" || (node.op === "concat" && node.operands.every(isWeightExpression));
}

/** The checkpoint tensors of a weight expression, in order. */
export function weightNames(node: Node): string[] {
  if (node.op === "weight") return [node.attrs.name];
  return node.operands.flatMap((o) => weightNames(o as Node));
}
