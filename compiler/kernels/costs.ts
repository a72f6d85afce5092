/**
 * FLOPs and bytes of one launch, as expressions in the step's symbols: what rooflines and `explain` stand on.
 *
 * Counted are weights once, activations once in and once out. What attention reads of the cache depends on the sequences'
 * lengths, which are not symbols; it is accounted as `kvBytesPerToken` of the manifest instead.
 */
import type { Rpn } from "../../runtime/manifest.ts";
import { type Dim, dtypeBytes } from "../ir/tensor-type.ts";
import type { BufferValue, Expr, KernelKind, KernelOf, KernelSpec, TensorValue } from "./spec.ts";

export interface KernelCosts {
  readonly flops: Rpn;
  readonly bytes: Rpn;
}

/** Costs of one launch of `spec`. */
export function kernelCosts(spec: KernelSpec): KernelCosts {
  return (costs[spec.kind] as (s: KernelSpec) => KernelCosts)(spec);
}

const costs: { readonly [K in KernelKind]: (spec: KernelOf<K>) => KernelCosts } = {
  embedding: (s) => ({
    flops: perRow(s.out.rows, s.out.cols * exprFlops(s.epilogue)),
    bytes: perRow(s.out.rows, 4 + s.out.cols * dtypeBytes[s.table.dtype] + rowBytes(s.out)),
  }),
  rms_norm: (s) => ({
    flops: perRow(s.out.rows, s.out.cols * (4 + exprFlops(s.epilogue))),
    bytes: perRow(s.out.rows, rowBytes(s.x) + rowBytes(s.out), tensorBytes(s.gain)),
  }),
  linear: (s) => ({
    flops: perRow(s.out.rows, 2 * s.k * s.n * s.ways + s.n * exprFlops(s.epilogue)),
    bytes: perRow(
      s.out.rows,
      rowBytes(s.x) + rowBytes(s.out) + operandBytes(s.operands),
      tensorBytes(s.w) + constantBytes(s.operands),
    ),
  }),
  rope_angles: (s) => ({ flops: perRow(s.out.rows, s.out.cols), bytes: perRow(s.out.rows, 4 + rowBytes(s.out)) }),
  store_kv: (s) => ({
    flops: perRow(s.out.rows, 6 * s.x.cols),
    bytes: perRow(s.out.rows, rowBytes(s.x) + rowBytes(s.out) + 2 * s.kv.numKvHeads * s.headDim * dtypeBytes[s.kv.dtype]),
  }),
  paged_attention: (s) => ({ flops: perRow(s.out.rows, 0), bytes: perRow(s.out.rows, rowBytes(s.q) + rowBytes(s.out)) }),
  elementwise: (s) => ({
    flops: perRow(s.out.rows, s.out.cols * exprFlops(s.epilogue)),
    bytes: perRow(s.out.rows, rowBytes(s.out) + operandBytes(s.operands), constantBytes(s.operands)),
  }),
  sample: (s) => ({ flops: perRow(s.logits.rows, 4 * s.vocabSize), bytes: perRow(s.logits.rows, 4 * s.vocabSize) }),
};

/** `rows · each + once` */
function perRow(rows: Dim, each: number, once = 0): Rpn {
  const extent = typeof rows === "number" ? rows : rows.sym;
  return once === 0 ? [extent, each, "mul"] : [extent, each, "mul", once, "add"];
}

const rowBytes = (b: BufferValue): number => b.cols * dtypeBytes[b.dtype];
const tensorBytes = (t: TensorValue): number => t.rows * t.cols * dtypeBytes[t.dtype];
const operandBytes = (operands: readonly (BufferValue | TensorValue)[]): number =>
  operands.reduce((sum, o) => sum + (o.kind === "buffer" ? rowBytes(o) : 0), 0);
const constantBytes = (operands: readonly (BufferValue | TensorValue)[]): number =>
  operands.reduce((sum, o) => sum + (o.kind === "tensor" ? tensorBytes(o) : 0), 0);

/** Operations of a slot per element; a silu counts as one exponential, one addition, one division. */
function exprFlops(e: Expr): number {
  if (e.kind === "unary") return exprFlops(e.x) + (e.fn === "silu" ? 3 : 0);
  if (e.kind === "binary") return exprFlops(e.a) + exprFlops(e.b) + 1;
  return 0;
}
