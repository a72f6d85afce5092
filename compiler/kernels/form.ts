/**
 * Forms kernels from a legalized graph: picks anchors in program order and lets the elementwise work around each ride in its slots.
 *
 * How far a kernel reaches over elementwise work is `region.ts`'s business. Attention's inputs (norm, rotation, cache write of
 * q, k, v) form one kernel per layer.
 */
import { invariant, UnsupportedError } from "../errors.ts";
import type { Graph } from "../ir/graph.ts";
import type { Node, NodeOf } from "../ir/ops.ts";
import { type Dim, printShape, printType } from "../ir/tensor-type.ts";
import { WeightRowsError, weightRows } from "../weights/rows.ts";
import { type AttentionInputs, matchAttentionInputs } from "./attention-inputs.ts";
import { kernelName, type Unnamed } from "./name.ts";
import { planColumns, sortedRows } from "./plan.ts";
import { applyElementwise, growRegion, type Region, rowElements, type Surroundings, sameRows } from "./region.ts";
import { findRoute, type Route, routeSteps } from "./route.ts";
import type { BufferValue, Expr, InputValue, KernelSpec, KvValue, TensorValue } from "./spec.ts";
import { isWeightExpression, printWeights } from "./weight-expression.ts";

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

const ACC: Expr = { kind: "acc", way: 0 };

class Former {
  private readonly users = new Map<Node, Node[]>();
  /** Taps and logits: their values are wanted by name. */
  private readonly named = new Set<Node>();
  private readonly buffers = new Map<Node, BufferValue>();
  private readonly tensors = new Map<Node, TensorValue>();
  /** How many tensors are made of the same checkpoint tensors: different parts of them are numbered apart. */
  private readonly alike = new Map<string, number>();
  private readonly computed = new Set<Node>();
  private readonly attention = new Map<Node, AttentionInputs>();
  private readonly routes = new Map<Node, Route>();
  /** The plan of each `top_k` whose experts were dispatched. */
  private readonly plans = new Map<Node, BufferValue>();
  private readonly kernels: KernelSpec[] = [];
  private readonly around: Surroundings = {
    usersOf: (node) => this.usersOf(node),
    isNamed: (node) => this.named.has(node),
    isComputed: (node) => this.computed.has(node),
    bufferAt: (node) => this.buffers.get(node),
    tensorOf: (node) => this.tensor(node),
  };

  constructor(private readonly graph: Graph) {}

