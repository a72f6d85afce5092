/**
 * Slots: the values around a kernel's accumulators, rendered as a struct of pointers and small inline functions that the
 * skeleton calls by name (`write`, and `read_x` where it reads an activation buffer).
 */

import type { BufferValue, Expr, TensorValue } from "../../kernels/spec.ts";
import { formulaText, laneText } from "../expression.ts";
import type { Isa } from "./dialect.ts";
import { type BufferLayout, bufferLayout } from "./layout.ts";

/** A pointer in the slots: a C++ name, the value behind it, and its place among the arguments. */
interface Pointer {
  readonly name: string;
  readonly value: BufferValue | TensorValue;
  readonly arg: number;
}

export interface SlotOptions {
  readonly isa: Isa;
  /** An activation buffer the anchor reads, at argument 0; `col` is where its columns begin, 0 without. */
  readonly x: BufferValue | null;
  readonly col?: number;
  readonly epilogue: Expr;
  readonly operands: readonly (BufferValue | TensorValue)[];
  /** Argument of operand 0; the others follow. */
  readonly firstOperandArg: number;
  readonly out: BufferValue;
  readonly outArg: number;
  /** Number of accumulators: 0 for elementwise work, 2 for a gated linear. */
  readonly ways: number;
}

/** The C++ text of the slots. */
export function renderSlots(o: SlotOptions): string {
  const operands = o.operands.map((value, i): Pointer => ({ name: `operand${i}`, value, arg: o.firstOperandArg + i }));
  const out: Pointer = { name: "out", value: o.out, arg: o.outArg };
  const pointers = [...(o.x ? [{ name: "x", value: o.x, arg: 0 }] : []), ...operands, out];
  return [structText(pointers, o.isa), ...(o.x ? [readerText(o.x, o)] : []), writerText(o, operands)].join("\n");
}

/** Whether operands are vectors of experts, of which the writer must be told the row's own. */
export const readsExperts = (operands: SlotOptions["operands"]): boolean =>
  operands.some((o) => o.kind === "tensor" && o.rows > 1);

function structText(pointers: readonly Pointer[], isa: Isa): string {
  const qualified = (p: Pointer) => `${p.name === "out" ? "" : "const "}${cppType(p.value)}*`;
  const fields = pointers.map((p) => `  ${qualified(p)} ${p.name};  // ${describe(p.value, isa)}`);
  const init = pointers.map((p) => `        ${p.name}((${qualified(p)})launch->args[${p.arg}])`);
  return [
    "// What is read and written around the sums.",
    "struct Slots {",
    ...fields,
    "  explicit Slots(const IngotLaunch* launch)",
    `      : ${init.join(",\n").trim()} {}`,
    "};",
    "",
  ].join("\n");
}

function readerText(x: BufferValue, { isa, col = 0, out }: SlotOptions): string {
  const signature = "INGOT_INLINE f32x16 read_x(const Slots& slots, int64_t row, int64_t col) {";
  const place = `${bufferLayout(isa, x)}_at<${x.cols}>(row, ${col} + col`;
  if (col === 0 && x.cols === out.cols) {
    const lines = [
      "// Sixteen columns of x; zero beyond the last.",
      signature,
      `  return ${loadText("slots.x", x, isa)};`,
      "}",
      "",
    ];
    return lines.join("\n");
  }
  const last = `${out.cols} - col`;
  if (bufferLayout(isa, x) === "rows") {
    const lines = [`// Columns of x from ${col} on, ${out.cols} in all.`, signature];
    return [...lines, `  return load_first(slots.x + ${place}), ${last});`, "}", ""].join("\n");
  }
  return [
    `// Columns of x from ${col} on, ${out.cols} in all: one by one, because they do not begin where a tile does.`,
    signature,
    "  float lanes[16] = {};",
    `  for (int64_t i = 0; i < min_of(16, ${last}); ++i) lanes[i] = widen(slots.x[${place} + i)]);`,
    "  return load(lanes);",
    "}",
    "",
  ].join("\n");
}

