/**
 * Says of each kernel which of the model's lines it came from, what was fused in it and why: `ingot compile --explain`.
 *
 * Everything is read off what the passes left behind: origins, recorded firings, and the nodes that each kernel computes.
 */
import type { Graph } from "./ir/graph.ts";
import type { Node, OpName } from "./ir/ops.ts";
import type { Origin } from "./ir/origin.ts";
import { kernelTensors } from "./kernels/operands.ts";
import { printKernel } from "./kernels/print.ts";
import type { KernelSpec } from "./kernels/spec.ts";
import { weightOps } from "./kernels/weight-expression.ts";
import type { Generated } from "./pipeline.ts";
import type { Firing } from "./rewrite/rewrite.ts";

export interface KernelExplanation {
  readonly name: string;
  /** Its text in the engine folder. */
  readonly source: string;
  readonly anchor: KernelSpec["kind"];
  /** Steps of the program that run it, and the layers they belong to: the first number of their model paths. */
  readonly steps: readonly number[];
  readonly layers: readonly number[];
  /** What the first of them does, its slot as a formula over what the anchor accumulates. */
  readonly computes: string;
  /** The graph's ops in it, and how many of each a step computes. */
  readonly ops: Readonly<Partial<Record<OpName, number>>>;
  /** Model paths, layers as ranges, each with its line. */
  readonly origins: readonly { readonly path: string; readonly line: string | null }[];
  readonly reasons: readonly Reason[];
}

/** A rule, and how often it fired on what these steps compute. */
export interface Reason {
  readonly pass: string;
  readonly rule: string;
  readonly times: number;
}

/** Every kernel of an engine, in the order of its first step. */
export function explainKernels({ kernels, emitted, lowered }: Generated): readonly KernelExplanation[] {
  const firings = new Map<Origin, Firing[]>();
  for (const firing of lowered.firings) {
    for (const origin of firing.origins) firings.set(origin, [...(firings.get(origin) ?? []), firing]);
  }
  const products = productsByInput(lowered.graph);
  return emitted.entries.map(({ name, source }, text): KernelExplanation => {
    const program = emitted.textOf.findIndex((textOf) => textOf.includes(text)); // that of the smallest steps
    const steps = (emitted.textOf[program] ?? []).flatMap((of, step) => (of === text ? [step] : []));
    const specs = steps.map((step) => kernels[program]?.[step] as KernelSpec);
    const nodes = [...new Set(specs.flatMap((spec) => spec.nodes))];
    const fired = new Set<Firing>();
    for (const node of nodes) {
      for (const origin of lowered.graph.originsOf(node)) {
        for (const firing of firings.get(origin) ?? []) if (firing.ops.has(node.op)) fired.add(firing);
      }
    }
    const [first] = specs as [KernelSpec, ...KernelSpec[]];
    const placed = nodes.length > 0 ? nodes : specs.flatMap((spec) => (spec.kind === "sort_slots" ? [spec.ids.node] : []));
    const places = collapse(placed.flatMap((node) => lowered.graph.originsOf(node)));
    return {
      name,
      source,
      anchor: first.kind,
      steps,
      layers: [...new Set(places.flatMap((place) => place.numbers))].sort((a, b) => a - b),
      computes: printKernel({ ...first, name }),
      ops: count(first.nodes.map((node) => node.op)),
      origins: places.map(({ template, numbers, line }) => ({ path: template.replace("*", ranges(numbers)), line })),
      reasons: [...reasons(fired), ...apart(specs, products), ...formed(first, steps.length), ...packed(specs)],
    };
  });
}

function count<K extends string>(names: readonly K[]): Partial<Record<K, number>> {
  const counts: Partial<Record<K, number>> = {};
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}

function reasons(fired: ReadonlySet<Firing>): Reason[] {
  const byRule = new Map<string, Reason>();
  for (const { pass, rule } of fired) {
    const key = `${pass}: ${rule}`;
    byRule.set(key, { pass, rule, times: (byRule.get(key)?.times ?? 0) + 1 });
  }
  return [...byRule.values()];
}

function productsByInput(graph: Graph): ReadonlyMap<Node, readonly Node[]> {
  const products = new Map<Node, Node[]>();
  for (const node of graph.liveNodes()) {
    if (node.op === "linear") products.set(node.operands[0], [...(products.get(node.operands[0]) ?? []), node]);
  }
  return products;
}

/** Why a product is a kernel of its own, though others read the same rows. */
function apart(specs: readonly KernelSpec[], products: ReadonlyMap<Node, readonly Node[]>): Reason[] {
  const isApart = ({ nodes }: KernelSpec) =>
    nodes.some((n) => n.op === "linear" && products.get(n.operands[0])?.some((other) => !nodes.includes(other)));
  const times = specs.filter(isApart).length;
  const rule =
    "apart from other products of the same rows: joined are q, k and v that attention reads as they are, and gate and up that meet";
  return times === 0 ? [] : [{ pass: "fuse-projections", rule, times }];
}

