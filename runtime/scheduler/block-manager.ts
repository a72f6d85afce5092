/**
 * Who holds which block of the paged KV cache, and which full blocks can be found again by their content.
 *
 *   free, uncached ──▶ held by 1 … n sequences ──▶ free, uncached      (content unknown: reused first, last in first out)
 *                        │        ▲
 *                        ▼        │ hit
 *                      free, cached  ──evict──▶ held                   (content known: least recently used goes first)
 *
 * A block's key is SHA-256 over (key of the block before it, its token ids); the first block's parent is the digest of the salts and of
 * the kind of keys the sequence has. A cryptographic one on purpose: a hit is trusted without comparing tokens, and prompts are chosen by
 * strangers.
 * It knows no scheduling policy and touches no device memory.
 */
import { hash } from "node:crypto";
import { invariant } from "../errors.ts";
import type { Sequence } from "./sequence.ts";

const DIGEST_BYTES = 32;
const NONE = -1; // end of a list, in Int32Array links only

export interface BlockManagerOptions {
  readonly numBlocks: number;
  readonly blockSize: number;
  readonly enablePrefixCaching: boolean;
  /** Goes into every block key: engines of different salts never share. */
  readonly salt: string;
}

/** Blocks of a sequence's beginning that are in the cache. */
export interface PrefixMatch {
  /** How many leading blocks can be taken over. */
  readonly numBlocks: number;
  /** How many of those nobody holds: taking them over uses up free blocks. */
  readonly numFreeBlocks: number;
  /** Whether the next block is being computed by another sequence in step `step` itself, so that waiting one step pays. */
  readonly isPending: boolean;
}

export class BlockManager {
  readonly numBlocks: number;
  readonly blockSize: number;
  readonly enablePrefixCaching: boolean;

  readonly #refCounts: Int32Array;
  readonly #keys: (string | undefined)[];
  /** Step that fills the block, for cached blocks: what a step writes is read by others from the next step on. */
  readonly #filledIn: Float64Array;
  readonly #blockOf = new Map<string, number>(); // key → block
  readonly #free: Int32Array; // stack of uncached free blocks
  #numFree: number;
  // Free cached blocks, least recently used first: a doubly linked list over block ids.
  readonly #prev: Int32Array;
  readonly #next: Int32Array;
  #oldest = NONE;
  #newest = NONE;
  #numEvictable = 0;

  readonly #salt: string;
  readonly #hashBytes: Buffer; // parent digest, then the ids of one block, little endian
  readonly #hashTokens: Int32Array;

  constructor(options: BlockManagerOptions) {
    const { numBlocks, blockSize } = options;
    invariant(Number.isInteger(numBlocks) && numBlocks > 0, `numBlocks must be a positive integer, got ${numBlocks}`);
    invariant(Number.isInteger(blockSize) && blockSize > 0, `blockSize must be a positive integer, got ${blockSize}`);
    this.numBlocks = numBlocks;
    this.blockSize = blockSize;
    this.enablePrefixCaching = options.enablePrefixCaching;
    this.#refCounts = new Int32Array(numBlocks);
    this.#keys = new Array(numBlocks).fill(undefined);
    this.#filledIn = new Float64Array(numBlocks);
    this.#free = Int32Array.from({ length: numBlocks }, (_, i) => numBlocks - 1 - i); // block 0 goes out first
    this.#numFree = numBlocks;
    this.#prev = new Int32Array(numBlocks).fill(NONE);
    this.#next = new Int32Array(numBlocks).fill(NONE);
    this.#salt = options.salt;
    const bytes = new ArrayBuffer(DIGEST_BYTES + 4 * blockSize);
    this.#hashBytes = Buffer.from(bytes);
    this.#hashTokens = new Int32Array(bytes, DIGEST_BYTES);
  }

  /** Blocks that can be handed out now, cached or not. */
  get numFreeBlocks(): number {
    return this.#numFree + this.#numEvictable;
  }

