/**
 * The order in which a kernel takes its values: the one place that says it, for codegen, the planner and the executor's arguments.
 */
import type { StepArray } from "../../runtime/manifest.ts";
import type { SymbolName } from "../ir/tensor-type.ts";
import type { BufferValue, KernelKind, KernelOf, KernelSpec, StoreKvKernel, TensorValue, Value } from "./spec.ts";

/** What a launch points at: a value, one of the arrays a step carries, or an extent of the step. */
export type KernelArg =
  | { readonly kind: "value"; readonly value: Value }
  | { readonly kind: "array"; readonly array: StepArray }
  | { readonly kind: "symbol"; readonly symbol: SymbolName };

const value = (v: Value): KernelArg => ({ kind: "value", value: v });
const array = (a: StepArray): KernelArg => ({ kind: "array", array: a });

const optional = (v: Value | null | undefined): KernelArg[] => (v ? [value(v)] : []);

/** The buffers that heads are computed from, each once. */
export const headSources = ({ q, k, v }: StoreKvKernel): readonly BufferValue[] => {
  const sources = [q.x, k.x, v.x];
  return sources.filter((x, i) => sources.findIndex((other) => other.name === x.name) === i);
};

const order: { readonly [K in KernelKind]: (spec: KernelOf<K>) => KernelArg[] } = {
  embedding: (s) => [value(s.ids), value(s.table), ...s.operands.map(value), value(s.out)],
  rms_norm: (s) => [value(s.x), ...optional(s.rows), value(s.gain), ...s.operands.map(value), value(s.out)],
  layer_norm: (s) => [value(s.x), ...optional(s.rows), value(s.gain), value(s.bias), ...s.operands.map(value), value(s.out)],
  gather: (s) => [value(s.x), ...optional(s.rows), ...s.operands.map(value), value(s.out)],
  linear: (s) => [
    value(s.x),
    ...optional(s.norm?.gain),
    value(s.w),
    ...kernelScratch(s).map(value),
    ...s.operands.map(value),
    value(s.out),
  ],
  rope_angles: (s) => [value(s.positions), ...optional(s.long?.seqIds), ...optional(s.long?.seqLens), value(s.out)],
  store_kv: (s) => [
    ...(s.projection ? kernelArgs(s.projection.linear).slice(0, -1) : headSources(s).map(value)),
    ...[s.q, s.k].flatMap((chain) => [...optional(chain.norm?.gain), ...optional(chain.rope?.angles)]),
    value(s.kv),
    value(s.positions),
    value(s.seqIds),
    value(s.blockTables),
    ...kernelScratch(s).map(value),
    ...optional(s.projection?.linear.out),
    value(s.out),
  ],
  paged_attention: (s) => [
    value(s.q),
    value(s.kv),
    value(s.positions),
    value(s.seqIds),
    value(s.blockTables),
    ...optional(s.sinks),
    ...optional(s.units?.plan),
    ...kernelScratch(s).map(value),
    value(s.out),
  ],
  elementwise: (s) => [...s.operands.map(value), value(s.out)],
  route: (s) => [...s.inputs.map(value), ...s.outs.map((o) => value(o.value))],
  sort_slots: (s) => [value(s.ids), value(s.out)],
  grouped_linear: (s) => [value(s.x), value(s.w), value(s.plan), ...s.operands.map(value), value(s.out)],
  expert_sum: (s) => [...[s.x, s.w, s.plan, s.weights].map(value), ...optional(s.bias), ...s.operands.map(value), value(s.out)],
  slot_sum: (s) => [value(s.y), value(s.weights), ...s.operands.map(value), value(s.out)],
  attention_units: (s) => [value(s.positions), value(s.seqIds), value(s.units.plan)],
  sample: (s) => [
    value(s.logits),
    array("sample_floats"),
    array("sample_ints"),
    array("sample_tokens"),
    array("sampled_ids"),
    array("sampled_logprobs"),
    array("top_ids"),
    array("top_logprobs"),
  ],
};

/** A kernel's arguments in calling order; what it writes is last (the sampler's outputs are step arrays). */
export function kernelArgs(spec: KernelSpec): KernelArg[] {
  return (order[spec.kind] as (s: KernelSpec) => KernelArg[])(spec);
}

/** The buffers a kernel writes, the last of its values; none for the sampler, whose outputs are step arrays. */
export function kernelOutputs(spec: KernelSpec): readonly BufferValue[] {
  if (spec.kind === "sample") return [];
  if (spec.kind === "attention_units") return [spec.units.plan];
  if (spec.kind === "store_kv" && spec.projection) return [spec.projection.linear.out, spec.out];
  return spec.kind === "route" ? spec.outs.map((o) => o.value) : [spec.out];
}

/** Buffers that kernels of one kind share, whose contents are nobody's result: i32 ones are 0 between kernels, others hold anything. */
export function kernelScratch(spec: KernelSpec): readonly BufferValue[] {
  if (spec.kind === "store_kv") return spec.projection ? [spec.projection.counters] : [];
  const parts = spec.kind === "linear" ? spec.split : spec.kind === "paged_attention" ? spec.units : null;
  return parts ? [parts.counters, parts.partials] : [];
}

/** The arena's buffers that a kernel reads or writes, in calling order. */
export const kernelBuffers = (spec: KernelSpec): BufferValue[] =>
  kernelArgs(spec).flatMap((arg) => (arg.kind === "value" && arg.value.kind === "buffer" ? [arg.value] : []));

/** The tensors of weights.bin that a kernel reads, in calling order. */
export const kernelTensors = (spec: KernelSpec): TensorValue[] =>
  kernelArgs(spec).flatMap((arg) => (arg.kind === "value" && arg.value.kind === "tensor" ? [arg.value] : []));
