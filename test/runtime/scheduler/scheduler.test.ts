import { describe, expect, it } from "vitest";
import { kvKind, SAMPLE_INTS, SAMPLE_INTS_WIDTH } from "../../../runtime/batch.ts";
import { type SamplingParams, samplingParams } from "../../../runtime/sampling-params.ts";
import { BatchBuilder } from "../../../runtime/scheduler/batch-builder.ts";
import { SamplingState } from "../../../runtime/scheduler/sampling-state.ts";
import { type ScheduledStep, Scheduler, type SchedulerOptions } from "../../../runtime/scheduler/scheduler.ts";
import { Sequence } from "../../../runtime/scheduler/sequence.ts";
import { FakeDevice, hashLogits } from "../../support/fake-device.ts";

const OPTIONS: SchedulerOptions = {
  numBlocks: 64,
  blockSize: 4,
  maxNumSeqs: 8,
  maxNumBatchedTokens: 32,
  rebuiltBeyond: [],
  enablePrefixCaching: true,
  salt: "",
};

function newSequence(promptTokenIds: readonly number[], params: Partial<SamplingParams> = {}): Sequence {
  const checked = samplingParams({ temperature: 0, ...params });
  const sampling = new SamplingState(checked, 0, promptTokenIds, checked.stopTokenIds);
  return new Sequence({ promptTokenIds, sampling, maxTokens: checked.maxTokens ?? undefined });
}

const range = (from: number, count: number): number[] => Array.from({ length: count }, (_, i) => from + i);

/** A step as [arrival, tokens] pairs; every sampled sequence then gets token 1. */
function run(scheduler: Scheduler): [number, number][] {
  const step = scheduler.schedule();
  if (step === undefined) return [];
  scheduler.checkIntegrity();
  scheduler.update(step, new Int32Array(step.sampled.length).fill(1));
  scheduler.checkIntegrity();
  return step.seqs.map((seq, i) => [seq.arrival, step.numTokens[i]!]);
}

