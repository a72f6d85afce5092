/**
 * Byte-pair encoding of one piece of text: symbols, then merges in rank order, leftmost first.
 *
 * The semantics are those of tokenizers' `models/bpe` (byte fallback, fused unknowns, `ignore_merges`), without dropout and
 * without sub-word affixes. O(n log n) in the length of a word; words are cached.
 */
import { ManifestError } from "../errors.ts";
import { byteChars, toByteChars } from "./byte-level.ts";

export interface BpeOptions {
  /** Pieces come as plain text and are to be taken as GPT-2's byte characters. */
  readonly byteLevel: boolean;
  /** A character outside the vocabulary becomes its bytes' `<0xXX>` tokens. */
  readonly byteFallback: boolean;
  /** A word that is a token as a whole needs no merges. */
  readonly ignoreMerges: boolean;
  readonly unkToken: string | null;
  readonly fuseUnk: boolean;
}

const noMerge = -1;
const maxCachedWords = 1 << 16;
const maxCachedLength = 64; // UTF-16 units

/** An open-addressing hash from a pair of ids to the rank of their merge. */
class MergeRanks {
  private readonly mask: number;
  private readonly left: Int32Array;
  private readonly right: Int32Array;
  private readonly rank: Int32Array;

  constructor(numMerges: number) {
    let capacity = 16;
    while (capacity < 2 * numMerges) capacity *= 2;
    this.mask = capacity - 1;
    this.left = new Int32Array(capacity).fill(noMerge);
    this.right = new Int32Array(capacity);
    this.rank = new Int32Array(capacity);
  }

  private slot(a: number, b: number): number {
    let h = Math.imul(a, 0x9e3779b1) ^ Math.imul(b, 0x85ebca6b);
    h = (h ^ (h >>> 15)) & this.mask;
    while (this.left[h] !== noMerge && (this.left[h] !== a || this.right[h] !== b)) h = (h + 1) & this.mask;
    return h;
  }

  /** A pair that is set twice keeps the later rank, as in tokenizers. */
  set(a: number, b: number, rank: number): void {
    const h = this.slot(a, b);
    this.left[h] = a;
    this.right[h] = b;
    this.rank[h] = rank;
  }

  get(a: number, b: number): number {
    const h = this.slot(a, b);
    return this.left[h] === noMerge ? noMerge : this.rank[h]!;
  }
}

export class Bpe {
  private readonly vocab: ReadonlyMap<string, number>;
  private readonly options: BpeOptions;
  private readonly ranks: MergeRanks;
  private readonly merged: Int32Array; // (numMerges): the id that a merge makes
  private readonly byteIds: readonly (number | undefined)[]; // (256)
  private readonly unkId: number | undefined;
  private readonly splitsAtSpaces: boolean;
  private readonly cache = new Map<string, readonly number[]>();

  /** `merges` in rank order. Throws `ManifestError` when a merge or the unknown token names no token of the vocabulary. */
  constructor(vocab: ReadonlyMap<string, number>, merges: readonly (readonly [string, string])[], options: BpeOptions) {
    this.vocab = vocab;
    this.options = options;
    this.ranks = new MergeRanks(merges.length);
    this.merged = new Int32Array(merges.length);
    let crossesSpaces = false;
    for (let rank = 0; rank < merges.length; rank++) {
      const [left, right] = merges[rank]!;
      const a = vocab.get(left);
      const b = vocab.get(right);
      const ab = vocab.get(left + right);
      if (a === undefined || b === undefined || ab === undefined) {
        const missing = a === undefined ? left : b === undefined ? right : left + right;
        throw new ManifestError(
          `tokenizer.json: model.merges[${rank}] (${JSON.stringify([left, right])}) needs the token ${JSON.stringify(missing)}, which model.vocab does not have`,
        );
      }
      this.ranks.set(a, b, rank);
      this.merged[rank] = ab;
      if (right.startsWith("▁") && !left.endsWith("▁")) crossesSpaces = true;
    }
    // If no merge joins a non-space to a following "▁", merges on the two sides never meet, and a text that no pre-tokenizer
    // cut can be cut there: the same ids, from a cache of words instead of one long heap.
    this.splitsAtSpaces = !crossesSpaces && !options.byteLevel && !options.ignoreMerges && vocab.has("▁");
    this.byteIds = byteChars.map((char, b) =>
      vocab.get(options.byteLevel ? char : `<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`),
    );
    this.unkId = options.unkToken === null ? undefined : vocab.get(options.unkToken);
    if (options.unkToken !== null && this.unkId === undefined) {
      throw new ManifestError(
        `tokenizer.json: model.unk_token ${JSON.stringify(options.unkToken)} is not a token of model.vocab; expected one of its ${vocab.size} tokens`,
      );
    }
  }