/** Ops that compute nothing: a kernel that has one reads where it says. */
const VIEWS: ReadonlySet<OpName> = new Set(["slice", "reshape", "gather_rows", "dispatch", "expert_rows"]);

/** What forming the kernel did, in each of `times` steps: everything but the op it is named for was fused into that. */
function formed(spec: KernelSpec, times: number): Reason[] {
  const { kind, nodes } = spec;
  const others = [...new Set(nodes.map((node) => node.op).filter((op) => op !== kind))];
  const views = others.filter((op) => VIEWS.has(op));
  const computed = others.filter((op) => !VIEWS.has(op));
  const reason = (why: string, ops: readonly OpName[]): Reason[] =>
    ops.length === 0 ? [] : [{ pass: "form-kernels", rule: `${why}: ${ops.join(", ")}`, times }];
  switch (kind) {
    case "sort_slots":
      return [{ pass: "form-kernels", rule: "rows are sorted by expert once, for every kernel that reads them so", times }];
    case "elementwise":
      return reason("no kernel to be fused into, since what is read is wanted by name or by others", others);
    case "gather":
      return [...reason("copied, since no reader takes it where it lies", views), ...reason("fused into the copy", computed)];
    default: {
      const isProjected = kind === "store_kv" && spec.projection !== null;
      const why = isProjected
        ? "in the same kernel, whose last block of each head takes it on"
        : `fused into the ${kind}, so that nothing in between is stored`;
      return [...reason("read where it lies, never copied", views), ...reason(why, computed)];
    }
  }
}

/** What is made of the checkpoint's tensors before any step, so that no kernel computes it. */
function packed(specs: readonly KernelSpec[]): Reason[] {
  const made = specs.flatMap(kernelTensors).flatMap(({ node }) => (node.op === "weight" ? [] : [weightOps(node)]));
  const rule = `computed once, when weights are packed: ${[...new Set(made.flat())].join(", ")}`;
  return made.length === 0 ? [] : [{ pass: "pack-weights", rule, times: made.length }];
}

/** Places whose paths differ in their first number alone: `*` stands for it. */
interface Place {
  readonly template: string;
  readonly numbers: readonly number[];
  readonly line: string | null;
}

function collapse(origins: readonly Origin[]): Place[] {
  const groups = new Map<string, { template: string; numbers: Set<number>; line: string | null }>();
  for (const { path, source: line } of new Set(origins)) {
    const [, before = path, number, after = ""] = /^(.*?\b)(\d+)(\b.*)$/.exec(path) ?? [];
    const template = number === undefined ? path : `${before}*${after}`;
    const key = `${template} ${line}`;
    const group = groups.get(key) ?? { template, numbers: new Set(), line };
    if (number !== undefined) group.numbers.add(Number(number));
    groups.set(key, group);
  }
  return [...groups.values()].map((group) => ({ ...group, numbers: [...group.numbers] }));
}

/** `0…5, 7` */
function ranges(numbers: readonly number[]): string {
  const sorted = [...numbers].sort((a, b) => a - b);
  const starts = sorted.filter((n) => !numbers.includes(n - 1));
  const ends = sorted.filter((n) => !numbers.includes(n + 1));
  return starts.map((start, i) => (start === ends[i] ? `${start}` : `${start}…${ends[i]}`)).join(",");
}

/** A block of text a kernel. */
export function printExplanation(kernels: readonly KernelExplanation[]): string {
  const total = kernels.reduce((sum, k) => sum + k.steps.length, 0);
  return kernels.map((kernel) => block(kernel, total)).join("\n\n");
}

function block({ name, source, steps, layers, computes, ops, origins, reasons }: KernelExplanation, total: number): string {
  const fused = Object.entries(ops).map(([op, times]) => (times === 1 ? op : `${op} ×${times}`));
  const rows: readonly (readonly [string, readonly string[]])[] = [
    ["source", [source]],
    ["steps", [`${ranges(steps)} (${steps.length} of ${total})${layers.length > 0 ? `, layers ${ranges(layers)}` : ""}`]],
    ["computes", [computes]],
    ["ops", fused.length > 0 ? [fused.join(", ")] : []],
    ["from", origins.length > 0 ? origins.map(printOrigin) : ["the sampler, which follows every model"]],
    ["because", reasons.map(({ pass, rule, times }) => `${pass}: ${rule}${times === 1 ? "" : ` (×${times})`}`)],
  ];
  return [name, ...rows.flatMap(([label, lines]) => lines.map((line, i) => `  ${(i === 0 ? label : "").padEnd(9)}${line}`))].join(
    "\n",
  );
}

const printOrigin = ({ path, line }: KernelExplanation["origins"][number]): string =>
  `${path || "the top of the model"}${line === null ? "" : ` (${line})`}`;
