/**
 * How the attention of a step is cut into units, and how large their plan is.
 *
 * A unit is some tokens of one sequence, beside each other in the batch, and some chunks of the positions they see. Cuts between tokens
 * stand at multiples of `tileTokens` and where another sequence begins; where a step has few tokens, the chunks of a lone token are
 * units of their own, whose sums the last of them merges in order.
 */
import { type Dim, maxOf } from "../ir/tensor-type.ts";
import type { AttentionCut } from "./spec.ts";

/** Numbers of a unit in its plan. */
const NUMBERS = 6;

/** Some tokens, and some chunks of what they see; in the order of the plan's numbers. */
export interface AttentionUnit {
  readonly token: number;
  readonly tokens: number;
  readonly firstChunk: number;
  readonly chunks: number;
  /** Which of the units of its token it is, and of how many. */
  readonly part: number;
  readonly parts: number;
}

/** Positions of a chunk for a token that sees `visible` of them. */
export function chunkOf(visible: number, { chunk, maxChunks }: AttentionCut): number {
  let size = chunk;
  while (size * maxChunks < visible) size *= 2;
  return size;
}

/** The units of a step, in the order of tokens, then of chunks. */
export function attentionUnits(positions: Int32Array, seqIds: Int32Array, cut: AttentionCut): AttentionUnit[] {
  const begins = (t: number) => t % cut.tileTokens === 0 || seqIds[t] !== seqIds[t - 1];
  const units: AttentionUnit[] = [];
  for (let token = 0, end = 0; token < positions.length; token = end) {
    for (end = token + 1; end < positions.length && !begins(end); ) end++;
    const { first, count } = visibleChunks(positions[token]!, cut);
    const split = positions.length < cut.splitBelow && end === token + 1;
    if (!split) units.push({ token, tokens: end - token, firstChunk: first, chunks: count, part: 0, parts: 1 });
    else
      for (let part = 0; part < count; part++)
        units.push({ token, tokens: 1, firstChunk: first + part, chunks: 1, part, parts: count });
  }
  return units;
}

/** Chunks that a token at `position` sees something of. */
function visibleChunks(position: number, cut: AttentionCut): { readonly first: number; readonly count: number } {
  const begin = cut.window === null ? 0 : Math.max(0, position + 1 - cut.window);
  const size = chunkOf(position + 1 - begin, cut);
  const first = Math.floor(begin / size);
  return { first, count: Math.floor(position / size) + 1 - first };
}

/** Chunks of a token at most: one more than `maxChunks` where a window begins inside one. */
export const mostChunks = (cut: AttentionCut): number => cut.maxChunks + (cut.window === null ? 0 : 1);

/** The plan of `units`: how many, then the numbers of each. */
export const planOf = (units: readonly AttentionUnit[]): number[] => [
  units.length,
  ...units.flatMap((u) => [u.token, u.tokens, u.firstChunk, u.chunks, u.part, u.parts]),
];

/** Numbers of a plan for steps of up to `tokens`. */
export function planNumbers(tokens: Dim, cut: AttentionCut): number {
  const most = maxOf(tokens);
  return 1 + NUMBERS * Math.max(most, Math.min(most, cut.splitBelow) * mostChunks(cut));
}
