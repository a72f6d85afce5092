/**
 * The order of rows that are sorted by expert: what `dispatch`, `grouped_linear`, `expert_rows` and `combine` agree on.
 */

/** Slot t · k + j of `ids` (T, k) for each sorted row: by expert, within an expert by token. */
export function sortedSlots(ids: Int32Array): Int32Array {
  return Int32Array.from(ids.keys()).sort((a, b) => ids[a]! - ids[b]! || a - b);
}