describe("Scheduler", () => {
  it("mixes decodes and prefills under the token budget, first come first served", () => {
    const scheduler = new Scheduler(OPTIONS);
    scheduler.add(newSequence(range(0, 10)));
    expect(run(scheduler)).toEqual([[1, 10]]);
    scheduler.add(newSequence(range(100, 50)));
    scheduler.add(newSequence(range(200, 5)));
    expect(run(scheduler)).toEqual([
      [1, 1],
      [2, 31],
    ]); // prettier-ignore
    expect(run(scheduler)).toEqual([
      [1, 1],
      [2, 19],
      [3, 5],
    ]); // prettier-ignore
    expect(run(scheduler)).toEqual([
      [1, 1],
      [2, 1],
      [3, 1],
    ]); // prettier-ignore
  });

  it("runs at most maxNumSeqs sequences", () => {
    const scheduler = new Scheduler({ ...OPTIONS, maxNumSeqs: 2 });
    const seqs = range(0, 3).map((i) => newSequence([i]));
    for (const seq of seqs) scheduler.add(seq);
    expect(run(scheduler).map(([arrival]) => arrival)).toEqual([1, 2]);
    scheduler.finish(seqs[0]!);
    expect(run(scheduler).map(([arrival]) => arrival)).toEqual([2, 3]);
  });

  it("preempts the latest arrival when blocks run out, and computes it anew before newcomers", () => {
    const scheduler = new Scheduler({ ...OPTIONS, numBlocks: 6, enablePrefixCaching: false });
    const [first, second, third] = [newSequence(range(0, 8)), newSequence(range(10, 8)), newSequence(range(20, 4))];
    scheduler.add(first);
    scheduler.add(second);
    expect(run(scheduler)).toEqual([
      [1, 8],
      [2, 8],
    ]); // prettier-ignore
    scheduler.add(third);
    for (let i = 0; i < 4; i++) expect(run(scheduler).map(([arrival]) => arrival)).toEqual([1, 2]); // 3 blocks each
    expect(run(scheduler)).toEqual([[1, 1]]);
    expect(second.status).toBe("waiting");
    expect(scheduler.numPreemptions).toBe(1);
    scheduler.finish(first);
    expect(run(scheduler)).toEqual([
      [2, 13],
      [3, 4],
    ]); // prettier-ignore
  });

  it("does not admit a newcomer whose prompt does not fit beside what the running ones still need", () => {
    const scheduler = new Scheduler({ ...OPTIONS, numBlocks: 16 });
    scheduler.add(newSequence(range(0, 40))); // 10 blocks, 8 of them now
    scheduler.add(newSequence(range(100, 24)));
    expect(run(scheduler)).toEqual([[1, 32]]);
    expect(run(scheduler)).toEqual([[1, 8]]); // 6 left, but one is kept to grow into
    expect(scheduler.numWaiting).toBe(1);
  });

  it("passes over sequences that await a token, so that the next step can be scheduled while one is in flight", () => {
    const scheduler = new Scheduler(OPTIONS);
    const [a, b] = [newSequence(range(0, 4)), newSequence(range(10, 4))];
    scheduler.add(a);
    const first = scheduler.schedule()!;
    scheduler.add(b);
    const second = scheduler.schedule()!;
    expect(second.seqs).toEqual([b]);
    expect(scheduler.schedule()).toBeUndefined();
    scheduler.update(first, Int32Array.of(7));
    expect(Array.from(a.tokens.subarray(0, a.numTokens))).toEqual([0, 1, 2, 3, 7]);
    expect(scheduler.schedule()!.seqs).toEqual([a]);
    scheduler.update(second, Int32Array.of(8));
    scheduler.checkIntegrity();
  });

  it("computes a sequence preempted in flight anew only when its token has come", () => {
    const scheduler = new Scheduler({ ...OPTIONS, numBlocks: 4, enablePrefixCaching: false });
    const [older, younger] = [newSequence(range(0, 7)), newSequence(range(10, 4))];
    scheduler.add(older);
    run(scheduler);
    scheduler.add(younger);
    const first = scheduler.schedule()!; // fills both blocks of `older` and samples for both
    older.append(1); // its token came earlier than that of `younger`
    scheduler.schedule();
    older.append(1);
    expect(younger.status).toBe("running");
    for (let i = 0; i < 4; i++) {
      scheduler.schedule();
      older.append(1);
    }
    expect(younger.status).toBe("waiting"); // `older` took the last block, in flight or not
    scheduler.finish(older);
    expect(scheduler.schedule()).toBeUndefined();
    scheduler.update(first, Int32Array.of(1, 9));
    expect(younger.numTokens).toBe(5);
    expect(run(scheduler)).toEqual([[2, 5]]);
  });

  it("computes a sequence anew that has grown past a length beyond which its keys are others", () => {
    const scheduler = new Scheduler({ ...OPTIONS, rebuiltBeyond: [9] });
    const seq = newSequence(range(0, 8));
    scheduler.add(seq);
    expect([run(scheduler), run(scheduler), run(scheduler), run(scheduler)]).toEqual([
      [[1, 8]],
      [[1, 1]], // nine tokens
      [[1, 10]], // from the first token on: what is in the prefix cache is of the other kind
      [[1, 1]],
    ]); // prettier-ignore
    expect(scheduler.numPreemptions).toBe(1);
    // Others find what is of their kind.
    scheduler.add(newSequence([...range(0, 8), 1]));
    expect(run(scheduler)).toEqual([
      [1, 1],
      [2, 1],
    ]); // prettier-ignore
    scheduler.add(newSequence([...range(0, 8), 1, 1, 2]));
    expect(run(scheduler).at(-1)).toEqual([3, 3]);
  });

  it("does not compute anew what ends with the token that takes it past such a length", () => {
    const scheduler = new Scheduler({ ...OPTIONS, rebuiltBeyond: [4] });
    const seq = newSequence(range(0, 4));
    scheduler.add(seq);
    run(scheduler);
    scheduler.finish(seq);
    expect(scheduler.isIdle).toBe(true);
    expect(scheduler.blocks.numFreeBlocks).toBe(64);
    scheduler.checkIntegrity();
  });

  it("drops the token of a sequence aborted in flight and frees its blocks at once", () => {
    const scheduler = new Scheduler(OPTIONS);
    const seq = newSequence(range(0, 4));
    scheduler.add(seq);
    const step = scheduler.schedule()!;
    scheduler.finish(seq);
    expect(scheduler.blocks.numFreeBlocks).toBe(64);
    scheduler.update(step, Int32Array.of(7));
    expect(seq.numTokens).toBe(4);
    expect(scheduler.isIdle).toBe(true);
    scheduler.checkIntegrity();
  });

  it("names a queue or a sequence that does not add up", () => {
    const scheduler = new Scheduler(OPTIONS);
    const seq = newSequence(range(0, 4));
    scheduler.add(seq);
    run(scheduler);
    seq.status = "waiting";
    expect(() => scheduler.checkIntegrity()).toThrow("internal: sequence 1 among the running is waiting");
    seq.status = "running";
    seq.numComputedTokens = 40;
    expect(() => scheduler.checkIntegrity()).toThrow("more tokens computed than known");
  });
});

