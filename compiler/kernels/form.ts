/**
 * Forms kernels from a legalized graph: picks anchors in program order and lets the elementwise work around each ride in its slots.
 *
 * How far a kernel reaches over elementwise work is `region.ts`'s business. Attention's inputs (norm, rotation, cache write of
 * q, k, v) form one kernel per layer.
 */
import { invariant } from "../errors.ts";
import type { Graph } from "../ir/graph.ts";
import type { Node, NodeOf } from "../ir/ops.ts";
import { printShape, printType } from "../ir/tensor-type.ts";
import { type AttentionInputs, matchAttentionInputs, storeKv } from "./attention-inputs.ts";
import { ExpertKernels } from "./form-experts.ts";
import { kernelName, type Unnamed } from "./name.ts";
import { applyElementwise, growRegion, type Region, rowElements, type Surroundings, sameRows } from "./region.ts";
import type { BufferValue, Expr, KernelSpec } from "./spec.ts";
import { KernelValues } from "./values.ts";
import { isWeightExpression } from "./weight-expression.ts";

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
  private readonly computed = new Set<Node>();
  private readonly attention = new Map<Node, AttentionInputs>();
  private readonly kernels: KernelSpec[] = [];
  private readonly around: Surroundings = {
    usersOf: (node) => this.usersOf(node),
    isNamed: (node) => this.named.has(node),
    isComputed: (node) => this.computed.has(node),
    bufferAt: (node) => this.values.bufferAt(node),
    tensorOf: (node) => this.values.tensor(node),
  };

  private readonly values: KernelValues;
  private readonly experts: ExpertKernels;

  constructor(private readonly graph: Graph) {
    this.values = new KernelValues(graph);
    this.experts = new ExpertKernels(graph, this.values, {
      usersOf: this.around.usersOf,
      isNamed: this.around.isNamed,
      region: (node) => this.region(node, ACC),
      regionAlone: (node) => this.region(node, ACC, { takesOperands: false }),
      gated: (node, n) => this.gated(node, n),
      claim: (node) => this.computed.add(node),
      push: (spec) => this.push(spec),
    });
  }

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
    for (const node of nodes) if (node.op === "top_k") this.experts.claimRoute(node);
    for (const node of nodes) if (!this.computed.has(node)) this.emit(node);
    return {
      kernels: this.kernels,
      logits: this.values.bufferOf(graph.logits),
      taps: [...graph.taps].map(([name, node]) => ({ name, buffer: this.values.bufferOf(node) })),
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
          ids: this.values.input(node.operands[0]),
          table: this.values.tensor(node.operands[1]),
          ...this.slots(r),
        }));
      case "rms_norm":
      case "layer_norm":
        return this.rowNorm(node);
      case "linear":
        return this.linear(node);
      case "top_k":
        return this.experts.route(node);
      case "grouped_linear":
        return this.experts.groupedLinear(node);
      case "combine":
        return this.experts.expertSum(node);
      case "dispatch":
      case "expert_rows":
        return; // read by the kernels over sorted rows, by the plan
      case "rope_angles": {
        const [positions, seqIds, seqLens] = node.operands;
        const { invFreq, attentionFactor, long } = node.attrs;
        return this.push({
          kind: "rope_angles",
          positions: this.values.input(positions),
          invFreq,
          attentionFactor,
          long:
            long && seqIds && seqLens
              ? { ...long, seqIds: this.values.input(seqIds), seqLens: this.values.input(seqLens) }
              : null,
          out: this.values.output(node),
          nodes: [node],
        });
      }
      case "store_kv":
        // With the attention that reads it, which stands behind q as well.
        return;
      case "paged_attention": {
        const inputs = this.attention.get(node.operands[1]);
        if (inputs) this.push(storeKv(inputs, this.values));
        const [q, kv, positions, seqIds, blockTables, sinks] = node.operands;
        const [, numHeads, headDim] = node.type.shape as [unknown, number, number];
        // Its kernel has no operands: what reads others after it has a kernel of its own.
        const region = this.region(node, ACC, { takesOperands: false });
        return this.push({
          kind: "paged_attention",
          q: this.values.bufferOf(q),
          kv: this.values.kv(kv),
          numHeads,
          headDim,
          scale: node.attrs.scale,
          window: node.attrs.window,
          sinks: sinks ? this.values.tensor(sinks) : null,
          units: null,
          positions: this.values.input(positions),
          seqIds: this.values.input(seqIds),
          blockTables: this.values.input(blockTables),
          epilogue: region.epilogue,
          out: this.values.output(region.root),
          nodes: region.nodes,
        });
      }
      case "gather_rows":
        // Norms read the rows where they are.
        if (this.usersOf(node).every(isRowNorm) && !this.named.has(node)) return;
        return this.anchored(node, (r) => ({
          kind: "gather",
          x: this.values.bufferOf(node.operands[0]),
          rows: this.values.input(node.operands[1]),
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
          return this.values.refuse(
            node,
            `${from} as ${to} are other rows: only the extents after the first may be split or joined`,
          );
        }
        // The same memory in row-major order: an alias of what it reads.
        this.values.alias(node, this.values.bufferOf(node.operands[0]));
        return;
      case "input":
      case "weight":
      case "constant":
      case "kv_cache":
        return;
      case "concat":
        return this.values.refuse(node, "only weights are joined: join the weights, and multiply once");
      case "slice":
        if (isWeightExpression(node)) return;
        return this.slice(node);
      case "rope":
        return this.values.refuse(
          node,
          "a rotation is part of the kernel that stores keys: rotate what goes to storeKv and pagedAttention alone",
        );
      case "softmax":
      case "renormalize":
      case "group_limit":
      case "gather_cols":
        return this.values.refuse(node, "a kernel computes it only on the way to a top_k that chooses experts, or from it");
      case "transpose":
        return this.values.refuse(node, "only weights are transposed");
    }
  }

  private rowNorm(node: NodeOf<"rms_norm"> | NodeOf<"layer_norm">): void {
    const [x, gain, bias] = node.operands;
    const gather = x.op === "gather_rows" && !this.values.bufferAt(x) ? x : null;
    if (gain.type.shape[0] !== rowElements(x.type.shape)) {
      const [found, wanted] = [x, gain].map((n) => printShape(n.type.shape));
      return this.values.refuse(
        node,
        `x is ${found}, the gain ${wanted}: away from attention's inputs a kernel normalizes whole rows`,
      );
    }
    this.anchored(node, (r) => ({
      ...(bias ? { kind: "layer_norm", bias: this.values.tensor(bias) } : { kind: "rms_norm" }),
      x: this.values.bufferOf(gather ? gather.operands[0] : x),
      rows: gather ? this.values.input(gather.operands[1]) : null,
      gain: this.values.tensor(gain),
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
      return this.values.refuse(
        node,
        `axis ${axis} of ${printShape(x.type.shape)}: a kernel takes one range of columns from each row`,
      );
    this.anchored(node, (r) => ({
      kind: "gather",
      x: this.values.bufferOf(x),
      rows: null,
      col: start * rowElements(x.type.shape.slice(1)),
      ...this.slots(r),
    }));
  }

  private linear(node: NodeOf<"linear">): void {
    const [x, w] = node.operands;
    const [rows, total] = node.type.shape;
    if (x.type.shape.length !== 2 || rows === undefined || typeof total !== "number") {
      return this.values.refuse(node, `x is ${printShape(x.type.shape)}: a kernel multiplies whole rows, (T, K)`);
    }
    const gated = this.gated(node, total / 2);
    const region = gated ?? this.region(node, ACC);
    const ways = gated ? 2 : 1;
    this.push({
      kind: "linear",
      norm: null,
      split: null,
      x: this.values.bufferOf(x),
      w: this.values.tensor(w),
      ways,
      n: total / ways,
      k: x.type.shape[1] as number,
      ...this.slots(region),
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

  private elementwise(node: Node): void {
    const start = applyElementwise(this.around, node, new Map(), []);
    if (!start) {
      const shapes = node.operands.map((o) => printType(o.type)).join(" and ");
      return this.values.refuse(node, `its operands, ${shapes}, are not rows of the result's extent or one vector of it`);
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
    return { epilogue: region.epilogue, operands: region.operands, out: this.values.output(region.root), nodes: region.nodes };
  }

  private push(spec: Unnamed): void {
    for (const node of spec.nodes) this.computed.add(node);
    const unnamed = stripStoredRounding(spec);
    this.kernels.push({ ...unnamed, name: kernelName(unnamed) });
  }
}

const isRowNorm = (node: Node): boolean => node.op === "rms_norm" || node.op === "layer_norm";

/** A rounding to the very dtype the result is stored in says nothing more than the store does. */
function stripStoredRounding(spec: Unnamed): Unnamed {
  if (!("epilogue" in spec)) return spec;
  const { epilogue, out } = spec;
  return epilogue.kind === "unary" && epilogue.fn === `round_${out.dtype}` ? { ...spec, epilogue: epilogue.x } : spec;
}