  /** Blocks found by content now, held or free. */
  get numCachedBlocks(): number {
    return this.#blockOf.size;
  }

  /** Blocks that `numTokens` tokens take. */
  blocksFor(numTokens: number): number {
    return Math.ceil(numTokens / this.blockSize);
  }

  /** Gives `seq` blocks for its first `numTokens` tokens; false, and nothing changed, when there are too few. */
  allocate(seq: Sequence, numTokens: number): boolean {
    const wanted = this.blocksFor(numTokens) - seq.numBlocks;
    if (wanted > this.numFreeBlocks) return false;
    for (let i = 0; i < wanted; i++) seq.appendBlock(this.#take());
    return true;
  }

  /** Gives back all blocks of `seq`, its last one first, so that of a cached chain the end is evicted before the beginning. */
  free(seq: Sequence): void {
    for (let p = seq.numBlocks - 1; p >= 0; p--) this.#release(seq.blockTable[p]!);
    seq.numBlocks = 0;
  }

  /**
   * Looks up the beginning of `seq`, at most all but its last token: one must be computed to give logits.
   * Blocks filled in step `step` itself do not count: they are not written yet.
   */
  matchPrefix(seq: Sequence, step: number): PrefixMatch {
    let numBlocks = 0;
    let numFreeBlocks = 0;
    let isPending = false;
    if (this.enablePrefixCaching) {
      const most = Math.floor((seq.numTokens - 1) / this.blockSize);
      while (numBlocks < most) {
        const block = this.#blockOf.get(this.#keyOf(seq, numBlocks));
        if (block === undefined) break;
        isPending = this.#filledIn[block] === step;
        if (isPending) break;
        if (this.#refCounts[block] === 0) numFreeBlocks++;
        numBlocks++;
      }
    }
    return { numBlocks, numFreeBlocks, isPending };
  }

  /** Makes `seq`, which holds nothing yet, a holder of its first `numBlocks` blocks, which `matchPrefix` just found. */
  acquirePrefix(seq: Sequence, numBlocks: number): void {
    invariant(seq.numBlocks === 0, `a prefix was acquired for a sequence that holds ${seq.numBlocks} blocks`);
    for (let p = 0; p < numBlocks; p++) {
      const block = this.#blockOf.get(this.#keyOf(seq, p));
      invariant(block !== undefined, `block ${p} of a matched prefix is gone`);
      if (this.#refCounts[block]!++ === 0) this.#unlink(block);
      seq.appendBlock(block);
    }
  }

  /** Makes findable the blocks of `seq` that its tokens `start` … `end` − 1, scheduled in `step`, fill up. */
  cacheFullBlocks(seq: Sequence, start: number, end: number, step: number): void {
    if (!this.enablePrefixCaching) return;
    const last = Math.floor(end / this.blockSize);
    for (let p = Math.floor(start / this.blockSize); p < last; p++) {
      const key = this.#keyOf(seq, p);
      if (this.#blockOf.has(key)) continue; // computed twice at the same time: the first stays the one to be found
      const block = seq.blockTable[p]!;
      this.#blockOf.set(key, block);
      this.#keys[block] = key;
      this.#filledIn[block] = step;
    }
  }

  /**
   * Checks that every block is where the counts say, given all sequences that may hold blocks.
   *
   * @throws InternalError naming the block and what is wrong. Takes time in proportion to the cache: for tests and debugging.
   */
  checkIntegrity(holders: Iterable<Sequence>): void {
    const expected = new Int32Array(this.numBlocks);
    for (const seq of holders) {
      const own = new Set<number>();
      for (let p = 0; p < seq.numBlocks; p++) {
        const block = seq.blockTable[p]!;
        const who = `sequence ${seq.arrival}, table entry ${p}`;
        invariant(block >= 0 && block < this.numBlocks, `${who}: block ${block} is not one of ${this.numBlocks}`);
        invariant(!own.has(block), `${who}: block ${block} stands in its table twice`);
        own.add(block);
        expected[block]!++;
        const key = this.#keys[block];
        invariant(key === undefined || key === this.#keyOf(seq, p), `${who}: block ${block} is cached under another content`);
      }
    }
    const isFree = new Uint8Array(this.numBlocks);
    for (let i = 0; i < this.#numFree; i++) {
      const block = this.#free[i]!;
      invariant(!isFree[block], `block ${block} is free twice`);
      isFree[block] = 1;
      invariant(this.#keys[block] === undefined, `block ${block} is on the uncached free list but cached`);
    }
    let linked = 0;
    for (let block = this.#oldest, before = NONE; block !== NONE; before = block, block = this.#next[block]!) {
      invariant(!isFree[block], `block ${block} is free twice`);
      isFree[block] = 1;
      linked++;
      invariant(this.#keys[block] !== undefined, `block ${block} is on the cached free list but not cached`);
      invariant(this.#prev[block] === before, `block ${block}'s link back is ${this.#prev[block]}, not ${before}`);
      invariant(
        this.#next[block] !== NONE || this.#newest === block,
        `the cached free list ends at ${block}, not ${this.#newest}`,
      );
    }
    invariant(linked === this.#numEvictable, `${linked} blocks are evictable but ${this.#numEvictable} are counted`);
    let cached = 0;
    for (let block = 0; block < this.numBlocks; block++) {
      const count = this.#refCounts[block]!;
      invariant(count === expected[block], `block ${block} is held ${expected[block]} times but counted ${count} times`);
      invariant(
        (count === 0) === (isFree[block] === 1),
        `block ${block} is held ${count} times and free: ${isFree[block] === 1}`,
      );
      const key = this.#keys[block];
      if (key === undefined) continue;
      cached++;
      invariant(this.#blockOf.get(key) === block, `cached block ${block} is not found under its key`);
    }
    invariant(cached === this.#blockOf.size, `${this.#blockOf.size} keys lead to ${cached} cached blocks`);
  }

  #take(): number {
    let block: number;
    if (this.#numFree > 0) {
      block = this.#free[--this.#numFree]!;
    } else {
      block = this.#oldest;
      invariant(block !== NONE, "a block was taken from an empty cache");
      this.#unlink(block);
      this.#blockOf.delete(this.#keys[block]!);
      this.#keys[block] = undefined;
    }
    this.#refCounts[block] = 1;
    return block;
  }

  #release(block: number): void {
    const count = --this.#refCounts[block]!;
    invariant(count >= 0, `block ${block} was released more often than held`);
    if (count > 0) return;
    if (this.#keys[block] === undefined) this.#free[this.#numFree++] = block;
    else this.#link(block);
  }

  #link(block: number): void {
    this.#prev[block] = this.#newest;
    this.#next[block] = NONE;
    if (this.#newest === NONE) this.#oldest = block;
    else this.#next[this.#newest] = block;
    this.#newest = block;
    this.#numEvictable++;
  }

  #unlink(block: number): void {
    const prev = this.#prev[block]!;
    const next = this.#next[block]!;
    if (prev === NONE) this.#oldest = next;
    else this.#next[prev] = next;
    if (next === NONE) this.#newest = prev;
    else this.#prev[next] = prev;
    this.#numEvictable--;
  }

  /** Key of the full block `p` of `seq`; the chain is computed once per sequence, as far as asked. */
  #keyOf(seq: Sequence, p: number): string {
    const keys = seq.blockHashes;
    while (keys.length <= p) {
      const at = keys.length;
      const parent = keys[at - 1] ?? hash("sha256", JSON.stringify([this.#salt, seq.cacheSalt, seq.kvKind]), "binary");
      this.#hashBytes.write(parent, 0, DIGEST_BYTES, "latin1");
      for (let i = 0, from = at * this.blockSize; i < this.blockSize; i++) this.#hashTokens[i] = seq.tokens[from + i]!;
      keys.push(hash("sha256", this.#hashBytes, "binary"));
    }
    return keys[p]!;
  }
}
