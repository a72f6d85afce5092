// What is compared: one cell is one kind of work, the same token ids for both sides.

import { seededRandom } from "./synthetic-gguf.mjs";

/**
 * prefill: `runs` fresh prompts one after another, each until its first token is known.
 * decode: `sequences` together, `outputTokens` steps each after the first token; reading the prompt is not timed.
 */
export const CELLS = [
  { name: "prefill-512", kind: "prefill", sequences: 1, promptTokens: 512, outputTokens: 1, runs: 3 },
  { name: "decode-32", kind: "decode", sequences: 1, promptTokens: 32, outputTokens: 64 },
  { name: "streams-16", kind: "decode", sequences: 16, promptTokens: 32, outputTokens: 32 },
  { name: "decode-2048", kind: "decode", sequences: 1, promptTokens: 2048, outputTokens: 64 },
];

/** Tokens that one sample of a cell counts. */
export function tokensOf(cell) {
  return cell.kind === "prefill" ? cell.runs * cell.promptTokens : cell.sequences * cell.outputTokens;
}

/**
 * Prompts of sample `index`. Prefill draws fresh ones, so that no prefix cache answers; decode keeps its own for all samples,
 * so that either side may keep what it computed of them.
 */
export function promptsOf(cell, index, shape) {
  const random = seededRandom(1 + CELLS.indexOf(cell) * 1000 + (cell.kind === "prefill" ? index : 0));
  const count = cell.kind === "prefill" ? cell.runs : cell.sequences;
  const specialTokens = Math.min(shape.bosTokenId, shape.eosTokenId); // they follow all others
  const draw = () => Math.floor(random() * specialTokens);
  return Array.from({ length: count }, () => Array.from({ length: cell.promptTokens }, draw));
}
