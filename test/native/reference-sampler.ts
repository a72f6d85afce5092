/**
 * The sampler's meaning, slow and plain, in double precision: what templates/sample.cpu.njk is compared with.
 *
 * Order and semantics are vLLM's: bias, penalties, temperature, min-p, top-k, top-p; equal logits are kept or dropped together.
 */

export interface Row {
  readonly temperature: number;
  readonly topP: number;
  readonly minP: number;
  readonly topK: number;
  readonly repetitionPenalty: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  readonly seed: readonly [low: number, high: number];
  readonly counter: number;
  /** 0 none, else 1 + alternatives. */
  readonly numLogprobs: number;
  readonly tokens: readonly (readonly [id: number, count: number])[];
  readonly bias: readonly (readonly [id: number, bias: number])[];
}

export const plainRow: Row = {
  temperature: 0,
  topP: 1,
  minP: 0,
  topK: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  seed: [0, 0],
  counter: 0,
  numLogprobs: 0,
  tokens: [],
  bias: [],
};

/** Logits after bias and penalties, rounded to float32 after every operation as the kernel's are. */
export function penalized(logits: ArrayLike<number>, row: Row): Float32Array {
  const l = Float32Array.from(logits);
  for (const [id, bias] of row.bias) l[id]! += Math.fround(bias);
  const [r, f, p] = [row.repetitionPenalty, row.frequencyPenalty, row.presencePenalty].map(Math.fround) as [
    number,
    number,
    number,
  ];
  for (const [id, count] of row.tokens) {
    if (r !== 1) l[id] = l[id]! > 0 ? l[id]! / r : l[id]! * r;
    l[id]! -= Math.fround(Math.fround(f * count) + (count > 0 ? p : 0));
  }
  return l;
}

/** The distribution that a row draws from: probability by token, exactly 0 for what is cut. */
export function distribution(logits: Float32Array, row: Row): number[] {
  const max = logits.reduce((a, b) => Math.max(a, b));
  if (row.temperature < 1e-5) {
    const first = logits.indexOf(max);
    return Array.from(logits, (_, i) => (i === first ? 1 : 0));
  }
  let e = Array.from(logits, (l) => Math.exp((l - max) / row.temperature));
  e = e.map((x) => (x >= row.minP ? x : 0));
  const descending = [...logits].sort((a, b) => b - a);
  if (row.topK > 0 && row.topK < logits.length) {
    const threshold = descending[row.topK - 1]!;
    e = e.map((x, i) => (logits[i]! >= threshold ? x : 0));
  }
  const total = e.reduce((a, b) => a + b);
  if (row.topP < 1) {
    const order = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]!);
    let before = 0;
    let threshold = max;
    for (const i of order) {
      if (before >= row.topP * total) break;
      threshold = logits[i]!;
      before += e[i]!;
    }
    e = e.map((x, i) => (logits[i]! >= threshold ? x : 0));
  }
  const kept = e.reduce((a, b) => a + b);
  return e.map((x) => x / kept);
}

export function logSumExp(logits: Float32Array): number {
  const max = logits.reduce((a, b) => Math.max(a, b));
  return max + Math.log(logits.reduce((sum, l) => sum + Math.exp(l - max), 0));
}

/** Philox4x32-10 of a counter (four words) under a key (two words). */
export function philox(counter: readonly number[], key: readonly number[]): number[] {
  let c = counter.map((word) => BigInt(word >>> 0));
  let [k0, k1] = key.map((word) => BigInt(word >>> 0)) as [bigint, bigint];
  const mask = 0xffffffffn;
  for (let round = 0; round < 10; round++) {
    const a = 0xd2511f53n * c[0]!;
    const b = 0xcd9e8d57n * c[2]!;
    c = [(b >> 32n) ^ c[1]! ^ k0, b & mask, (a >> 32n) ^ c[3]! ^ k1, a & mask];
    k0 = (k0 + 0x9e3779b9n) & mask;
    k1 = (k1 + 0xbb67ae85n) & mask;
  }
  return c.map(Number);
}

/** The token a row draws: the first at which the running probability passes the row's random number. */
export function draw(probabilities: readonly number[], row: Row): number {
  const [a, b] = philox([row.counter, 0, 0, 0], row.seed) as [number, number];
  const u = ((a >>> 5) * 67108864 + (b >>> 6)) / 2 ** 53;
  let below = 0;
  let last = -1;
  for (const [i, p] of probabilities.entries()) {
    if (p > 0) last = i;
    below += p;
    if (below > u) return last;
  }
  return last;
}
