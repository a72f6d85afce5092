/**
 * What the kernels' interpreter runs over: buffers, weights, inputs and caches, and how a slot's expression is evaluated.
 */
import { invariant } from "../errors.ts";
import { scalarMeaning } from "../ir/meaning.ts";
import type { InputName } from "../ir/ops.ts";
import { roundBf16, roundF16, roundTo } from "../ir/rounding.ts";
import type { KvState } from "../ir/step.ts";
import { extentOf, type SymbolName } from "../ir/tensor-type.ts";
import type { BinaryFn, BufferValue, Expr, TensorValue } from "./spec.ts";

/** Everything kernels read and write. Buffers come into being when a kernel writes them. */
export interface KernelEnvironment {
  readonly binding: Readonly<Record<SymbolName, number>>;
  readonly buffers: Map<string, Float32Array>;
  readonly tensor: (value: TensorValue) => Float32Array;
  readonly input: (name: InputName) => Int32Array;
  /** One layer's cache; stores write into it. */
  readonly kv: (layer: number) => KvState;
}

/** A buffer's values. */
export function read(value: BufferValue, env: KernelEnvironment): Float32Array {
  const data = env.buffers.get(value.name);
  invariant(data, `buffer ${value.name} is read before it is written`);
  return data;
}

/** Rows of a buffer in this step. */
export const rowCount = (value: BufferValue, env: KernelEnvironment): number => extentOf(value.rows, env.binding);

/** out[row, col] = epilogue(acc(row, col)), rounded to the output's dtype. */
export function writeOutput(
  out: BufferValue,
  operands: readonly (BufferValue | TensorValue)[],
  epilogue: Expr,
  env: KernelEnvironment,
  acc: (row: number, col: number) => readonly number[],
): void {
  const arrays = operands.map((o) => (o.kind === "buffer" ? read(o, env) : env.tensor(o)));
  const { cols } = out;
  const places = operands.map((o): ((row: number, col: number) => number) =>
    o.rows === 1 ? (_, col) => col : o.cols === 1 ? (row) => row : (row, col) => row * cols + col,
  );
  const data = new Float32Array(rowCount(out, env) * cols);
  for (let row = 0, at = 0; at < data.length; row++) {
    for (let col = 0; col < cols; col++, at++) {
      const accs = acc(row, col);
      data[at] = evaluate(epilogue, accs, (i) => arrays[i]![places[i]!(row, col)]!);
    }
  }
  env.buffers.set(out.name, roundTo(out.dtype, data));
}

const binaryMeaning: { readonly [F in BinaryFn]: (a: number, b: number) => number } = {
  add: (a, b) => a + b,
  mul: (a, b) => a * b,
  min: Math.min,
  max: Math.max,
};

/** A scalar expression over accumulators and operands, rounded to f32 at every step. */
export function evaluate(e: Expr, acc: readonly number[], operand: (index: number) => number): number {
  switch (e.kind) {
    case "acc":
      return acc[e.way]!;
    case "operand":
      return operand(e.index);
    case "constant":
      return Math.fround(e.value);
    case "unary": {
      const x = evaluate(e.x, acc, operand);
      if (e.fn === "round_bf16") return roundBf16(x);
      return e.fn === "round_f16" ? roundF16(x) : Math.fround(scalarMeaning[e.fn](x));
    }
    case "binary":
      return Math.fround(binaryMeaning[e.fn](evaluate(e.a, acc, operand), evaluate(e.b, acc, operand)));
  }
}
