/**
 * What must hold of any list of kernel specs, checked after they are formed: values written before they are read, widths that fit,
 * slots that name what is there. A broken one is a mistake of `form.ts` and names the kernel.
 */
import { invariant } from "../errors.ts";
import { sameDim } from "../ir/tensor-type.ts";
import { planColumns } from "./expert-plan.ts";
import { kernelArgs, kernelOutputs, kernelScratch } from "./operands.ts";
import type {
  BufferValue,
  ExpertSumKernel,
  Expr,
  GroupedLinearKernel,
  KernelKind,
  KernelOf,
  KernelSpec,
  TensorValue,
} from "./spec.ts";

/** Equal widths, by what they are called: all numbers of a list must be one. */
type Widths = { readonly [what: string]: readonly number[] };

/** Throws `InternalError` naming the first kernel that is not well formed, or a value of `results` that no kernel writes. */
export function verifyKernels(kernels: readonly KernelSpec[], results: readonly BufferValue[]): void {
  const written = new Map<string, BufferValue>();
  for (const spec of kernels) {
    const fail = (why: string): never => invariant(false, `kernel ${spec.name}: ${why}`) as never;
    const outs = kernelOutputs(spec);
    const scratch = kernelScratch(spec);
    const reads = kernelArgs(spec).flatMap((a) =>
      a.kind === "value" && a.value.kind === "buffer" && ![...outs, ...scratch].includes(a.value) ? [a.value] : [],
    );
    for (const value of reads) {
      const source = written.get(value.name) ?? fail(`${value.name} is read before it is written`);
      if (source.cols !== value.cols || source.dtype !== value.dtype || !sameDim(source.rows, value.rows))
        fail(`${value.name} is read in another shape or dtype than it is written in`);
      const free = rowsMayDiffer(spec, value);
      for (const out of outs) if (!free && !sameDim(value.rows, out.rows)) fail(`${value.name} has other rows than ${out.name}`);
    }
    for (const [what, numbers] of Object.entries((widths[spec.kind] as (s: KernelSpec) => Widths)(spec))) {
      if (new Set(numbers).size > 1) fail(`${what} are ${numbers.join(" and ")}`);
    }
    if ("epilogue" in spec) verifySlot(spec, "operands" in spec ? spec.operands : [], fail);
    for (const out of outs) {
      if (written.has(out.name)) fail(`${out.name} is written twice`);
      written.set(out.name, out);
    }
  }
  for (const { name } of results) invariant(written.has(name), `${name} is wanted as a result, but no kernel writes it`);
}

/** Whether a kernel reads `value` by rows other than those it writes: gathered ones, or sorted ones. */
function rowsMayDiffer(spec: KernelSpec, value: BufferValue): boolean {
  if ("rows" in spec) return spec.rows !== null && value === spec.x;
  if (spec.kind === "expert_sum") return value === spec.x || value === spec.plan;
  if (spec.kind === "paged_attention") return value !== spec.q;
  return spec.kind === "sort_slots" || spec.kind === "grouped_linear" || (spec.kind === "slot_sum" && value === spec.y);
}