  /** Appends the ids of one pre-tokenized piece to `out`. */
  encode(piece: string, out: number[]): void {
    if (!this.splitsAtSpaces) {
      this.encodeWord(piece, out);
      return;
    }
    let start = 0;
    for (let at = piece.indexOf("▁", 1); at >= 0; at = piece.indexOf("▁", at + 1)) {
      if (piece[at - 1] === "▁") continue;
      this.encodeWord(piece.slice(start, at), out);
      start = at;
    }
    this.encodeWord(start === 0 ? piece : piece.slice(start), out);
  }

  private encodeWord(word: string, out: number[]): void {
    let ids = this.cache.get(word);
    if (ids === undefined) {
      ids = this.merge(word);
      if (word.length <= maxCachedLength) {
        if (this.cache.size >= maxCachedWords) this.cache.clear();
        this.cache.set(word, ids);
      }
    }
    for (const id of ids) out.push(id);
  }

  private merge(word: string): readonly number[] {
    if (this.options.ignoreMerges) {
      const whole = this.vocab.get(this.options.byteLevel ? toByteChars(word) : word);
      if (whole !== undefined) return [whole];
    }
    const symbols = this.options.byteLevel ? this.byteSymbols(word) : this.charSymbols(word);
    return symbols.length < 2 ? symbols : mergeSymbols(symbols, this.ranks, this.merged);
  }

  private byteSymbols(word: string): number[] {
    const ids: number[] = [];
    const unknowns = this.unknowns(ids);
    for (const byte of Buffer.from(word, "utf8")) {
      const id = this.byteIds[byte];
      if (id === undefined) unknowns.add();
      else {
        unknowns.flush();
        ids.push(id);
      }
    }
    unknowns.flush();
    return ids;
  }

  private charSymbols(word: string): number[] {
    const ids: number[] = [];
    const unknowns = this.unknowns(ids);
    for (const char of word) {
      const id = this.vocab.get(char);
      if (id !== undefined) {
        unknowns.flush();
        ids.push(id);
        continue;
      }
      const bytes = this.options.byteFallback ? [...Buffer.from(char, "utf8")].map((b) => this.byteIds[b]) : [undefined];
      if (bytes.every((byteId) => byteId !== undefined)) ids.push(...bytes);
      else unknowns.add();
    }
    unknowns.flush();
    return ids;
  }

  /** Unknown characters: one token for a run of them (`fuse_unk`) or for each; dropped where there is no unknown token. */
  private unknowns(ids: number[]): { add(): void; flush(): void } {
    const unkId = this.unkId;
    let pending = 0;
    return {
      add: () => {
        if (unkId !== undefined) pending = this.options.fuseUnk ? 1 : pending + 1;
      },
      flush: () => {
        for (; pending > 0; pending--) ids.push(unkId!);
      },
    };
  }
}

/**
 * Applies merges to `symbols` (at least two) and returns what is left.
 *
 * A linked list of symbols and a binary heap of candidate merges keyed rank · 2^27 + position, so the lowest rank comes
 * first and among equals the leftmost. An entry whose symbols changed meanwhile is skipped when it surfaces.
 */
function mergeSymbols(symbols: number[], ranks: MergeRanks, merged: Int32Array): number[] {
  const n = symbols.length;
  const positions = 2 ** 27; // a JavaScript string holds at most 2^29 units; `encode` bounds texts below this
  const next = new Int32Array(n);
  const previous = new Int32Array(n);
  const alive = new Uint8Array(n).fill(1);
  const heap: number[] = [];

  const push = (position: number, after: number): void => {
    const rank = ranks.get(symbols[position]!, symbols[after]!);
    if (rank === noMerge) return;
    const key = rank * positions + position;
    let i = heap.length;
    heap.push(key);
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (heap[parent]! <= key) break;
      heap[i] = heap[parent]!;
      i = parent;
    }
    heap[i] = key;
  };
  const pop = (): number => {
    const top = heap[0]!;
    const last = heap.pop()!;
    const size = heap.length;
    if (size === 0) return top;
    let i = 0;
    for (let child = 1; child < size; child = 2 * i + 1) {
      if (child + 1 < size && heap[child + 1]! < heap[child]!) child++;
      if (heap[child]! >= last) break;
      heap[i] = heap[child]!;
      i = child;
    }
    heap[i] = last;
    return top;
  };

  for (let i = 0; i < n; i++) {
    next[i] = i + 1; // n: none
    previous[i] = i - 1; // -1: none
  }
  for (let i = 0; i + 1 < n; i++) push(i, i + 1);
  while (heap.length > 0) {
    const key = pop();
    const position = key % positions;
    const newId = merged[(key - position) / positions]!;
    if (alive[position] === 0) continue;
    const after = next[position]!;
    if (after === n) continue;
    const rank = ranks.get(symbols[position]!, symbols[after]!);
    if (rank === noMerge || merged[rank] !== newId) continue;
    symbols[position] = newId;
    alive[after] = 0;
    next[position] = next[after]!;
    if (next[after]! < n) previous[next[after]!] = position;
    if (previous[position]! >= 0) push(previous[position]!, position);
    if (next[position]! < n) push(position, next[position]!);
  }
  const left: number[] = [];
  for (let i = 0; i < n; i = next[i]!) left.push(symbols[i]!);
  return left;
}
