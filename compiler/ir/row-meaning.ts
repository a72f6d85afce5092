/**
 * What the ops of routing mean for one row, for graphs and for the kernels that are formed from them.
 */

/** eˣ / Σ eˣ */
export function softmax(row: Float32Array): Float32Array {
  const max = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const total = row.reduce((sum, v) => sum + Math.exp(v - max), 0);
  return row.map((v) => Math.exp(v - max) / total);
}

/** x / (Σ x + eps) */
export function renormalize(row: Float32Array, eps: number): Float32Array {
  const total = row.reduce((a, b) => a + b, 0) + eps;
  return row.map((v) => v / total);
}

/** The columns of the k largest values, largest first, of equal ones the lower column first. */
export const topK = (row: Float32Array, k: number): number[] =>
  Array.from(row.keys())
    .sort((a, b) => row[b]! - row[a]! || a - b)
    .slice(0, k);

/** Scores of the `keep` best groups; −∞ elsewhere. A group is as good as the sum of its `best` highest scores. */
export function groupLimit(
  row: Float32Array,
  { groups, keep, best }: { groups: number; keep: number; best: number },
): Float32Array {
  const size = row.length / groups;
  const group = (g: number) => row.subarray(g * size, (g + 1) * size);
  const worth = Float32Array.from({ length: groups }, (_, g) => topK(group(g), best).reduce((sum, i) => sum + group(g)[i]!, 0));
  const out = new Float32Array(row.length).fill(Number.NEGATIVE_INFINITY);
  for (const g of topK(worth, keep)) out.set(group(g), g * size);
  return out;
}
