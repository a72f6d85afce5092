/**
 * Kernel specs as text: one line a kernel, its slot as a formula, values by name and shape.
 */
import { printShape } from "../ir/tensor-type.ts";
import { kernelArgs, kernelOutputs } from "./operands.ts";
import type { Expr, KernelSpec, Value } from "./spec.ts";

/** `03 linear_bf16_3072x1024__silu_mul(v12, w) -> v15 bf16(T, 3072) = silu(acc0) * acc1` */
export function printKernels(kernels: readonly KernelSpec[]): string {
  return `${kernels.map((spec, i) => `${String(i).padStart(3, "0")} ${printKernel(spec)}`).join("\n")}\n`;
}

/** `linear_bf16_3072x1024__silu_mul(v12, w) -> v15 bf16(T, 3072) = silu(acc0) * acc1` */
export function printKernel(spec: KernelSpec): string {
  const args = kernelArgs(spec).map((arg) =>
    arg.kind === "value" ? printValue(arg.value) : arg.kind === "array" ? arg.array : arg.symbol,
  );
  const outs = kernelOutputs(spec);
  const inputs = args.slice(0, args.length - outs.length);
  const printed = outs.map((o) => `${o.name} ${o.dtype}${printShape([o.rows, o.cols])}`);
  const out = outs.length > 0 ? ` -> ${printed.join(", ")}` : "";
  const anchor = spec.kind === "store_kv" && spec.projection ? spec.projection.linear : spec;
  const operands = "operands" in anchor ? anchor.operands.map(printValue) : [];
  const slot = "epilogue" in anchor && anchor.epilogue.kind !== "acc" ? ` = ${printExpr(anchor.epilogue, operands)}` : "";
  return `${spec.name}(${inputs.join(", ")})${out}${slot}`;
}

function printValue(value: Value): string {
  return value.kind === "kv" ? `kv.${value.layer}` : value.name;
}

/** A slot's expression as a formula over `acc0`, `acc1` and the operands' names. */
function printExpr(e: Expr, operands: readonly string[]): string {
  switch (e.kind) {
    case "acc":
      return `acc${e.way}`;
    case "operand":
      return operands[e.index] ?? `operand${e.index}`;
    case "constant":
      return String(e.value);
    case "unary":
      return `${e.fn}(${printExpr(e.x, operands)})`;
    case "binary": {
      const [a, b] = [e.a, e.b].map((x) => printExpr(x, operands));
      return e.fn === "min" || e.fn === "max" ? `${e.fn}(${a}, ${b})` : `(${a} ${e.fn === "add" ? "+" : "*"} ${b})`;
    }
  }
}