const widths: { readonly [K in KernelKind]: (spec: KernelOf<K>) => Widths } = {
  embedding: (s) => ({ columns: [s.table.cols, s.out.cols] }),
  rms_norm: (s) => ({ columns: [s.x.cols, s.gain.cols, s.out.cols], "rows of the gain": [s.gain.rows, 1] }),
  layer_norm: (s) => ({
    columns: [s.x.cols, s.gain.cols, s.bias.cols, s.out.cols],
    "rows of the gain and the bias": [s.gain.rows, s.bias.rows, 1],
  }),
  gather: (s) => ({ "last column read and columns of x": [Math.max(s.x.cols, s.col + s.out.cols), s.x.cols] }),
  linear: (s) => ({
    k: [s.k, s.x.cols, s.w.cols, s.norm?.gain.cols ?? s.k],
    n: [s.n, s.out.cols],
    "rows of w": [s.n * s.ways, s.w.rows],
  }),
  rope_angles: (s) => ({
    columns: [2 * s.invFreq.length, s.out.cols],
    "frequencies of short and long sequences": [s.invFreq.length, (s.long ?? s).invFreq.length],
  }),
  store_kv: (s) => ({
    ...(s.projection ? widths.linear(s.projection.linear) : {}),
    "columns of q": [s.q.numHeads * s.headDim, s.out.cols],
    "heads of k, v and the cache": [s.k.numHeads, s.v.numHeads, s.kv.numKvHeads],
    "sizes of a head": [s.headDim, s.kv.headDim],
    "columns read beyond a row": [0, ...[s.q, s.k, s.v].map((c) => Math.max(0, c.col + c.numHeads * s.headDim - c.x.cols))],
  }),
  paged_attention: (s) => ({
    columns: [s.q.cols, s.numHeads * s.headDim, s.out.cols],
    "sizes of a head": [s.headDim, s.kv.headDim],
    "heads left over in a group": [s.numHeads % s.kv.numKvHeads, 0],
    "sinks and heads": [s.sinks?.cols ?? s.numHeads, s.numHeads],
  }),
  elementwise: () => ({}),
  route: (s) => {
    const sizes = s.outs.map((o) => [`columns of ${o.value.name}`, [s.steps[o.step]?.size ?? 0, o.value.cols]] as const);
    return Object.fromEntries(sizes);
  },
  sort_slots: (s) => ({ "columns of the plan": [planColumns(s.ids, s.numExperts), s.out.cols] }),
  grouped_linear: (s) => ({
    ...expertWidths(s),
    n: [s.n, s.out.cols],
    "rows of w": [s.numExperts * s.n * s.ways, s.w.rows],
    "rows of operands": [s.numExperts, ...s.operands.map((o) => o.rows)],
  }),
  expert_sum: (s) => ({
    ...expertWidths(s),
    n: [s.n, s.out.cols, s.bias?.cols ?? s.n],
    "rows of w": [s.numExperts * s.n, s.w.rows],
    "experts of a token": [s.perToken, s.weights.cols],
  }),
  slot_sum: (s) => ({ columns: [s.y.cols, s.out.cols] }),
  attention_units: () => ({}),
  sample: (s) => ({ "columns of the logits and vocabulary": [s.logits.cols, s.vocabSize] }),
};

const expertWidths = (s: GroupedLinearKernel | ExpertSumKernel): Widths => ({ k: [s.k, s.x.cols, s.w.cols] });

/** How many accumulators an anchor hands to its slot. */
const waysOf = (spec: KernelSpec): number => (spec.kind === "elementwise" ? 0 : "ways" in spec ? spec.ways : 1);

function verifySlot(
  spec: Extract<KernelSpec, { epilogue: Expr }>,
  operands: readonly (BufferValue | TensorValue)[],
  fail: (why: string) => never,
): void {
  for (const operand of operands) {
    if (operand.cols !== spec.out.cols && !(operand.kind === "buffer" && operand.cols === 1))
      fail(`operand ${operand.name} has ${operand.cols} columns, the output ${spec.out.cols}`);
    if (operand.kind === "tensor" && operand.rows !== 1 && spec.kind !== "grouped_linear")
      fail(`operand ${operand.name} is a matrix of weights; expected one row`);
  }
  const visit = (e: Expr): void => {
    if (e.kind === "acc" && e.way >= waysOf(spec)) fail(`its slot reads accumulator ${e.way} of ${waysOf(spec)}`);
    if (e.kind === "operand" && e.index >= operands.length) fail(`its slot reads operand ${e.index} of ${operands.length}`);
    if (e.kind === "unary") visit(e.x);
    if (e.kind === "binary") [e.a, e.b].forEach(visit);
  };
  visit(spec.epilogue);
}
