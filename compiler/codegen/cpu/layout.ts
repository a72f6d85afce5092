/**
 * How values lie in memory on a target: activations in the arena, tensors in weights.bin, the KV cache in its blocks.
 */
import { dtypeBytes, maxOf } from "../../ir/tensor-type.ts";
import type { BufferValue, KernelSpec, TensorValue } from "../../kernels/spec.ts";
import { paddedK as panelK } from "../../weights/panel.ts";
import type { WeightDType } from "../../weights/source.ts";
import { cpuDialects, type Isa } from "./dialect.ts";

export type BufferLayout = "rows" | "tile16x32";
export type TensorLayout = "rows" | "panel16";

/** Names of the tensors that linears read. */
export const panelTensors = (specs: readonly KernelSpec[]): ReadonlySet<string> =>
  new Set(specs.flatMap((s) => ("w" in s ? [s.w.name] : [])));

/** How a buffer lies in the arena: bf16 activations are tiles where tiles multiply them. */
export const bufferLayout = (isa: Isa, buffer: BufferValue): BufferLayout =>
  cpuDialects[isa].bf16 === "tiles" && buffer.dtype === "bf16" ? "tile16x32" : "rows";

/** Bytes of a buffer at its largest extent, padding of its layout included. */
export function bufferBytes(isa: Isa, buffer: BufferValue): number {
  const rows = maxOf(buffer.rows);
  if (bufferLayout(isa, buffer) === "rows") return rows * buffer.cols * dtypeBytes[buffer.dtype];
  return roundUp(rows, 16) * roundUp(buffer.cols, 32) * dtypeBytes[buffer.dtype];
}

/** How a tensor lies in weights.bin. */
export const tensorLayout = (tensor: TensorValue, panels: ReadonlySet<string>): TensorLayout =>
  panels.has(tensor.name) ? "panel16" : "rows";

/** K of a weight panel as it is packed: bf16 panels are whole tiles of 32. */
export const paddedK = (w: TensorValue): number => panelK(w.dtype as WeightDType, w.cols);

const roundUp = (n: number, to: number): number => Math.ceil(n / to) * to;
