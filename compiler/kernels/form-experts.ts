/**
 * Forms the kernels of expert layers: what chooses experts, the plan of sorted rows, and the linears over them.
 */
import { invariant } from "../errors.ts";
import type { Graph } from "../ir/graph.ts";
import type { Node, NodeOf } from "../ir/ops.ts";
import type { Dim } from "../ir/tensor-type.ts";
import { planColumns, sortedRows } from "./expert-plan.ts";
import type { Unnamed } from "./name.ts";
import type { Region } from "./region.ts";
import { findRoute, type Route, routeSteps } from "./route.ts";
import type { BufferValue } from "./spec.ts";
import type { KernelValues } from "./values.ts";
import { isWeightExpression } from "./weight-expression.ts";

/** What forming experts asks of the one who forms the whole graph. */
export interface AroundExperts {
  usersOf(node: Node): readonly Node[];
  isNamed(node: Node): boolean;
  /** The region around an anchor's value, and the one that reads nothing else. */
  region(node: Node): Region;
  regionAlone(node: Node): Region;
  /** The region of a linear's two halves, or null where it is not a gate and its up. */
  gated(node: Node, n: number): Region | null;
  /** Says that a kernel computes `node`. */
  claim(node: Node): void;
  push(spec: Unnamed): void;
}

export class ExpertKernels {
  private readonly routes = new Map<Node, Route>();
  /** The plan of each `top_k` whose experts were dispatched. */
  private readonly plans = new Map<Node, BufferValue>();

  constructor(
    private readonly graph: Graph,
    private readonly values: KernelValues,
    private readonly around: AroundExperts,
  ) {}

  /** Finds what one kernel computes around `topK`; to be called before any kernel is formed. */
  claimRoute(topK: NodeOf<"top_k">): void {
    // Two choices among the same scores are one kernel's work.
    if ([...this.routes.values()].some((other) => other.nodes.includes(topK))) return;
    const route = findRoute(topK, this.around.usersOf, this.around.isNamed);
    for (const inner of route.nodes) if (inner !== topK) this.around.claim(inner);
    this.routes.set(topK, route);
  }

  /** Forms the kernel around a claimed `top_k`. */
  route(node: NodeOf<"top_k">): void {
    const route = this.routes.get(node);
    invariant(route, "every top_k was matched");
    const read = (n: Node) => (isWeightExpression(n) ? this.values.tensor(n) : this.values.bufferOf(n));
    const steps = routeSteps(this.graph, route, read, (n) => this.values.output(n));
    this.around.push({ kind: "route", ...steps, nodes: route.nodes });
  }

  /** The plan by which the kernels of an expert layer find their rows: made once, before the first of them. */
  private planOf(ids: Node, numExperts: number): BufferValue {
    const known = this.plans.get(ids);
    if (known) return known;
    const slots = this.values.bufferOf(ids);
    const cols = planColumns(slots, numExperts);
    const out: BufferValue = { kind: "buffer", name: `${slots.name}_plan`, dtype: "i32", rows: 1, cols, node: ids };
    this.plans.set(ids, out);
    this.around.push({ kind: "sort_slots", ids: slots, numExperts, out, nodes: [] });
    return out;
  }

  /** What kernels over sorted rows share. */
  private ofExperts(node: NodeOf<"grouped_linear">) {
    const [x, w, ids] = node.operands;
    const [numExperts, total, k] = w.type.shape as [number, number, number];
    return {
      plan: this.planOf(ids, numExperts),
      tokens: ids.type.shape[0] as Dim,
      w: this.values.tensor(w),
      x: this.values.bufferOf(x.op === "dispatch" ? x.operands[0] : x),
      numExperts,
      perToken: ids.type.shape[1] as number,
      total,
      k,
    };
  }

  groupedLinear(node: NodeOf<"grouped_linear">): void {
    if (this.summed(node)) {
      // The combine's kernel computes this, and the vector added to it.
      for (const user of this.around.usersOf(node)) if (user.op === "add") this.around.claim(user);
      return;
    }
    const { total, ...common } = this.ofExperts(node);
    const gated = this.around.gated(node, total / 2);
    const region = gated ?? this.around.region(node);
    const ways = gated ? 2 : 1;
    const operands = region.operands.map((o) =>
      o.kind === "tensor" && o.rows === common.numExperts
        ? o
        : this.values.refuse(node, `${o.name} is not one vector an expert: other values cannot be read along sorted rows`),
    );
    this.requireSortedReaders(node, region.root);
    const [x] = node.operands;
    const rows = sortedRows(common.tokens, common.perToken, common.numExperts);
    this.around.push({
      kind: "grouped_linear",
      ...common,
      gathers: x.op === "dispatch",
      scatters: false,
      ways,
      n: total / ways,
      epilogue: region.epilogue,
      operands,
      out: this.values.output(region.root, { rows }),
      nodes: x.op === "dispatch" ? [x, ...region.nodes] : region.nodes,
    });
  }

  /** Sorted rows lie with gaps between experts, which nobody expects but the kernels that have the plan. */
  private requireSortedReaders(node: Node, value: Node): void {
    if (this.around.isNamed(value)) this.values.refuse(node, "rows sorted by expert cannot be tapped");
    const other = this.around.usersOf(value).find((user) => user.op !== "grouped_linear" && user.op !== "combine");
    if (other)
      this.values.refuse(node, `its rows, sorted by expert, are read by a ${other.op}, which no kernel computes over such rows`);
  }

  /** The combine that alone reads a grouped linear, perhaps after one vector an expert was added to it. */
  private summed(node: NodeOf<"grouped_linear">): NodeOf<"combine"> | null {
    if (this.around.isNamed(node)) return null;
    const [user, other] = this.around.usersOf(node);
    if (other) return null;
    if (user?.op === "combine") return user;
    if (user?.op !== "add" || this.around.isNamed(user) || !user.operands.some((o) => o.op === "expert_rows")) return null;
    const [after, more] = this.around.usersOf(user);
    return after?.op === "combine" && !more ? after : null;
  }

  expertSum(node: NodeOf<"combine">): void {
    const [y, weights] = node.operands;
    const linear = y.op === "add" ? y.operands.find((o) => o.op === "grouped_linear") : y;
    const bias = y.op === "add" ? y.operands.find((o) => o.op === "expert_rows") : undefined;
    if (linear?.op !== "grouped_linear" || this.summed(linear) !== node) {
      return this.values.refuse(
        node,
        "the rows combined must be a grouped linear's, with at most one vector an expert added and no other reader",
      );
    }
    if (linear.operands[0].op === "dispatch") {
      return this.values.refuse(linear, "rows are combined after a second linear: experts of a single one have no kernel");
    }
    const { total: n, ...common } = this.ofExperts(linear);
    // Sums stay in f32 where they are written: a result of another dtype is rounded by a kernel of its own.
    const whole = this.around.region(node);
    const region = whole.root.type.dtype === "f32" ? whole : this.around.regionAlone(node);
    this.around.push({
      kind: "expert_sum",
      ...common,
      n,
      weights: this.values.bufferOf(weights),
      bias: bias?.op === "expert_rows" ? this.values.tensor(bias.operands[0]) : null,
      epilogue: region.epilogue,
      operands: region.operands,
      out: this.values.output(region.root),
      nodes: [...new Set([linear, ...(bias ? [bias] : []), y, ...region.nodes])],
    });
  }
}
