import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { InternalError } from "../../../runtime/errors.ts";
import { BlockManager } from "../../../runtime/scheduler/block-manager.ts";
import { Sequence } from "../../../runtime/scheduler/sequence.ts";

function manager(numBlocks: number, options: { enablePrefixCaching?: boolean; salt?: string } = {}): BlockManager {
  return new BlockManager({ numBlocks, blockSize: 2, enablePrefixCaching: true, salt: "", ...options });
}

const sequence = (...ids: number[]): Sequence => new Sequence({ promptTokenIds: ids, sampling: undefined });
const table = (seq: Sequence): number[] => Array.from(seq.blockTable.subarray(0, seq.numBlocks));

/** Computes `seq` wholly in step `step`. */
function compute(blocks: BlockManager, seq: Sequence, step = 1): void {
  expect(blocks.allocate(seq, seq.numTokens)).toBe(true);
  blocks.cacheFullBlocks(seq, 0, seq.numTokens, step);
}

describe("BlockManager", () => {
  it("says no when blocks run out, and changes nothing", () => {
    const blocks = manager(3);
    const seq = sequence(1, 2, 3);
    expect(blocks.allocate(seq, 3)).toBe(true);
    expect(blocks.allocate(sequence(4, 5, 6), 3)).toBe(false);
    expect(blocks.numFreeBlocks).toBe(1);
    blocks.checkIntegrity([seq]);
  });

  it("reuses a freed uncached block before a cached one", () => {
    const blocks = manager(4);
    const seq = sequence(1, 2, 3); // a full block, cached, and a partial one
    compute(blocks, seq);
    const [full, partial] = table(seq);
    blocks.free(seq);
    const taker = sequence(9, 9, 9, 9, 9, 9);
    blocks.allocate(taker, 6);
    expect(table(taker)).toContain(partial);
    expect(table(taker)).not.toContain(full);
    expect(blocks.matchPrefix(seq, 2).numBlocks).toBe(1);
    blocks.checkIntegrity([taker]);
  });

  it("finds a block only for sequences whose keys are of its kind", () => {
    const blocks = manager(4);
    const seq = sequence(1, 2, 3);
    compute(blocks, seq);
    const ofKind = (kind: number): Sequence => Object.assign(sequence(1, 2, 3), { kvKind: kind });
    expect(blocks.matchPrefix(ofKind(0), 2).numBlocks).toBe(1);
    expect(blocks.matchPrefix(ofKind(1), 2).numBlocks).toBe(0);
  });

  it("evicts the least recently used cached block, and of a chain the end first", () => {
    const blocks = manager(5);
    const older = sequence(1, 2, 3, 4, 0);
    const newer = sequence(5, 6, 7, 8, 0);
    for (const seq of [older, newer]) {
      blocks.allocate(seq, 4);
      blocks.cacheFullBlocks(seq, 0, 4, 1);
    }
    blocks.free(older);
    blocks.free(newer);
    const taker = sequence(9, 9, 9, 9, 9);
    blocks.allocate(taker, 4); // one never used, one evicted
    expect(blocks.matchPrefix(older, 2).numBlocks).toBe(1);
    expect(blocks.matchPrefix(newer, 2).numBlocks).toBe(2);
    blocks.allocate(taker, 5);
    expect(blocks.matchPrefix(older, 2).numBlocks).toBe(0);
    expect(blocks.matchPrefix(newer, 2).numBlocks).toBe(2);
    blocks.checkIntegrity([taker]);
  });

  it("shares a block between its holders and frees it with the last", () => {
    const blocks = manager(4);
    const first = sequence(1, 2, 3);
    compute(blocks, first);
    const second = sequence(1, 2, 4);
    const match = blocks.matchPrefix(second, 2);
    expect(match).toEqual({ numBlocks: 1, numFreeBlocks: 0, isPending: false });
    blocks.acquirePrefix(second, 1);
    blocks.allocate(second, 3);
    expect(table(second)[0]).toBe(table(first)[0]);
    blocks.checkIntegrity([first, second]);
    blocks.free(first);
    blocks.checkIntegrity([second]);
    blocks.free(second);
    expect(blocks.numFreeBlocks).toBe(4);
    blocks.checkIntegrity([]);
  });

  it("never finds the last token: one must be computed", () => {
    const blocks = manager(4);
    const seq = sequence(1, 2, 3, 4);
    compute(blocks, seq);
    expect(blocks.matchPrefix(sequence(1, 2, 3, 4), 2).numBlocks).toBe(1);
    expect(blocks.matchPrefix(sequence(1, 2, 3, 4, 5), 2).numBlocks).toBe(2);
  });

  it("finds a block only behind the same beginning", () => {
    const blocks = manager(8);
    compute(blocks, sequence(1, 2, 3, 4, 5));
    expect(blocks.matchPrefix(sequence(9, 9, 3, 4, 5), 2).numBlocks).toBe(0);
    expect(blocks.matchPrefix(sequence(1, 2, 4, 3, 5), 2).numBlocks).toBe(1);
    expect(blocks.matchPrefix(sequence(3, 4, 5), 2).numBlocks).toBe(0);
  });

  it("calls a block pending while the step that fills it is the current one", () => {
    const blocks = manager(8);
    compute(blocks, sequence(1, 2, 3), 7);
    expect(blocks.matchPrefix(sequence(1, 2, 4), 7)).toEqual({ numBlocks: 0, numFreeBlocks: 0, isPending: true });
    expect(blocks.matchPrefix(sequence(1, 2, 4), 8)).toEqual({ numBlocks: 1, numFreeBlocks: 0, isPending: false });
  });

  it("keeps salts apart, also where salt and request salt would add up to the same", () => {
    const key = (salt: string, cacheSalt: string): string => {
      const seq = new Sequence({ promptTokenIds: [1, 2, 3], sampling: undefined, cacheSalt });
      compute(manager(4, { salt }), seq);
      return seq.blockHashes[0]!;
    };
    const keys = [key("", ""), key("a", ""), key("", "a"), key("ab", "c"), key("a", "bc")];
    expect(new Set(keys).size).toBe(5);
    expect(key("a", "bc")).toBe(keys[4]); // the same in every process
  });

  it("finds nothing when prefix caching is off", () => {
    const blocks = manager(4, { enablePrefixCaching: false });
    compute(blocks, sequence(1, 2, 3));
    expect(blocks.matchPrefix(sequence(1, 2, 3), 2).numBlocks).toBe(0);
    expect(blocks.numCachedBlocks).toBe(0);
  });

  it("names what is wrong when counts and tables disagree", () => {
    const blocks = manager(4);
    const seq = sequence(1, 2, 3);
    compute(blocks, seq);
    expect(() => blocks.checkIntegrity([])).toThrow(/block \d is held 0 times but counted 1 times/);
    expect(() => blocks.checkIntegrity([seq, seq])).toThrow(InternalError);
    const stranger = sequence(7, 8, 9);
    stranger.appendBlock(table(seq)[0]!);
    expect(() => blocks.checkIntegrity([stranger])).toThrow(/cached under another content/);
    stranger.appendBlock(99);
    expect(() => blocks.checkIntegrity([stranger])).toThrow(InternalError);
    blocks.free(seq);
    seq.numBlocks = 1;
    expect(() => blocks.free(seq)).toThrow("was released more often than held");
  });

  it("keeps its books under any order of allocation, sharing and release", () => {
    const ids = fc.array(fc.constantFrom(1, 2), { minLength: 1, maxLength: 9 });
    const action = fc.oneof(
      fc.record({ kind: fc.constant("add" as const), ids }),
      fc.record({ kind: fc.constant("free" as const), at: fc.nat() }),
    );
    fc.assert(
      fc.property(fc.array(action, { maxLength: 60 }), (actions) => {
        const blocks = manager(12);
        const live: Sequence[] = [];
        for (const [step, act] of actions.entries()) {
          if (act.kind === "add") {
            const seq = sequence(...act.ids);
            blocks.acquirePrefix(seq, blocks.matchPrefix(seq, step).numBlocks);
            const start = seq.numBlocks * 2;
            if (blocks.allocate(seq, seq.numTokens)) {
              blocks.cacheFullBlocks(seq, start, seq.numTokens, step);
              live.push(seq);
            } else blocks.free(seq);
          } else if (live.length > 0) {
            blocks.free(live.splice(act.at % live.length, 1)[0]!);
          }
          blocks.checkIntegrity(live);
        }
        for (const seq of live) blocks.free(seq);
        expect(blocks.numFreeBlocks).toBe(12);
        blocks.checkIntegrity([]);
      }),
      { numRuns: 300 },
    );
  });
});
