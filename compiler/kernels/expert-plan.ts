/**
 * The plan of an expert layer: how its numbers lie in one i32 row, and the room that sorted rows take.
 *
 *   [0] active experts A   [1 + 3a …] expert, first row, rows of the a-th   [1 + 3E + row] slot of a sorted row
 */
import { type Dim, maxOf } from "../ir/tensor-type.ts";

/** Every expert's rows start at a multiple of this many, so that they are whole tiles wherever rows lie in tiles. */
export const ROW_ALIGNMENT = 16;

/** Rows that `tokens` · k sorted rows take at most, with the gaps between experts. */
export function sortedRows(tokens: Dim, perToken: number, numExperts: number): number {
  const slots = maxOf(tokens) * perToken;
  const gaps = Math.min(numExperts, slots) * (ROW_ALIGNMENT - 1);
  return Math.ceil((slots + gaps) / ROW_ALIGNMENT) * ROW_ALIGNMENT;
}

/** Numbers of a plan for ids (T, k). */
export const planColumns = (ids: { readonly rows: Dim; readonly cols: number }, numExperts: number): number =>
  1 + 3 * numExperts + sortedRows(ids.rows, ids.cols, numExperts);

/** One active expert's rows. */
export interface ExpertRows {
  readonly expert: number;
  readonly begin: number;
  readonly count: number;
}

/** The active experts of a plan, in increasing order. */
export const expertsOf = (plan: ArrayLike<number>): ExpertRows[] =>
  Array.from({ length: plan[0] as number }, (_, a) => ({
    expert: plan[1 + 3 * a] as number,
    begin: plan[2 + 3 * a] as number,
    count: plan[3 + 3 * a] as number,
  }));

/** The slot t · k + j of a sorted row. */
export const slotAt = (plan: ArrayLike<number>, numExperts: number, row: number): number =>
  plan[1 + 3 * numExperts + row] as number;
