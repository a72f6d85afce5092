import { describe, expect, it } from "vitest";
import { type SamplingParams, samplingParams } from "../../../runtime/sampling-params.ts";
import { BatchBuilder } from "../../../runtime/scheduler/batch-builder.ts";
import { SamplingState } from "../../../runtime/scheduler/sampling-state.ts";
import { type ScheduledStep, Scheduler, type SchedulerOptions } from "../../../runtime/scheduler/scheduler.ts";
import { Sequence } from "../../../runtime/scheduler/sequence.ts";

const OPTIONS: SchedulerOptions = {
  numBlocks: 64,
  blockSize: 4,
  maxNumSeqs: 8,
  maxNumBatchedTokens: 32,
  rebuiltBeyond: [],
  depth: 2,
  enablePrefixCaching: true,
  salt: "",
};

function add(scheduler: Scheduler, promptTokenIds: readonly number[], params: Partial<SamplingParams> = {}): Sequence {
  const checked = samplingParams(params);
  const sampling = new SamplingState(checked, 0, promptTokenIds, []);
  const seq = new Sequence({ promptTokenIds, sampling, maxTokens: checked.maxTokens ?? undefined });
  scheduler.add(seq);
  return seq;
}

/** The next step, after which everything is whole. */
function schedule(scheduler: Scheduler): ScheduledStep {
  const step = scheduler.schedule();
  scheduler.checkIntegrity();
  if (step === undefined) throw new Error("nothing was scheduled");
  return step;
}

function update(scheduler: Scheduler, step: ScheduledStep, ...ids: number[]): void {
  scheduler.update(step, Int32Array.from(ids));
  scheduler.checkIntegrity();
}

const tokensOf = (seq: Sequence): number[] => Array.from(seq.tokens.subarray(0, seq.numTokens));

