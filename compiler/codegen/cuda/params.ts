/**
 * The parameters of CUDA kernels: each kernel's arguments by name, in the order of `kernelArgs`, and after them what a kernel of many
 * blocks needs besides: extents of the step, which it reads from device memory because a captured graph serves any batch.
 */
import { invariant } from "../../errors.ts";
import type { InputName } from "../../ir/ops.ts";
import type { Dim, SymbolName } from "../../ir/tensor-type.ts";
import { headSources, type KernelArg, kernelArgs, kernelOutputs, kernelScratch } from "../../kernels/operands.ts";
import type { BufferValue, KernelKind, KernelOf, KernelSpec, TensorValue, Value } from "../../kernels/spec.ts";
import { cudaType } from "./dialect.ts";

/** One parameter of a kernel. */
export interface Parameter {
  readonly name: string;
  readonly type: string;
  /** Shape and dtype, for people. */
  readonly note: string;
  readonly arg: KernelArg;
}

/** What a kernel that makes the rows of heads itself calls them. */
export const PROJECTED = "qkv";

const operands = (s: { readonly operands: readonly unknown[] }): string[] => s.operands.map((_, i) => `operand${i}`);
const when = (isThere: unknown, ...names: string[]): string[] => (isThere ? names : []);

/** What the arguments of `kernelArgs` are called. */
const names: { readonly [K in KernelKind]: (spec: KernelOf<K>) => readonly string[] } = {
  embedding: (s) => ["ids", "table", ...operands(s), "out"],
  rms_norm: (s) => ["x", ...when(s.rows, "source_rows"), "gain", ...operands(s), "out"],
  layer_norm: (s) => ["x", ...when(s.rows, "source_rows"), "gain", "bias", ...operands(s), "out"],
  gather: (s) => ["x", ...when(s.rows, "source_rows"), ...operands(s), "out"],
  linear: (s) => ["x", ...when(s.norm, "gain"), "w", ...when(s.split, "counters", "partials"), ...operands(s), "out"],
  rope_angles: (s) => ["positions", ...when(s.long, "seq_ids", "seq_lens"), "out"],
  store_kv: (s) => [
    ...(s.projection ? names.linear(s.projection.linear).slice(0, -1) : sourceNames(s)),
    ...[s.q, s.k].flatMap((chain, i) => [...when(chain.norm, `${"qk"[i]}_gain`), ...when(chain.rope, `${"qk"[i]}_angles`)]),
    ...["cache", "positions", "seq_ids", "block_tables"],
    ...when(s.projection, "counters", PROJECTED),
    "out",
  ],
  paged_attention: (s) => [
    ...["q", "cache", "positions", "seq_ids", "block_tables"],
    ...when(s.sinks, "sinks"),
    ...when(s.units, "plan", "counters", "partials"),
    "out",
  ],
  elementwise: (s) => [...operands(s), "out"],
  route: (s) => [...s.inputs.map((_, i) => `input${i}`), ...s.outs.map((_, i) => `out${i}`)],
  sort_slots: () => ["ids", "plan"],
  grouped_linear: (s) => ["x", "w", "plan", ...operands(s), "out"],
  expert_sum: () => [],
  slot_sum: (s) => ["y", "weights", ...operands(s), "out"],
  attention_units: () => ["positions", "seq_ids", "plan"],
  sample: () => [
    "logits",
    "sample_floats",
    "sample_ints",
    "sample_tokens",
    "sampled_ids",
    "sampled_logprobs",
    "top_ids",
    "top_logprobs",
  ],
};

/** Rows of a fused projection are `x`; of three projections `x0`, `x1`, `x2`; of one in the same kernel `qkv`. */
export function sourceNames(s: KernelOf<"store_kv">): string[] {
  if (s.projection) return [PROJECTED];
  const sources = headSources(s);
  return sources.length === 1 ? ["x"] : sources.map((_, i) => `x${i}`);
}

