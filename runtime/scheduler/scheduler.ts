/**
 * Continuous batching: decides, step by step, which tokens of which sequences run, and where their keys and values live.
 *
 * Decodes go first, then prefills already begun, then newcomers, each in order of arrival, under a token budget; a prefill takes what
 * is left of the budget and goes on in the next step. When blocks run out the latest arrival gives its own back and is computed anew
 * later; so does a sequence that has grown past a length beyond which its keys are others. Nothing here waits or talks to a device.
 * State moves when a step is *scheduled*, so `schedule` may be called again before the step has reported back. A sequence whose sampled
 * token is then still on the device is passed over, or, on a device of depth 2, runs ahead:
 *   - the next step computes the token under a placeholder, an id that names its row, until the step before reports back. A block that a
 *     placeholder fills is found in the prefix cache only from then on;
 *   - it is passed over all the same when the device alone cannot go on: penalties count the token; it is the last by `maxTokens`, or takes
 *     the sequence past a length beyond which its keys are others; its place would cost another sequence a block. Biases, `minTokens`
 *     among them, depend on how many tokens there are and need not wait;
 *   - one that its token ends (EOS, a stop string) has run a step too far, whose row is ignored. Its blocks are free at once.
 * Chunks of a forward pass wait for each other. Where no more sequences would be taken than passed over, the whole step waits: two
 * half-empty steps in turn take twice the time of a full one.
 *
 * The device must run steps in the order they were scheduled: blocks freed while a step is in flight are handed out at once.
 */
import { kvKind } from "../batch.ts";
import { invariant } from "../errors.ts";
import { BlockManager } from "./block-manager.ts";
import type { Sequence } from "./sequence.ts";

export interface SchedulerOptions {
  readonly numBlocks: number;
  readonly blockSize: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  /** As the device says it. */
  readonly rebuiltBeyond: readonly number[];
  /** Steps that the device takes at once; default 1: nothing runs ahead. */
  readonly depth?: 1 | 2;
  readonly enablePrefixCaching: boolean;
  /** Isolates this engine's prefix cache keys from those of others. */
  readonly salt: string;
}

/** One step's plan: `numTokens[i]` tokens of `seqs[i]` from position `starts[i]` on. */
export interface ScheduledStep {
  readonly id: number;
  readonly seqs: readonly Sequence[];
  readonly starts: readonly number[];
  readonly numTokens: readonly number[];
  readonly numBatchedTokens: number;
  /** Sequences that get a token from this step, in the order of the device's rows; empty in a forward step. */
  readonly sampled: readonly Sequence[];
  /** Every row gives logits (a forward step) or only the last row of each sequence in `sampled`. */
  readonly isForward: boolean;
}

export class Scheduler {
  readonly blocks: BlockManager;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly #rebuiltBeyond: readonly number[];
  readonly #depth: 1 | 2;
  // Both in order of arrival.
  readonly #waiting: Sequence[] = [];
  readonly #running: Sequence[] = [];
  /** Sequences that are only scored, one at a time; the first may hold blocks. */
  readonly #forwards: Sequence[] = [];
  #numArrivals = 0;
  #numSteps = 0;
  #numPreemptions = 0;
  #prefixCacheQueries = 0;
  #prefixCacheHits = 0;

  constructor(options: SchedulerOptions) {
    this.blocks = new BlockManager(options);
    this.maxNumSeqs = options.maxNumSeqs;
    this.maxNumBatchedTokens = options.maxNumBatchedTokens;
    this.#rebuiltBeyond = options.rebuiltBeyond;
    this.#depth = options.depth ?? 1;
  }

  get numWaiting(): number {
    return this.#waiting.length;
  }
  get numRunning(): number {
    return this.#running.length;
  }
  get numForwards(): number {
    return this.#forwards.length;
  }
  /** Whether nothing is left to schedule or await. */
  get isIdle(): boolean {
    return this.#waiting.length + this.#running.length + this.#forwards.length === 0;
  }
  get numPreemptions(): number {
    return this.#numPreemptions;
  }
  get numSteps(): number {
    return this.#numSteps;
  }
  /** Prompt tokens looked up in the prefix cache. */
  get prefixCacheQueries(): number {
    return this.#prefixCacheQueries;
  }
  /** Prompt tokens found there. */
  get prefixCacheHits(): number {
    return this.#prefixCacheHits;
  }

  /** Most tokens whose keys and values fit when a sequence has the cache for itself. */
  get maxCachedTokens(): number {
    return this.blocks.numBlocks * this.blocks.blockSize;
  }