describe("a scheduler of depth 2, with a step in flight,", () => {
  it("schedules tokens under the rows that sample them, and fills them in when the step reports back", () => {
    const scheduler = new Scheduler(OPTIONS);
    const builder = new BatchBuilder(OPTIONS);
    const [a, b] = [add(scheduler, [1, 2]), add(scheduler, [3])];
    const first = schedule(scheduler);
    const second = schedule(scheduler);
    const batch = builder.build(second);
    expect(Array.from(batch.tokenIds)).toEqual([-1, -2]);
    expect(Array.from(batch.positions)).toEqual([2, 1]);
    expect(Array.from(batch.seqLens)).toEqual([3, 2]);
    expect([a.isAhead, b.isAhead]).toEqual([true, true]);
    update(scheduler, first, 7, 8);
    expect([tokensOf(a), tokensOf(b)]).toEqual([
      [1, 2, 7],
      [3, 8],
    ]); // prettier-ignore
    expect(Array.from(batch.tokenIds)).toEqual([-1, -2]);
    expect(a.isAhead).toBe(false);
  });

  it("takes another sequence's prompt along", () => {
    const scheduler = new Scheduler(OPTIONS);
    const a = add(scheduler, [1, 2]);
    schedule(scheduler);
    const b = add(scheduler, [3, 4, 5]);
    expect(schedule(scheduler)).toMatchObject({ seqs: [a, b], numTokens: [1, 3], sampled: [a, b] });
  });

  it("does not run two tokens ahead", () => {
    const scheduler = new Scheduler(OPTIONS);
    add(scheduler, [1, 2]);
    schedule(scheduler);
    schedule(scheduler);
    expect(scheduler.schedule()).toBeUndefined();
  });

  it("waits with a token that was not sampled in the step just before", () => {
    const scheduler = new Scheduler(OPTIONS);
    add(scheduler, [1, 2]);
    schedule(scheduler);
    scheduler.addForward(new Sequence({ promptTokenIds: [1], sampling: undefined }));
    expect(scheduler.scheduleForward()).toBeDefined();
    expect(scheduler.schedule()).toBeUndefined();
  });

  const waiting: [why: string, params: Partial<SamplingParams>, options?: Partial<SchedulerOptions>][] = [
    ["whose output a repetition penalty counts", { repetitionPenalty: 1.1 }],
    ["whose output a presence penalty counts", { presencePenalty: 0.1 }],
    ["whose output a frequency penalty counts", { frequencyPenalty: 0.1 }],
    ["whose token in flight is its last", { maxTokens: 1 }],
    ["whose keys become others with the token in flight", {}, { rebuiltBeyond: [4] }],
    ["that would take a block when none is free", {}, { numBlocks: 1 }],
  ];
  it.each(waiting)("waits with a sequence %s", (_, params, options = {}) => {
    const scheduler = new Scheduler({ ...OPTIONS, ...options });
    const seq = add(scheduler, [1, 2, 3, 4], params);
    const step = schedule(scheduler);
    expect(scheduler.schedule()).toBeUndefined();
    expect(seq.isAhead).toBe(false);
    update(scheduler, step, 5);
    expect(tokensOf(seq)).toEqual([1, 2, 3, 4, 5]);
  });

  it("takes no block from another for a token that may never be needed, but once it has come", () => {
    const scheduler = new Scheduler({ ...OPTIONS, numBlocks: 4, enablePrefixCaching: false });
    const [older, younger] = [add(scheduler, [1, 2, 3, 4]), add(scheduler, [5, 6, 7, 8])];
    let last = schedule(scheduler);
    for (let length = 5; length <= 8; length++) {
      const next = schedule(scheduler);
      expect(next.seqs).toEqual([older, younger]); // two blocks each
      update(scheduler, last, 9, 9);
      last = next;
    }
    expect(scheduler.schedule()).toBeUndefined();
    expect(scheduler.numPreemptions).toBe(0);
    update(scheduler, last, 9, 9);
    expect(schedule(scheduler).seqs).toEqual([older]);
    expect(scheduler.numPreemptions).toBe(1);
  });

  it("makes a block that a placeholder fills findable only when its token is known", () => {
    const scheduler = new Scheduler(OPTIONS);
    add(scheduler, [1, 2, 3]);
    const first = schedule(scheduler);
    schedule(scheduler);
    expect(scheduler.blocks.numCachedBlocks).toBe(0);
    update(scheduler, first, 4);
    expect(scheduler.blocks.numCachedBlocks).toBe(1);
    const other = add(scheduler, [1, 2, 3, 4, 5]);
    expect(schedule(scheduler)).toMatchObject({ numTokens: [1, 1] });
    expect(other.numCachedTokens).toBe(4);
  });

  it("finds no block whose sequence ended before its token was known", () => {
    const scheduler = new Scheduler(OPTIONS);
    const seq = add(scheduler, [1, 2, 3]);
    const first = schedule(scheduler);
    const second = schedule(scheduler);
    scheduler.finish(seq);
    expect(seq.numTokens).toBe(3);
    update(scheduler, first, 4);
    update(scheduler, second, 5);
    expect(scheduler.blocks).toMatchObject({ numCachedBlocks: 0, numFreeBlocks: 64 });
    expect(seq.numTokens).toBe(3);
  });

  it("drops the token of the step too far of a sequence that ended by its token", () => {
    const scheduler = new Scheduler(OPTIONS);
    const seq = add(scheduler, [1, 2, 3]);
    const first = schedule(scheduler);
    const second = schedule(scheduler);
    update(scheduler, first, 4);
    scheduler.finish(seq);
    expect(scheduler.isIdle).toBe(true);
    expect(scheduler.blocks.numFreeBlocks).toBe(64);
    update(scheduler, second, 5);
    expect(tokensOf(seq)).toEqual([1, 2, 3, 4]);
  });

  it("waits as a whole rather than split those that wait into two half-empty steps", () => {
    const scheduler = new Scheduler(OPTIONS);
    const penalized = [1, 2, 3].map((id) => add(scheduler, [id], { presencePenalty: 1 }));
    const plain = add(scheduler, [4]);
    const first = schedule(scheduler);
    const late = add(scheduler, [5], { presencePenalty: 1 });
    expect(scheduler.schedule()).toBeUndefined(); // 3 would wait, 1 would run
    update(scheduler, first, 9, 9, 9, 9);
    expect(schedule(scheduler).seqs).toEqual([...penalized, plain, late]);
  });

  it("goes on without those that wait where they are fewer, which then run in every other step", () => {
    const scheduler = new Scheduler(OPTIONS);
    const plain = [1, 2, 3].map((id) => add(scheduler, [id]));
    const penalized = add(scheduler, [4], { presencePenalty: 1 });
    const first = schedule(scheduler);
    const second = schedule(scheduler);
    expect(second.seqs).toEqual(plain);
    update(scheduler, first, 9, 9, 9, 9);
    expect(schedule(scheduler).seqs).toEqual([...plain, penalized]);
  });

  it("scores the chunks of a forward pass one by one", () => {
    const scheduler = new Scheduler(OPTIONS);
    scheduler.addForward(new Sequence({ promptTokenIds: Array(12).fill(1), sampling: undefined }));
    const first = scheduler.scheduleForward()!;
    expect(first.numTokens).toEqual([8]);
    expect(scheduler.scheduleForward()).toBeUndefined();
    update(scheduler, first);
    expect(scheduler.scheduleForward()!.numTokens).toEqual([4]);
  });

  it("names a placeholder that was left behind", () => {
    const scheduler = new Scheduler(OPTIONS);
    const seq = add(scheduler, [1, 2]);
    const first = schedule(scheduler);
    const second = schedule(scheduler);
    scheduler.update(first, Int32Array.of(7));
    seq.tokens[2] = -1;
    expect(() => scheduler.checkIntegrity()).toThrow("sequence 1 among the running holds a placeholder with no token to come");
    scheduler.update(second, Int32Array.of(7));
    seq.append(8);
    seq.tokens[2] = -1;
    expect(() => scheduler.checkIntegrity()).toThrow("holds a placeholder at 2 of 4 tokens");
  });
});