/** What a kernel of blocks takes beside the arguments of every target. */
const extras: { readonly [K in KernelKind]?: (spec: KernelOf<K>) => readonly Parameter[] } = {
  embedding: (s) => [
    { name: "sampled_ids", type: "const int32_t*", note: "of the step before", arg: { kind: "array", array: "sampled_ids" } },
    ...extent(s.out.rows),
  ],
  rms_norm: (s) => extent(s.out.rows),
  layer_norm: (s) => extent(s.out.rows),
  gather: (s) => extent(s.out.rows),
  elementwise: (s) => extent(s.out.rows),
  linear: (s) => extent(s.out.rows),
  rope_angles: (s) => extent(s.out.rows),
  store_kv: (s) => [...extent(s.out.rows), blocksPerTable],
  paged_attention: (s) => (s.units ? [blocksPerTable] : [...extent(s.q.rows), blocksPerTable]),
  attention_units: () => [symbolParameter("num_rows", "T", "rows of this step")],
  route: (s) => extent(s.outs[0]!.value.rows),
  sort_slots: (s) => extent(s.ids.rows),
  slot_sum: (s) => extent(s.out.rows),
  sample: (s) => extent(s.logits.rows),
};

const symbolParameter = (name: string, symbol: SymbolName, note: string): Parameter => ({
  name,
  type: "const int32_t*",
  note,
  arg: { kind: "symbol", symbol },
});

const blocksPerTable = symbolParameter("blocks_per_table", "P", "entries of a block table");

const extent = (rows: Dim): readonly Parameter[] =>
  typeof rows === "number" ? [] : [symbolParameter("num_rows", rows.sym, "rows of this step")];

/** A kernel's parameters in calling order. */
export function cudaParameters(spec: KernelSpec): readonly Parameter[] {
  const args = kernelArgs(spec);
  const called = (names[spec.kind] as (s: KernelSpec) => readonly string[])(spec);
  invariant(called.length === args.length, `${spec.name} takes ${args.length} arguments, of which ${called.length} have names`);
  const outputs = kernelOutputs(spec);
  const more = (extras[spec.kind] as ((s: KernelSpec) => readonly Parameter[]) | undefined)?.(spec) ?? [];
  return [
    ...args.map((arg, i): Parameter => {
      const name = called[i] as string;
      if (arg.kind !== "value") return { name, type: arrayType(name), note: arrayNote(name), arg };
      const isWritten = outputs.some((o) => o === arg.value) || isScratch(spec, arg.value);
      return { name, type: `${isWritten ? "" : "const "}${cudaType(arg.value.dtype)}*`, note: noteOf(arg.value), arg };
    }),
    ...more,
  ];
}

/** What is written though it is nobody's result: the cache, sums of parts, logits under penalties. */
function isScratch(spec: KernelSpec, value: Value): boolean {
  if (spec.kind === "store_kv" && value.kind === "kv") return true;
  return (spec.kind === "sample" && value === spec.logits) || kernelScratch(spec).some((scratch) => scratch === value);
}

function noteOf(value: Value): string {
  switch (value.kind) {
    case "buffer":
    case "tensor":
      return shapeNote(value);
    case "input":
      return inputShapes[value.name];
    case "kv":
      return `[block][kv head][K | V][token][${value.headDim}]`;
  }
}

const inputShapes: { readonly [K in InputName]: string } = {
  token_ids: "(T)",
  positions: "(T)",
  seq_ids: "(T)",
  seq_lens: "(B)",
  block_tables: "(B, P)",
  sample_rows: "(S)",
};

/** `(rows, 1024) bf16`. Rows of buffers that follow from the largest step, and not from this kernel, have no number. */
export function shapeNote({ kind, rows, cols, dtype }: BufferValue | TensorValue): string {
  if (rows === 1) return `(${kind === "buffer" ? "n" : cols}) ${dtype}`;
  const count = kind === "tensor" ? `${rows}` : typeof rows === "number" || rows.times === 1 ? "rows" : `${rows.times} · rows`;
  return `(${count}, ${cols}) ${dtype}`;
}

const outputArrays = new Set(["sampled_ids", "sampled_logprobs", "top_ids", "top_logprobs"]);
const floatArrays = new Set(["sample_floats", "sampled_logprobs", "top_logprobs"]);

const arrayType = (name: string): string =>
  `${outputArrays.has(name) ? "" : "const "}${floatArrays.has(name) ? "float" : "int32_t"}*`;
const arrayNote = (name: string): string =>
  ({ sample_floats: "(S, 8)", sample_ints: "(S, 12)", sample_tokens: "(n, 2)", top_ids: "(S, 20)", top_logprobs: "(S, 20)" })[
    name
  ] ?? "(S)";