  /** Queues a sequence. The caller sees to it that prompt and output fit in `maxCachedTokens`, or it could never finish. */
  add(seq: Sequence): void {
    invariant(seq.sampling !== undefined, "a sequence without sampling settings was queued for generation");
    invariant(seq.numTokens > 0 && seq.numTokens <= this.maxCachedTokens, `a sequence of ${seq.numTokens} tokens was queued`);
    seq.arrival = ++this.#numArrivals;
    seq.kvKind = kvKind(seq.numTokens, this.#rebuiltBeyond);
    this.#waiting.push(seq);
  }

  /** Queues a sequence whose tokens are only scored: it samples nothing and leaves nothing in the prefix cache. */
  addForward(seq: Sequence): void {
    invariant(seq.numTokens > 0 && seq.numTokens <= this.maxCachedTokens, `a sequence of ${seq.numTokens} tokens was queued`);
    seq.arrival = ++this.#numArrivals;
    this.#forwards.push(seq);
  }

  /** Ends a sequence, finished or aborted, at any moment, also while its step is in flight; its blocks are free at once. */
  finish(seq: Sequence): void {
    if (seq.status === "finished") return;
    const queue = seq.sampling === undefined ? this.#forwards : seq.status === "running" ? this.#running : this.#waiting;
    const at = queue.indexOf(seq);
    invariant(at >= 0, `sequence ${seq.arrival} is ${seq.status} but not in its queue`);
    queue.splice(at, 1);
    seq.status = "finished";
    if (seq.isAhead) seq.numTokens--; // its token is not waited for
    this.blocks.free(seq);
  }

  /** The next generation step, or undefined when nothing can run now, or not before the step in flight has reported back. */
  schedule(): ScheduledStep | undefined {
    const step = new StepPlan(this.#numSteps + 1);
    if (this.#depth === 2 && this.#mostWait(step.id)) return undefined;
    let budget = this.maxNumBatchedTokens;
    const preemptionsBefore = this.#numPreemptions;

    // 1. Decodes. A victim is always later in line than its taker, hence not in this step yet.
    const running = this.#running;
    for (let i = 0; i < running.length && budget > 0; i++) {
      const seq = running[i]!;
      if (this.#runsAhead(seq, step.id)) {
        if (!this.blocks.allocate(seq, seq.numTokens + 1)) continue; // the step in flight may end what frees a block
        seq.runAhead();
      } else {
        if (seq.numUncomputedTokens !== 1) continue;
        if (!this.#allocateByPreempting(seq, seq.numTokens, step.id)) break; // it was the last in line itself
      }
      this.#commit(step, seq, 1);
      budget--;
    }

    // 2. Prefills already begun.
    let outstanding = 0; // blocks that running prefills will still ask for
    for (let i = 0; i < running.length; i++) {
      const seq = running[i]!;
      if (seq.lastStep === step.id || seq.numUncomputedTokens === 0) continue;
      let n = Math.min(seq.numUncomputedTokens, budget);
      if (n > 0 && !this.#allocateByPreempting(seq, seq.numComputedTokens + n, step.id)) {
        if (seq.status === "waiting") break; // it was the last in line and gave way
        const room = (seq.numBlocks + this.blocks.numFreeBlocks) * this.blocks.blockSize - seq.numComputedTokens;
        n = Math.max(0, Math.min(n, room));
        this.blocks.allocate(seq, seq.numComputedTokens + n);
      }
      if (n > 0) this.#commit(step, seq, n);
      budget -= n;
      outstanding += this.blocks.blocksFor(seq.numTokens) - seq.numBlocks;
    }

    // 3. Newcomers, unless blocks were short just now or a forward pass is waiting for blocks.
    const awaitsForward = this.#forwards.length > 0 && this.#forwards[0]!.numBlocks === 0;
    if (this.#numPreemptions === preemptionsBefore && !awaitsForward) this.#admit(step, budget, outstanding);

    if (step.seqs.length === 0) return undefined;
    this.#numSteps++;
    return step;
  }

  /** The next chunk of the oldest forward pass, every row of it sampled; undefined when there is none or blocks are lacking. */
  scheduleForward(): ScheduledStep | undefined {
    const seq = this.#forwards[0];
    if (seq === undefined || seq.numUncomputedTokens === 0 || (this.#depth === 2 && seq.numInFlight > 0)) return undefined;
    if (seq.numBlocks === 0 && !this.blocks.allocate(seq, seq.numTokens)) return undefined;
    seq.status = "running";
    const step = new StepPlan(++this.#numSteps, true);
    step.push(seq, Math.min(seq.numUncomputedTokens, seq.maxNumBatchedTokens, this.maxNumSeqs, this.maxNumBatchedTokens));
    return step;
  }

  /**
   * Takes a step's results: `tokenIds[i]` goes to `step.sampled[i]` unless that has ended meanwhile. Steps report back in order.
   * The caller then looks at the new tokens and ends what is done with `finish`.
   */
  update(step: ScheduledStep, tokenIds: Int32Array): void {
    for (const seq of step.seqs) seq.numInFlight--;
    for (let i = 0; i < step.sampled.length; i++) {
      const seq = step.sampled[i]!;
      if (seq.status === "finished") continue;
      if (seq.isAhead) {
        seq.catchUp(tokenIds[i]!);
        this.blocks.cacheFullBlocks(seq, seq.numTokens - 1, seq.numTokens, seq.lastStep);
        continue;
      }
      seq.append(tokenIds[i]!);
      const kind = kvKind(seq.numTokens, this.#rebuiltBeyond);
      if (kind === seq.kvKind) continue;
      if (seq.status === "running") this.#preempt(seq);
      seq.kvKind = kind;
      seq.blockHashes.length = 0;
    }
  }

  /** Checks queues, sequences and blocks against each other. @throws InternalError naming what is wrong. */
  checkIntegrity(): void {
    invariant(this.#running.length <= this.maxNumSeqs, `${this.#running.length} sequences run, more than ${this.maxNumSeqs}`);
    for (const [queue, status] of [
      [this.#waiting, "waiting"],
      [this.#running, "running"],
    ] as const) {
      for (const [i, seq] of queue.entries()) {
        const who = `sequence ${seq.arrival} among the ${status}`;
        invariant(seq.status === status, `${who} is ${seq.status}`);
        invariant(i === 0 || queue[i - 1]!.arrival < seq.arrival, `${who} is out of order`);
        invariant(seq.numInFlight >= 0, `${who} has ${seq.numInFlight} steps in flight`);
        invariant(seq.numComputedTokens <= seq.numTokens, `${who} has more tokens computed than known`);
        invariant(
          !seq.isAhead || (status === "running" && seq.numInFlight === 2),
          `${who} holds a placeholder with no token to come`,
        );
        const placeholder = seq.tokens.subarray(0, seq.numTokens - 1).findIndex((id) => id < 0);
        invariant(placeholder < 0, `${who} holds a placeholder at ${placeholder} of ${seq.numTokens} tokens`);
        const kind = kvKind(seq.numTokens, this.#rebuiltBeyond);
        invariant(seq.kvKind === kind, `${who} has keys of kind ${seq.kvKind}, its ${seq.numTokens} tokens want ${kind}`);
        const blocks = this.blocks.blocksFor(seq.numComputedTokens);
        invariant(seq.numBlocks === blocks, `${who} holds ${seq.numBlocks} blocks for ${seq.numComputedTokens} tokens`);
        invariant(status === "running" || seq.numBlocks === 0, `${who} holds blocks`);
        invariant(status === "waiting" || seq.numComputedTokens > 0, `${who} has nothing computed`);
      }
    }
    for (const seq of this.#forwards.slice(1))
      invariant(seq.numBlocks === 0, `forward pass ${seq.arrival} holds blocks too early`);
    this.blocks.checkIntegrity([...this.#running, ...this.#forwards]);
  }

  #admit(step: StepPlan, tokens: number, outstandingBlocks: number): void {
    let budget = tokens;
    let outstanding = outstandingBlocks;
    let at = 0;
    // A sequence may be passed over for a reason that is gone in the next step; one that lacks blocks holds up those behind it.
    while (budget > 0 && at < Math.min(this.#waiting.length, this.maxNumSeqs) && this.#running.length < this.maxNumSeqs) {
      const seq = this.#waiting[at]!;
      const match = this.blocks.matchPrefix(seq, step.id);
      if (match.isPending || seq.numInFlight > 0) {
        at++;
        continue;
      }
      const needed = this.blocks.blocksFor(seq.numTokens) - match.numBlocks;
      const available = this.blocks.numFreeBlocks - match.numFreeBlocks - outstanding;
      // One block to spare for each running sequence, or the newcomer would soon be preempted by their growth.
      if (needed + this.#running.length > available) break;
      this.#waiting.splice(at, 1);
      this.blocks.acquirePrefix(seq, match.numBlocks);
      seq.numComputedTokens = match.numBlocks * this.blocks.blockSize;
      if (seq.numCachedTokens === undefined) {
        seq.numCachedTokens = Math.min(seq.numComputedTokens, seq.numPromptTokens);
        this.#prefixCacheQueries += seq.numPromptTokens;
        this.#prefixCacheHits += seq.numCachedTokens;
      }
      const n = Math.min(seq.numUncomputedTokens, budget);
      const isAllocated = this.blocks.allocate(seq, seq.numComputedTokens + n);
      invariant(isAllocated, `sequence ${seq.arrival} was admitted without blocks`);
      seq.status = "running";
      insertByArrival(this.#running, seq);
      this.#commit(step, seq, n);
      budget -= n;
      outstanding += this.blocks.blocksFor(seq.numTokens) - seq.numBlocks;
    }
  }

  #commit(step: StepPlan, seq: Sequence, numTokens: number): void {
    const start = seq.numComputedTokens;
    step.push(seq, numTokens);
    if (!seq.isAhead) this.blocks.cacheFullBlocks(seq, start, start + numTokens, step.id);
  }

  /** Whether step `step`, scheduled now, may compute the token of `seq` that the step before samples. */
  #runsAhead(seq: Sequence, step: number): boolean {
    return (
      this.#depth === 2 &&
      awaitsToken(seq) &&
      seq.numInFlight === 1 &&
      seq.lastStep === step - 1 &&
      seq.sampling!.counts === undefined &&
      !endsWithNext(seq) &&
      kvKind(seq.numTokens + 1, this.#rebuiltBeyond) === seq.kvKind
    );
  }

  /** Whether step `step`, scheduled now, would pass over as many sequences as it took, or more. */
  #mostWait(step: number): boolean {
    let numWaiting = 0;
    let numTaken = 0;
    for (const seq of this.#running) {
      if (!awaitsToken(seq) || this.#runsAhead(seq, step)) numTaken++;
      else if (!endsWithNext(seq)) numWaiting++;
    }
    return numWaiting > 0 && numWaiting >= numTaken;
  }

  /**
   * Blocks for the first `numTokens` tokens of `seq`, taken from the latest arrivals if need be, `seq` itself last of all.
   * Sequences that are already in step `step` are left alone. False when that was not enough.
   */
  #allocateByPreempting(seq: Sequence, numTokens: number, step: number): boolean {
    while (!this.blocks.allocate(seq, numTokens)) {
      const victim = this.#running.at(-1)!;
      if (victim.lastStep === step) return false;
      this.#preempt(victim);
      if (victim === seq) return false;
    }
    return true;
  }

  /** Takes its blocks from a running sequence; it waits to be computed anew. */
  #preempt(seq: Sequence): void {
    this.#running.splice(this.#running.lastIndexOf(seq), 1);
    this.blocks.free(seq);
    seq.numComputedTokens = 0;
    seq.status = "waiting";
    insertByArrival(this.#waiting, seq);
    this.#numPreemptions++;
  }
}

class StepPlan implements ScheduledStep {
  readonly seqs: Sequence[] = [];
  readonly starts: number[] = [];
  readonly numTokens: number[] = [];
  readonly sampled: Sequence[] = [];
  numBatchedTokens = 0;

  constructor(
    readonly id: number,
    readonly isForward = false,
  ) {}

  /** Schedules the next `n` tokens of `seq`. */
  push(seq: Sequence, n: number): void {
    this.seqs.push(seq);
    this.starts.push(seq.numComputedTokens);
    this.numTokens.push(n);
    this.numBatchedTokens += n;
    seq.numComputedTokens += n;
    seq.numInFlight++;
    seq.lastStep = this.id;
    if (!this.isForward && seq.numComputedTokens === seq.numTokens) seq.sampledRow = this.sampled.push(seq) - 1;
  }
}

/** Whether the next token of a running sequence is being sampled. */
const awaitsToken = (seq: Sequence): boolean => seq.numUncomputedTokens === 0;

/** Whether the token to come is the last one. */
const endsWithNext = (seq: Sequence): boolean => seq.numOutputTokens + 1 >= seq.maxTokens;

/** Inserts into a queue in order of arrival; both of its uses insert near an end. */
function insertByArrival(queue: Sequence[], seq: Sequence): void {
  let at = queue.length;
  while (at > 0 && queue[at - 1]!.arrival > seq.arrival) at--;
  queue.splice(at, 0, seq);
}
