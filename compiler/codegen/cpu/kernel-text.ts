/**
 * Pieces of a kernel's text that every skeleton's context is made of.
 */
import { invariant } from "../../errors.ts";
import type { Dim, DType } from "../../ir/tensor-type.ts";
import type { Expr } from "../../kernels/spec.ts";
import { formulaText } from "../expression.ts";
import { renderSlots, type SlotOptions } from "./slots.ts";

/** The slots of a kernel: their text, and their formula for people. */
export function slots(options: SlotOptions & { epilogue: Expr }): { slots: string; formula: string } {
  return { slots: renderSlots(options), formula: formulaText(options.epilogue, options.ways) };
}

/** A constant that the schedule chose. */
export function field(blocking: Readonly<Record<string, number>>, name: string): number {
  const value = blocking[name];
  invariant(value !== undefined, `the schedule has no ${name}`);
  return value;
}

export const cppType = (dtype: DType): string => (dtype === "f32" ? "float" : dtype);
export const extentText = (rows: Dim): string => (typeof rows === "number" ? `${rows}` : rows.sym);
const symbolIndex = { T: "kTokens", B: "kSequences", S: "kSampledRows", P: "kBlocksPerTable" } as const;
export const rowCountText = (rows: Dim): string =>
  typeof rows === "number" ? `${rows}` : `launch->dims[${symbolIndex[rows.sym]}]`;