  run(): KernelProgram {
    const { graph } = this;
    const nodes = graph.liveNodes();
    for (const node of nodes) for (const operand of node.operands) this.users.set(operand, [...this.usersOf(operand), node]);
    this.named.add(graph.logits);
    for (const tap of graph.taps.values()) this.named.add(tap);
    for (const node of nodes) {
      if (node.op !== "store_kv") continue;
      const inputs = matchAttentionInputs(graph, node, this.usersOf(node));
      this.attention.set(node, inputs);
      for (const inner of inputs.inner) this.computed.add(inner);
    }
    for (const node of nodes) {
      if (node.op !== "top_k") continue;
      const route = findRoute(
        node,
        (n) => this.usersOf(n),
        (n) => this.named.has(n),
      );
      for (const inner of route.nodes) if (inner !== node) this.computed.add(inner);
      this.routes.set(node, route);
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
    if (isWeightExpression(node)) return; // packed, where something reads it
    switch (node.op) {
      case "embedding":
        return this.anchored(node, (r) => ({
          kind: "embedding",
          ids: this.input(node.operands[0]),
          table: this.tensor(node.operands[1]),
          ...this.slots(r),
        }));
      case "rms_norm":
      case "layer_norm":
        return this.rowNorm(node);
      case "linear":
        return this.linear(node);
      case "top_k":
        return this.route(node);
      case "grouped_linear":
        return this.groupedLinear(node);
      case "combine":
        return this.expertSum(node);
      case "dispatch":
      case "expert_rows":
        return; // read by the kernels over sorted rows, by the plan
      case "rope_angles": {
        const [positions, seqIds, seqLens] = node.operands;
        const { invFreq, attentionFactor, long } = node.attrs;
        return this.push({
          kind: "rope_angles",
          positions: this.input(positions),
          invFreq,
          attentionFactor,
          long: long && seqIds && seqLens ? { ...long, seqIds: this.input(seqIds), seqLens: this.input(seqLens) } : null,
          out: this.output(node),
          nodes: [node],
        });
      }
      case "store_kv":
        // With the attention that reads it, which stands behind q as well.
        return;
      case "paged_attention": {
        if (node.operands[1].op === "store_kv") this.storeKv(node.operands[1]);
        const [q, kv, positions, seqIds, blockTables, sinks] = node.operands;
        const [, numHeads, headDim] = node.type.shape as [unknown, number, number];
        // Its kernel has no operands: what reads others after it has a kernel of its own.
        const region = this.region(node, ACC, { takesOperands: false });
        return this.push({
          kind: "paged_attention",
          q: this.bufferOf(q),
          kv: this.kv(kv),
          numHeads,
          headDim,
          scale: node.attrs.scale,
          window: node.attrs.window,
          sinks: sinks ? this.tensor(sinks) : null,
          positions: this.input(positions),
          seqIds: this.input(seqIds),
          blockTables: this.input(blockTables),
          epilogue: region.epilogue,
          out: this.output(region.root),
          nodes: region.nodes,
        });
      }
      case "gather_rows":
        // Norms read the rows where they are.
        if (this.usersOf(node).every(isRowNorm) && !this.named.has(node)) return;
        return this.anchored(node, (r) => ({
          kind: "gather",
          x: this.bufferOf(node.operands[0]),
          rows: this.input(node.operands[1]),
          col: 0,
          ...this.slots(r),
        }));
      case "cast":
      case "add":
      case "mul":
      case "min":
      case "max":
      case "sigmoid":
      case "silu":
      case "gelu_tanh":
      case "tanh":
        return this.elementwise(node);
      case "reshape":
        if (!sameRows(node.type.shape, node.operands[0].type.shape)) {
          const [from, to] = [node.operands[0], node].map((n) => printShape(n.type.shape));
          return this.refuse(node, `${from} as ${to} are other rows: only the extents after the first may be split or joined`);
        }
        // The same memory in row-major order: an alias of what it reads.
        this.buffers.set(node, this.bufferOf(node.operands[0]));
        return;
      case "input":
      case "weight":
      case "constant":
      case "kv_cache":
        return;
      case "concat":
        return this.refuse(node, "only weights are joined");
      case "slice":
        if (isWeightExpression(node)) return;
        return this.slice(node);
      case "rope":
        return this.refuse(node, "no kernel computes a rope on its own");
    }
  }

  private rowNorm(node: NodeOf<"rms_norm"> | NodeOf<"layer_norm">): void {
    const [x, gain, bias] = node.operands;
    const gather = x.op === "gather_rows" && !this.buffers.has(x) ? x : null;
    if (gain.type.shape[0] !== rowElements(x.type.shape)) {
      const [found, wanted] = [x, gain].map((n) => printShape(n.type.shape));
      return this.refuse(node, `x is ${found}, the gain ${wanted}: away from attention's inputs a kernel normalizes whole rows`);
    }
    this.anchored(node, (r) => ({
      ...(bias ? { kind: "layer_norm", bias: this.tensor(bias) } : { kind: "rms_norm" }),
      x: this.bufferOf(gather ? gather.operands[0] : x),
      rows: gather ? this.input(gather.operands[1]) : null,
      gain: this.tensor(gain),
      eps: node.attrs.eps,
      ...this.slots(r),
      nodes: gather ? [gather, ...r.nodes] : r.nodes,
    }));
  }

  /** Columns that neither attention's inputs nor a gated linear take where they are. */
  private slice(node: NodeOf<"slice">): void {
    const [x] = node.operands;
    const { axis, start } = node.attrs;
    if (axis !== 1)
      return this.refuse(node, `axis ${axis} of ${printShape(x.type.shape)}: a kernel takes one range of columns from each row`);
    this.anchored(node, (r) => ({
      kind: "gather",
      x: this.bufferOf(x),
      rows: null,
      col: start * rowElements(x.type.shape.slice(1)),
      ...this.slots(r),
    }));
  }

  private linear(node: NodeOf<"linear">): void {
    const [x, w] = node.operands;
    const [rows, total] = node.type.shape;
    if (x.type.shape.length !== 2 || rows === undefined || typeof total !== "number") {
      return this.refuse(node, `x is ${printShape(x.type.shape)}: a kernel multiplies whole rows, (T, K)`);
    }
    const gated = this.gated(node, total / 2);
    const region = gated ?? this.region(node, ACC);
    const ways = gated ? 2 : 1;
    this.push({
      kind: "linear",
      x: this.bufferOf(x),
      w: this.tensor(w),
      ways,
      n: total / ways,
      k: x.type.shape[1] as number,
      ...this.slots(region),
    });
  }

  private route(node: NodeOf<"top_k">): void {
    const route = this.routes.get(node);
    invariant(route, "every top_k was matched");
    const read = (n: Node) => (isWeightExpression(n) ? this.tensor(n) : this.bufferOf(n));
    const steps = routeSteps(this.graph, route, read, (n) => this.output(n));
    this.push({ kind: "route", ...steps, nodes: route.nodes });
  }

  /** The plan by which the kernels of an expert layer find their rows: made once, before the first of them. */
  private planOf(ids: Node, numExperts: number): BufferValue {
    const known = this.plans.get(ids);
    if (known) return known;
    const slots = this.bufferOf(ids);
    const cols = planColumns(slots, numExperts);
    const out: BufferValue = { kind: "buffer", name: `${slots.name}_plan`, dtype: "i32", rows: 1, cols, node: ids };
    this.plans.set(ids, out);
    this.push({ kind: "sort_slots", ids: slots, numExperts, out, nodes: [] });
    return out;
  }

  /** What kernels over sorted rows share. */
  private ofExperts(node: NodeOf<"grouped_linear">) {
    const [x, w, ids] = node.operands;
    const [numExperts, total, k] = w.type.shape as [number, number, number];
    const plan = this.planOf(ids, numExperts);
    const perToken = ids.type.shape[1] as number;
    return { w: this.tensor(w), x: this.bufferOf(x.op === "dispatch" ? x.operands[0] : x), plan, numExperts, perToken, total, k };
  }

  private groupedLinear(node: NodeOf<"grouped_linear">): void {
    if (this.summed(node)) {
      // The combine's kernel computes this, and the vector added to it.
      for (const user of this.usersOf(node)) if (user.op === "add") this.computed.add(user);
      return;
    }
    const { total, ...common } = this.ofExperts(node);
    const gated = this.gated(node, total / 2);
    const region = gated ?? this.region(node, ACC);
    const ways = gated ? 2 : 1;
    const operands = region.operands.map((o) =>
      o.kind === "tensor" && o.rows === common.numExperts
        ? o
        : this.refuse(node, `${o.name} is not one vector an expert: other values cannot be read along sorted rows`),
    );
    const [x] = node.operands;
    const rows = sortedRows(node.operands[2].type.shape[0] as Dim, common.perToken, common.numExperts);
    this.push({
      kind: "grouped_linear",
      ...common,
      gathers: x.op === "dispatch",
      ways,
      n: total / ways,
      epilogue: region.epilogue,
      operands,
      out: { ...this.output(region.root), rows },
      nodes: x.op === "dispatch" ? [x, ...region.nodes] : region.nodes,
    });
    const out = this.kernels.at(-1);
    if (out?.kind === "grouped_linear") this.buffers.set(region.root, out.out);
  }

  /** The combine that alone reads a grouped linear, perhaps after one vector an expert was added to it. */
  private summed(node: NodeOf<"grouped_linear">): NodeOf<"combine"> | null {
    if (this.named.has(node)) return null;
    const [user, other] = this.usersOf(node);
    if (other) return null;
    if (user?.op === "combine") return user;
    if (user?.op !== "add" || this.named.has(user) || !user.operands.some((o) => o.op === "expert_rows")) return null;
    const [after, more] = this.usersOf(user);
    return after?.op === "combine" && !more ? after : null;
  }

  private expertSum(node: NodeOf<"combine">): void {
    const [y, weights] = node.operands;
    const linear = y.op === "add" ? y.operands.find((o) => o.op === "grouped_linear") : y;
    const bias = y.op === "add" ? y.operands.find((o) => o.op === "expert_rows") : undefined;
    if (linear?.op !== "grouped_linear" || this.summed(linear) !== node) {
      return this.refuse(
        node,
        "the rows combined must be a grouped linear's, with at most one vector an expert added and no other reader",
      );
    }
    const { total: n, ...common } = this.ofExperts(linear);
    // Sums stay in f32 where they are written: a result of another dtype is rounded by a kernel of its own.
    const whole = this.region(node, ACC);
    const region = whole.root.type.dtype === "f32" ? whole : this.region(node, ACC, { takesOperands: false });
    this.push({
      kind: "expert_sum",
      ...common,
      n,
      weights: this.bufferOf(weights),
      bias: bias?.op === "expert_rows" ? this.tensor(bias.operands[0]) : null,
      ...this.slots(region),
      nodes: [...new Set([linear, ...(bias ? [bias] : []), y, ...region.nodes])],
    });
  }

  /** A linear whose only users are its two halves of `n` columns, combined elementwise into one value. */
  private gated(node: Node, n: number): Region | null {
    const users = this.usersOf(node);
    const half = (start: number) =>
      users.find((u) => u.op === "slice" && u.attrs.axis === 1 && u.attrs.start === start && u.attrs.size === n);
    const [gate, up] = [half(0), half(n)];
    if (this.named.has(node) || users.length !== 2 || !gate || !up) return null;
    const region = growRegion(
      this.around,
      new Map<Node, Expr>([
        [gate, ACC],
        [up, { kind: "acc", way: 1 }],
      ]),
    );
    return region && { ...region, nodes: [node, ...region.nodes] };
  }

  private storeKv(node: NodeOf<"store_kv">): void {
    const inputs = this.attention.get(node);
    invariant(inputs, "every store_kv was matched");
    const [kv, , , positions, seqIds, blockTables] = node.operands;
    const chain = (c: AttentionInputs["q"]) => ({
      x: this.bufferOf(c.source),
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
    this.push({
      kind: "store_kv",
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
    });
  }

  private elementwise(node: Node): void {
    const start = applyElementwise(this.around, node, new Map(), []);
    if (!start) {
      const shapes = node.operands.map((o) => printType(o.type)).join(" and ");
      return this.refuse(node, `its operands, ${shapes}, are not rows of the result's extent or one vector of it`);
    }
    this.push({ kind: "elementwise", ...this.slots(this.region(node, start.expr, { operands: start.operands })) });
  }

  private anchored(node: Node, spec: (region: Region) => Unnamed): void {
    this.push(spec(this.region(node, ACC)));
  }

  /** The region around one value, which can always stop at the value itself. */
  private region(node: Node, expr: Expr, options: Parameters<typeof growRegion>[2] = {}): Region {
    const region = growRegion(this.around, new Map([[node, expr]]), options);
    invariant(region, `${node.op} %${node.id} leaves its own region`);
    return region;
  }

  private slots(region: Region) {
    return { epilogue: region.epilogue, operands: region.operands, out: this.output(region.root), nodes: region.nodes };
  }

  private push(spec: Unnamed): void {
    for (const node of spec.nodes) this.computed.add(node);
    const unnamed = stripStoredRounding(spec);
    this.kernels.push({ ...unnamed, name: kernelName(unnamed) });
  }

  private output(node: Node): BufferValue {
    const [rows] = node.type.shape;
    invariant(rows !== undefined, `a kernel writes rows, not a scalar: ${printType(node.type)}`);
    const value: BufferValue = {
      kind: "buffer",
      name: this.bufferName(node),
      dtype: node.type.dtype,
      rows,
      cols: rowElements(node.type.shape),
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
    const known = this.tensors.get(node);
    if (known) return known;
    try {
      weightRows(node);
    } catch (error) {
      if (error instanceof WeightRowsError) return this.refuse(error.node, error.message);
      throw error;
    }
    const words = printWeights(node);
    const alike = (this.alike.get(words) ?? 0) + 1;
    this.alike.set(words, alike);
    const shape = node.type.shape as readonly number[];
    const cols = shape.at(-1) ?? 1;
    const rows = shape.slice(0, -1).reduce((a, b) => a * b, 1);
    const name = alike === 1 ? words : `${words} (${alike})`;
    const tensor: TensorValue = { kind: "tensor", name, dtype: node.type.dtype, rows, cols, node };
    this.tensors.set(node, tensor);
    return tensor;
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

const isRowNorm = (node: Node): boolean => node.op === "rms_norm" || node.op === "layer_norm";

/** A rounding to the very dtype the result is stored in says nothing more than the store does. */
function stripStoredRounding(spec: Unnamed): Unnamed {
  if (!("epilogue" in spec)) return spec;
  const { epilogue, out } = spec;
  return epilogue.kind === "unary" && epilogue.fn === `round_${out.dtype}` ? { ...spec, epilogue: epilogue.x } : spec;
}
