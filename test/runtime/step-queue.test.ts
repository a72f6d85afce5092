import { afterEach, describe, expect, it, vi } from "vitest";
import type { StepResult } from "../../runtime/batch.ts";
import type { ScheduledStep } from "../../runtime/scheduler/scheduler.ts";
import { Sequence } from "../../runtime/scheduler/sequence.ts";
import { StepQueue } from "../../runtime/step-queue.ts";
import { FakeDevice } from "../support/fake-device.ts";

const sequence = new Sequence({ promptTokenIds: [1], sampling: undefined });
const step = (id: number): ScheduledStep => ({
  id,
  seqs: [sequence],
  starts: [0],
  numTokens: [1],
  numBatchedTokens: 1,
  sampled: [],
  isForward: true,
});

/** A queue whose device answers when it is told to, and a clock. */
function controlled(depth: 1 | 2) {
  const device = new FakeDevice({ depth });
  const answers: { resolve: (result: StepResult) => void; reject: (error: Error) => void }[] = [];
  device.step = () => new Promise((resolve, reject) => answers.push({ resolve, reject }));
  const clock = { ms: 100 };
  vi.spyOn(performance, "now").mockImplementation(() => clock.ms);
  const result = { ms: 5 } as StepResult;
  return { queue: new StepQueue(device), answers, clock, result };
}

afterEach(() => vi.restoreAllMocks());

describe("StepQueue", () => {
  it("counts all that the host does between two steps of a device of depth 1, but not what passes before it is asked to begin", async () => {
    const { queue, answers, clock, result } = controlled(1);
    for (let n = 1; n <= 3; n++) {
      queue.begin();
      clock.ms += 2;
      queue.push(step(n), undefined);
      expect(queue.isFull).toBe(true);
      clock.ms += 5;
      answers.shift()!.resolve(result);
      await queue.take(() => {
        clock.ms += 1;
      });
      clock.ms += 10;
    }
    expect(queue).toMatchObject({ deviceMs: 15, hostMs: 9, isEmpty: true });
  });

  it("counts only what a device of depth 2 did not hide", async () => {
    const { queue, answers, clock, result } = controlled(2);
    queue.begin();
    clock.ms += 2; // before the first step nothing hides it
    queue.push(step(1), undefined);
    for (let n = 2; n <= 4; n++) {
      queue.begin();
      clock.ms += 2;
      queue.push(step(n), undefined);
      clock.ms += 2;
      answers.shift()!.resolve(result);
      await queue.take(() => {
        clock.ms += 1;
      });
    }
    clock.ms += 5;
    answers.shift()!.resolve(result);
    await queue.take(() => {
      clock.ms += 1; // nor behind the last
    });
    expect(queue).toMatchObject({ deviceMs: 20, hostMs: 3, isEmpty: true });
  });

  it("takes results in order and leaves an error to the step it is of", async () => {
    const { queue, answers, result } = controlled(2);
    queue.push(step(1), undefined);
    queue.push(step(2), undefined);
    answers[1]!.reject(new Error("out of luck"));
    await new Promise((resolve) => setImmediate(resolve)); // an unhandled rejection would end the process here
    answers[0]!.resolve(result);
    const taken: number[] = [];
    await queue.take(({ id }) => taken.push(id));
    await expect(queue.take(({ id }) => taken.push(id))).rejects.toThrow("out of luck");
    expect(taken).toEqual([1]);
    expect(queue.isEmpty).toBe(true);
  });

  it("waits for all that is in flight when a step has failed", async () => {
    const { queue, answers, result } = controlled(2);
    queue.push(step(1), undefined);
    queue.push(step(2), undefined);
    answers[0]!.reject(new Error("out of luck"));
    await expect(queue.take(() => {})).rejects.toThrow("out of luck");
    let isSettled = false;
    const settled = queue.settle().then(() => {
      isSettled = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(isSettled).toBe(false);
    answers[1]!.resolve(result);
    await settled;
    expect(queue.isEmpty).toBe(true);
  });
});