describe("BatchBuilder", () => {
  it("lists counts and biases only of the rows that use them, and bans ends until minTokens", () => {
    const scheduler = new Scheduler(OPTIONS);
    const builder = new BatchBuilder(OPTIONS);
    scheduler.add(newSequence([3, 4]));
    scheduler.add(newSequence([5, 6, 5], { repetitionPenalty: 1.5, logitBias: { 9: 2 } }));
    scheduler.add(newSequence([7], { presencePenalty: 1, minTokens: 1, stopTokenIds: [9], logitBias: { 9: 2, 8: 1 } }));
    const rows = (step: ScheduledStep) => {
      const batch = builder.build(step);
      const entries = Array.from({ length: batch.sampleTokens.length / 2 }, (_, i) => {
        const id = batch.sampleTokens[2 * i]!;
        return [
          id,
          batch.sampleTokens[2 * i + 1]!,
          new Float32Array(batch.sampleTokens.slice(2 * i + 1, 2 * i + 2).buffer)[0]!,
        ] as const;
      });
      return Array.from(batch.sampleRows, (_, s) => {
        const int = (name: keyof typeof SAMPLE_INTS): number => batch.sampleInts[s * SAMPLE_INTS_WIDTH + SAMPLE_INTS[name]]!;
        return {
          counter: int("counter"),
          tokens: entries.slice(int("tokensBegin"), int("tokensEnd")).map(([id, count]) => [id, count]),
          bias: entries.slice(int("biasBegin"), int("biasEnd")).map(([id, , bias]) => [id, bias]),
        };
      });
    };
    const first = scheduler.schedule()!;
    expect(rows(first)).toEqual([
      { counter: 0, tokens: [], bias: [] },
      {
        counter: 0,
        tokens: [
          [5, 0],
          [6, 0],
        ],
        bias: [[9, 2]],
      }, // prettier-ignore
      {
        counter: 0,
        tokens: [],
        bias: [
          [8, 1],
          [9, Number.NEGATIVE_INFINITY],
        ],
      }, // prettier-ignore
    ]);
    scheduler.update(first, Int32Array.of(5, 5, 5));
    expect(rows(scheduler.schedule()!)).toEqual([
      { counter: 1, tokens: [], bias: [] },
      {
        counter: 1,
        tokens: [
          [5, 1],
          [6, 0],
        ],
        bias: [[9, 2]],
      }, // prettier-ignore
      {
        counter: 1,
        tokens: [[5, 1]],
        bias: [
          [8, 1],
          [9, 2],
        ],
      }, // prettier-ignore
    ]);
  });

  it("gives two batches of buffers in turn, so that one can be read while the next is built", () => {
    const scheduler = new Scheduler(OPTIONS);
    const builder = new BatchBuilder(OPTIONS);
    scheduler.add(newSequence([3, 4]));
    const first = builder.build(scheduler.schedule()!);
    scheduler.add(newSequence([5, 6]));
    builder.build(scheduler.schedule()!);
    expect(Array.from(first.tokenIds)).toEqual([3, 4]);
  });

  it("carries 64-bit seeds, negative ones included", () => {
    const seedOf = (seed: number, index: number): bigint => {
      const { seedLow, seedHigh } = new SamplingState(samplingParams({ seed }), index, [1], []);
      return (BigInt(seedHigh) << 32n) | BigInt(seedLow >>> 0);
    };
    expect(seedOf(Number.MAX_SAFE_INTEGER, 0)).toBe(BigInt(Number.MAX_SAFE_INTEGER));
    expect(seedOf(2 ** 32 - 1, 1)).toBe(2n ** 32n);
    expect(seedOf(-1, 0)).toBe(-1n);
    expect(seedOf(-1, 1)).toBe(0n);
  });
});