function writerText(o: SlotOptions, operands: readonly Pointer[]): string {
  const accs = o.ways === 1 ? ["acc"] : Array.from({ length: o.ways }, (_, way) => `acc${way}`);
  const parameters = [
    "const Slots& slots",
    ...(readsExperts(o.operands) ? ["int64_t expert"] : []),
    "int64_t row",
    "int64_t col",
    ...accs.map((a) => `f32x16 ${a}`),
  ];
  const loads = operands.map((p) => {
    const isColumn = p.value.kind === "buffer" && p.value.cols < o.out.cols;
    return `  const f32x16 ${p.name} = ${(isColumn ? columnText : loadText)(`slots.${p.name}`, p.value, o.isa)};`;
  });
  return [
    `// out[row, col … col + 15] = ${formulaText(o.epilogue, o.ways)}`,
    `INGOT_INLINE void write(${parameters.join(", ")}) {`,
    ...loads,
    ...storeLines(o.out, laneText(o.epilogue, o.ways), bufferLayout(o.isa, o.out)),
    "}",
    "",
  ].join("\n");
}

/** Stores to the output; a tile layout is zeroed beyond the last column by whoever writes that column. */
function storeLines(out: BufferValue, value: string, layout: BufferLayout): string[] {
  const at = address("slots.out", out, layout);
  if (layout === "rows")
    return [out.cols % 16 === 0 ? `  store(${at}, ${value});` : `  store_first(${at}, ${value}, ${out.cols} - col);`];
  const rest = out.cols % 32;
  const lines =
    out.cols % 16 === 0
      ? [`  store(${at}, ${value});`]
      : [
          `  const f32x16 lane = lane_index() + splat(float(col));`,
          `  store(${at}, select_less(lane, splat(${out.cols}.0f), ${value}, zero()));`,
        ];
  if (rest >= 1 && rest <= 16) {
    const last = out.cols - (((out.cols - 1) % 16) + 1);
    lines.push(`  if (col == ${last}) store(${at} + 16, zero());  // the tile's columns beyond ${out.cols}`);
  }
  return lines;
}

function loadText(pointer: string, value: BufferValue | TensorValue, isa: Isa): string {
  const layout = value.kind === "buffer" ? bufferLayout(isa, value) : "rows";
  const ofExpert = value.kind === "tensor" && value.rows > 1 ? ` + expert * ${value.cols}` : "";
  const at = value.rows === 1 || ofExpert ? `${pointer}${ofExpert} + col` : address(pointer, value, layout);
  return value.cols % 16 === 0 || layout !== "rows" ? `load(${at})` : `load_first(${at}, ${value.cols} - col)`;
}

/** A value of one column: the row's, in every lane. */
function columnText(pointer: string, value: BufferValue | TensorValue, isa: Isa): string {
  const layout = value.kind === "buffer" ? bufferLayout(isa, value) : "rows";
  return layout === "rows" ? `splat(widen(${pointer}[row]))` : `splat(widen(${pointer}[${layout}_at<1>(row, 0)]))`;
}

const address = (pointer: string, value: BufferValue | TensorValue, layout: BufferLayout): string =>
  `${pointer} + ${layout}_at<${value.cols}>(row, col)`;

const cppType = (value: BufferValue | TensorValue): string => (value.dtype === "f32" ? "float" : value.dtype);

function describe(value: BufferValue | TensorValue, isa: Isa): string {
  const rows = typeof value.rows === "number" ? value.rows : value.rows.sym;
  const shape = rows === 1 ? `(${value.cols})` : `(${rows}, ${value.cols})`;
  const layout = value.kind === "buffer" ? bufferLayout(isa, value) : "rows";
  return `${shape} ${value.dtype}${layout === "rows" ? "" : ` as ${layout}`}`;
}
