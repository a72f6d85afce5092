/**
 * A device without a model: its next token depends on every token of the visible context, read back through the block tables from a
 * cache that holds what earlier steps wrote. A wrong table, slot, position or a block shared too early changes the output or throws.
 */
import {
  type Batch,
  type Device,
  kvKind,
  MAX_LOGPROBS,
  SAMPLE_FLOATS,
  SAMPLE_FLOATS_WIDTH,
  SAMPLE_INTS,
  SAMPLE_INTS_WIDTH,
  type StepResult,
} from "../../runtime/batch.ts";
import { checkBatch } from "../../runtime/batch-check.ts";

export interface FakeDeviceOptions {
  readonly blockSize?: number;
  readonly numBlocks?: number;
  readonly maxModelLen?: number;
  readonly maxNumSeqs?: number;
  readonly maxNumBatchedTokens?: number;
  readonly vocabSize?: number;
  readonly rebuiltBeyond?: readonly number[];
  /** Default 1. */
  readonly depth?: 1 | 2;
  /** Replaces the hash: the logits after `context`. */
  readonly logits?: (context: readonly number[]) => ArrayLike<number>;
  /** Called while each step runs, before it reads its batch; may throw or wait. */
  readonly during?: (step: number) => void | Promise<void>;
}

export function mix(a: number, b: number): number {
  let h = Math.imul(a ^ (b + 0x9e3779b9), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** Logits after `context` as keys of `kind` (`kvKind`) make them. */
export function hashLogits(context: readonly number[], vocabSize: number, kind = 0): Float32Array {
  let h = 1 + kind;
  for (const id of context) h = mix(h, id);
  return Float32Array.from({ length: vocabSize }, (_, v) => (mix(h, v) / 2 ** 32) * 8);
}

function expect(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`bad batch: ${message}`);
}

export class FakeDevice implements Device {
  readonly blockSize: number;
  readonly numBlocks: number;
  readonly maxModelLen: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly vocabSize: number;
  readonly rebuiltBeyond: readonly number[];
  readonly depth: 1 | 2;
  /** Batches as they were run, without their arrays' sharing. */
  readonly log: { readonly numTokens: number; readonly numSeqs: number; readonly numSamples: number }[] = [];
  /** Token ids that came as placeholders. */
  numPlaceholders = 0;
  /** Most steps that were here at once. */
  mostInFlight = 0;
  readonly #options: FakeDeviceOptions;
  readonly #kvTokens: Int32Array;
  readonly #kvKinds: Int32Array;
  readonly #writtenIn: Int32Array;
  readonly #writer: Int32Array;
  #steps = 0;
  #numInFlight = 0;
  #last: Promise<unknown> = Promise.resolve();
  #sampledIds = new Int32Array(0); // of the step before

  constructor(options: FakeDeviceOptions = {}) {
    this.#options = options;
    this.blockSize = options.blockSize ?? 4;
    this.numBlocks = options.numBlocks ?? 512;
    this.maxModelLen = options.maxModelLen ?? 512;
    this.maxNumSeqs = options.maxNumSeqs ?? 128;
    this.maxNumBatchedTokens = options.maxNumBatchedTokens ?? 256;
    this.vocabSize = options.vocabSize ?? 64;
    this.rebuiltBeyond = options.rebuiltBeyond ?? [];
    this.depth = options.depth ?? 1;
    const slots = this.numBlocks * this.blockSize;
    this.#kvTokens = new Int32Array(slots).fill(-1);
    this.#kvKinds = new Int32Array(slots);
    this.#writtenIn = new Int32Array(slots);
    this.#writer = new Int32Array(slots);
  }

  get steps(): number {
    return this.#steps;
  }

  step(batch: Batch, taps: readonly string[] = []): Promise<StepResult> {
    const result = this.#stepAfter(this.#last, batch, taps);
    this.#last = result.catch(() => {});
    return result;
  }

  async #stepAfter(last: Promise<unknown>, batch: Batch, taps: readonly string[]): Promise<StepResult> {
    expect(this.#numInFlight < this.depth, `${this.#numInFlight + 1} steps at once`);
    this.#numInFlight++;
    this.mostInFlight = Math.max(this.mostInFlight, this.#numInFlight);
    try {
      const before = structuredClone(batch);
      if (this.#numInFlight > 1) await last;
      await this.#options.during?.(this.#steps + 1);
      await Promise.resolve();
      expect(JSON.stringify(before) === JSON.stringify(batch), "it changed while the step was running");
      return this.run(batch, taps);
    } finally {
      this.#numInFlight--;
    }
  }

  /** The step itself, at once. */
  run(batch: Batch, taps: readonly string[] = []): StepResult {
    const step = ++this.#steps;
    checkBatch(batch, this, this.#sampledIds.length); // what a real engine insists on
    this.#check(batch);
    const { positions, seqIds, seqLens } = batch;
    // A row that had no token to sample is computed on as any other: nobody reads what comes of it.
    const tokenIds = batch.tokenIds.map((id) => (id < 0 ? Math.max(0, this.#sampledIds[-1 - id]!) : id));
    this.numPlaceholders += batch.tokenIds.filter((id) => id < 0).length;
    const T = tokenIds.length;
    const kindOf = (seq: number): number => kvKind(seqLens[seq]!, this.rebuiltBeyond);
    this.log.push({ numTokens: T, numSeqs: batch.numSeqs, numSamples: batch.sampleRows.length });
    for (let t = 0; t < T; t++) {
      const slot = this.#slot(batch, seqIds[t]!, positions[t]!);
      expect(this.#writtenIn[slot] !== step || this.#writer[slot] === seqIds[t], `slot ${slot} is written by two sequences`);
      this.#kvTokens[slot] = tokenIds[t]!;
      this.#kvKinds[slot] = kindOf(seqIds[t]!);
      this.#writtenIn[slot] = step;
      this.#writer[slot] = seqIds[t]!;
    }
    const S = batch.sampleRows.length;
    const result = {
      tokenIds: new Int32Array(S),
      logprobs: new Float32Array(S).fill(Number.NaN),
      topIds: new Int32Array(S * MAX_LOGPROBS),
      topLogprobs: new Float32Array(S * MAX_LOGPROBS).fill(Number.NaN),
      ms: 0.01,
      taps: new Map<string, Float32Array>(),
    };
    const kinds = Array.from(batch.sampleRows, (row) => kindOf(seqIds[row]!));
    const contexts = Array.from(batch.sampleRows, (row, s) =>
      this.#context(batch, seqIds[row]!, positions[row]!, step, kinds[s]!),
    );
    const rawLogits = contexts.map((context, s) => this.logitsAfter(context, kinds[s]));
    for (let s = 0; s < S; s++) this.#sample(batch, s, Float64Array.from(rawLogits[s]!), result);
    this.#sampledIds = result.tokenIds.slice();
    for (const name of taps) {
      if (name === "logits") result.taps.set(name, Float32Array.from(rawLogits.flatMap((row) => Array.from(row))));
      else
        result.taps.set(
          name,
          Float32Array.from(contexts.flatMap((context) => [Number(name.split(".")[1]), context.length, context.at(-1)!])),
        );
    }
    return result;
  }

  logitsAfter(context: readonly number[], kind = 0): ArrayLike<number> {
    return this.#options.logits?.(context) ?? hashLogits(context, this.vocabSize, kind);
  }

  #slot(batch: Batch, seq: number, position: number): number {
    const block = batch.blockTables[seq * batch.blocksPerSeq + Math.floor(position / this.blockSize)]!;
    return block * this.blockSize + (position % this.blockSize);
  }

  #context(batch: Batch, seq: number, position: number, step: number, kind: number): number[] {
    const context: number[] = [];
    for (let p = 0; p <= position; p++) {
      const slot = this.#slot(batch, seq, p);
      const id = this.#kvTokens[slot]!;
      expect(id >= 0, `position ${p} was never written`);
      expect(this.#kvKinds[slot] === kind, `position ${p} holds a key of kind ${this.#kvKinds[slot]}, not ${kind}`);
      expect(
        this.#writtenIn[slot] !== step || this.#writer[slot] === seq,
        `position ${p} is read in the step in which another writes it`,
      );
      context.push(id);
    }
    return context;
  }

  #check(batch: Batch): void {
    const { tokenIds, positions, seqIds, seqLens, blockTables, numSeqs, blocksPerSeq, sampleRows } = batch;
    const T = tokenIds.length;
    const S = sampleRows.length;
    expect(T > 0 && T <= this.maxNumBatchedTokens, `${T} tokens`);
    expect(positions.length === T && seqIds.length === T, "T");
    expect(numSeqs > 0 && numSeqs <= this.maxNumSeqs, `${numSeqs} sequences`);
    expect(blockTables.length === numSeqs * blocksPerSeq, "block tables");
    expect(S <= this.maxNumSeqs, `${S} sampled rows`);
    expect(batch.sampleFloats.length === S * SAMPLE_FLOATS_WIDTH && batch.sampleInts.length === S * SAMPLE_INTS_WIDTH, "samples");
    const ends = new Int32Array(numSeqs).fill(-1);
    for (let t = 0; t < T; t++) {
      const id = tokenIds[t]!;
      expect(id >= -this.#sampledIds.length && id < this.vocabSize, `token id ${id}`);
      expect(positions[t]! < this.maxModelLen, `position ${positions[t]}`);
      const first = t === 0 || seqIds[t] !== seqIds[t - 1];
      expect(seqIds[t] === (t === 0 ? 0 : seqIds[t - 1]! + (first ? 1 : 0)), "sequences are not in order");
      expect(first || positions[t] === positions[t - 1]! + 1, "positions of a sequence are not consecutive");
      ends[seqIds[t]!] = positions[t]!;
    }
    for (let b = 0; b < numSeqs; b++) {
      expect(ends[b]! >= 0, `sequence ${b} has no tokens`);
      expect(seqLens[b]! > ends[b]!, `sequence ${b} has ${seqLens[b]} tokens, ${ends[b]! + 1} of them computed`);
      const used = Math.floor(ends[b]! / this.blockSize) + 1;
      const row = Array.from(blockTables.subarray(b * blocksPerSeq, (b + 1) * blocksPerSeq));
      expect(
        row.slice(0, used).every((block) => block >= 0 && block < this.numBlocks),
        `block table ${row}`,
      );
      expect(new Set(row.slice(0, used)).size === used, `block table ${row} names a block twice`);
      expect(
        row.slice(used).every((block) => block === 0),
        `block table ${row} is not padded with 0 after ${used}`,
      );
    }
    for (let s = 0; s < S; s++) expect(sampleRows[s]! < T && (s === 0 || sampleRows[s]! > sampleRows[s - 1]!), "sample rows");
  }

  #sample(batch: Batch, s: number, logits: Float64Array, result: StepResult): void {
    const float = (name: keyof typeof SAMPLE_FLOATS): number =>
      batch.sampleFloats[s * SAMPLE_FLOATS_WIDTH + SAMPLE_FLOATS[name]]!;
    const int = (name: keyof typeof SAMPLE_INTS): number => batch.sampleInts[s * SAMPLE_INTS_WIDTH + SAMPLE_INTS[name]]!;
    for (let e = int("tokensBegin"); e < int("tokensEnd"); e++) {
      const id = batch.sampleTokens[e * 2]!;
      const count = batch.sampleTokens[e * 2 + 1]!;
      const r = float("repetitionPenalty");
      logits[id] = logits[id]! > 0 ? logits[id]! / r : logits[id]! * r;
      if (count > 0) logits[id] = logits[id]! - float("presencePenalty") - count * float("frequencyPenalty");
    }
    for (let e = int("biasBegin"); e < int("biasEnd"); e++) {
      logits[batch.sampleTokens[e * 2]!]! += new Float32Array(Int32Array.of(batch.sampleTokens[e * 2 + 1]!).buffer)[0]!;
    }
    let sum = 0;
    for (const x of logits) sum += Math.exp(x);
    const logSum = Math.log(sum);
    const temperature = float("temperature");
    const seed = mix(mix(int("seedLow"), int("seedHigh")), int("counter"));
    let best = -1; // NaN everywhere, or everything banned
    let bestScore = Number.NEGATIVE_INFINITY;
    for (let v = 0; v < logits.length; v++) {
      // Gumbel noise makes the largest score a draw from softmax(logits / temperature).
      const noise = temperature === 0 ? 0 : -Math.log(-Math.log((mix(seed, v) + 0.5) / 2 ** 32));
      const score = logits[v]! / (temperature === 0 ? 1 : temperature) + noise;
      if (score > bestScore) [best, bestScore] = [v, score];
    }
    result.tokenIds[s] = best;
    if (int("numLogprobs") === 0) return;
    result.logprobs[s] = logits[best]! - logSum;
    const order = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]!);
    for (let i = 0; i < Math.min(int("numLogprobs") - 1, order.length); i++) {
      result.topIds[s * MAX_LOGPROBS + i] = order[i]!;
      result.topLogprobs[s * MAX_LOGPROBS + i] = logits[order[i]!]! - logSum;
    }
  }
}

/** A tokenizer whose text of an id is `pieces[id]`, or a letter. */
export function fakeTokenizer(pieces?: readonly string[]) {
  return {
    stream: (_options: { readonly skipSpecialTokens: boolean }) => ({
      push: (id: number): string => pieces?.[id] ?? String.fromCharCode(0x61 + (id % 26)),
      flush: (): string => "",
    }),
  };
}
