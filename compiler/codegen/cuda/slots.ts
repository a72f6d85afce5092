/**
 * Slots of CUDA kernels: the values around a kernel's sums, as a struct of pointers and one small device function that the skeleton calls
 * for each element. Neighbouring lanes call it for neighbouring columns.
 */
import type { BufferValue, Expr, TensorValue } from "../../kernels/spec.ts";
import { floatLiteral, formulaText, type ScalarDialect, scalarText } from "../expression.ts";
import { cudaType } from "./dialect.ts";
import { shapeNote } from "./params.ts";

export interface CudaSlotOptions {
  readonly epilogue: Expr;
  readonly operands: readonly (BufferValue | TensorValue)[];
  readonly out: BufferValue;
  /** Number of accumulators: 0 for elementwise work, 2 for a gated linear. */
  readonly ways: number;
}

/** f32 arithmetic as C++ spells it. */
export const cudaScalars: ScalarDialect = { constant: floatLiteral, lesser: "minimum", greater: "maximum" };

/** The slots' text, the formula for people, and the value that a kernel makes of its parameters, of which `out` is written. */
export function cudaSlots(
  o: CudaSlotOptions,
  out = "out",
): { readonly slots: string; readonly formula: string; readonly makeSlots: string } {
  const names = [...o.operands.map((_, i) => `operand${i}`), out];
  return {
    slots: `${structText(o)}\n${writerText(o)}`,
    formula: formulaText(o.epilogue, o.ways),
    makeSlots: `const Slots slots{${names.join(", ")}};`,
  };
}

/** Whether operands are vectors of experts, of which the writer must be told the row's own. */
const readsExperts = (operands: CudaSlotOptions["operands"]): boolean =>
  operands.some((o) => o.kind === "tensor" && o.rows !== 1);

/** What a call of the writer begins with, for kernels whose rows are experts'. */
export const expertArgument = (o: Pick<CudaSlotOptions, "operands">): string => (readsExperts(o.operands) ? "expert, " : "");

function structText({ operands, out }: CudaSlotOptions): string {
  const field = (name: string, value: BufferValue | TensorValue) =>
    `  ${name === "out" ? "" : "const "}${cudaType(value.dtype)}* ${name};  // ${shapeNote(value)}`;
  return [
    "// What is read and written around the sums.",
    "struct Slots {",
    ...operands.map((value, i) => field(`operand${i}`, value)),
    field("out", out),
    "};",
    "",
  ].join("\n");
}

function writerText({ epilogue, operands, out, ways }: CudaSlotOptions): string {
  const accs = ways === 1 ? ["acc"] : Array.from({ length: ways }, (_, way) => `acc${way}`);
  const parameters = [
    "const Slots& slots",
    ...(readsExperts(operands) ? ["int expert"] : []),
    "int row",
    "int col",
    ...accs.map((a) => `float ${a}`),
  ];
  const place = (value: BufferValue | TensorValue): string => {
    if (value.kind === "tensor") return value.rows === 1 ? "col" : `int64_t(expert) * ${value.cols} + col`;
    if (value.cols === 1 && out.cols !== 1) return "row";
    return `int64_t(row) * ${value.cols} + col`;
  };
  const result = scalarText(epilogue, ways, cudaScalars);
  return [
    `// out[row, col] = ${formulaText(epilogue, ways)}`,
    `INGOT_DEVICE void write(${parameters.join(", ")}) {`,
    ...operands.map((value, i) => `  const float operand${i} = widen(slots.operand${i}[${place(value)}]);`),
    `  slots.out[${place(out)}] = ${out.dtype === "f32" ? result : `narrow(${result}, Type<${cudaType(out.dtype)}>())`};`,
    "}",
    "",
  ].join("\n");
}