describe("random arrivals and cancellations", () => {
  for (const [name, options, lag] of [
    ["with room", { numBlocks: 512 }, 0],
    ["short of blocks", { numBlocks: 48, maxNumBatchedTokens: 24 }, 0],
    ["short of blocks, two steps ahead of the device", { numBlocks: 48 }, 2],
    ["with keys that change as sequences grow", { numBlocks: 512, rebuiltBeyond: [20, 40] }, 2],
    ["with keys that change, short of blocks", { numBlocks: 48, maxNumBatchedTokens: 24, rebuiltBeyond: [20, 40] }, 0],
    ["running ahead", { numBlocks: 512, depth: 2 }, 1],
    ["running ahead, short of blocks", { numBlocks: 48, maxNumBatchedTokens: 24, depth: 2 }, 1],
    ["running ahead, short of blocks, without a prefix cache", { numBlocks: 48, depth: 2, enablePrefixCaching: false }, 1],
    ["running ahead with keys that change", { numBlocks: 56, rebuiltBeyond: [20, 40], depth: 2 }, 1],
  ] as const) {
    it(`keep everything whole over 10,000 steps ${name}`, { timeout: 60_000 }, () => {
      const device = new FakeDevice({ blockSize: 4, maxNumSeqs: 16, maxNumBatchedTokens: 48, maxModelLen: 96, ...options });
      const scheduler = new Scheduler({ ...OPTIONS, maxNumSeqs: 16, maxNumBatchedTokens: 48, ...options });
      const builder = new BatchBuilder(device);
      let state = 12345;
      const random = (n: number): number => {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        return Math.floor((state / 2 ** 32) * n);
      };
      const systemPrompts = range(0, 3).map(() => Array.from({ length: 30 }, () => random(64)));
      const wanted = new Map<Sequence, number>();
      const inFlight: { step: ScheduledStep; tokenIds: Int32Array }[] = [];
      let steps = 0;
      let finished = 0;
      let forwards = 0;
      const report = (): void => {
        const { step, tokenIds } = inFlight.shift()!;
        scheduler.update(step, tokenIds);
        if (step.isForward && step.seqs[0]!.status !== "finished" && step.seqs[0]!.numUncomputedTokens === 0) {
          scheduler.finish(step.seqs[0]!);
          forwards++;
        }
        for (const seq of step.sampled) {
          if (seq.status === "finished" || seq.numOutputTokens < wanted.get(seq)!) continue;
          scheduler.finish(seq);
          wanted.delete(seq);
          finished++;
          // Every token is what the model says after the tokens before it.
          for (let p = seq.numPromptTokens; p < seq.numTokens; p++) {
            const logits = hashLogits(Array.from(seq.tokens.subarray(0, p)), 64, kvKind(p, device.rebuiltBeyond));
            if (logits[seq.tokens[p]!] !== Math.max(...logits)) expect.fail(`token ${p} of sequence ${seq.arrival} is wrong`);
          }
        }
      };
      while (steps < 10_000) {
        if (scheduler.numWaiting < 20 && random(3) === 0) {
          const shared = random(2) === 0 ? systemPrompts[random(3)]!.slice(0, random(31)) : [];
          const prompt = [...shared, ...Array.from({ length: 1 + random(30) }, () => random(64))];
          if (random(20) === 0) {
            scheduler.addForward(new Sequence({ promptTokenIds: prompt, sampling: undefined }));
          } else {
            const length = 1 + random(30);
            // The end of some is known beforehand, that of others comes as a surprise.
            const seq = newSequence(prompt, length % 2 === 0 ? { maxTokens: length } : {});
            wanted.set(seq, length);
            scheduler.add(seq);
          }
        }
        if (wanted.size > 0 && random(12) === 0) {
          const victim = [...wanted.keys()][random(wanted.size)]!;
          scheduler.finish(victim);
          wanted.delete(victim);
          scheduler.checkIntegrity();
        }
        const step =
          random(2) === 0
            ? (scheduler.schedule() ?? scheduler.scheduleForward())
            : (scheduler.scheduleForward() ?? scheduler.schedule());
        if (step !== undefined) {
          steps++;
          scheduler.checkIntegrity();
          const { tokenIds } = device.run(builder.build(step), step.isForward ? ["logits"] : []);
          inFlight.push({ step, tokenIds });
        } else if (inFlight.length === 0 && !scheduler.isIdle) expect.fail("nothing can be scheduled, yet there is work");
        while (inFlight.length > (step === undefined ? 0 : lag)) report();
        scheduler.checkIntegrity();
      }
      expect(finished).toBeGreaterThan(300);
      expect(forwards).toBeGreaterThan(20);
      if (!("enablePrefixCaching" in options)) expect(scheduler.prefixCacheHits).toBeGreaterThan(1000);
      if ("depth" in options) expect(device.numPlaceholders).toBeGreaterThan(10_000);
      if (options.numBlocks < 512) expect(scheduler.numPreemptions).toBeGreaterThan(20);
    });
  }
});
