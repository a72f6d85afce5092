/**
 * Turns a scheduled step into the flat arrays of `runtime/batch.ts`.
 *
 * Buffers are kept and grown, never made per step: two sets take turns, so that the next batch can be built while a step still reads
 * the last one. What a step sees are views of exactly the right length.
 */
import { type Batch, SAMPLE_FLOATS, SAMPLE_FLOATS_WIDTH, SAMPLE_INTS, SAMPLE_INTS_WIDTH } from "../batch.ts";
import type { SamplingState } from "./sampling-state.ts";
import type { ScheduledStep } from "./scheduler.ts";

interface Buffers {
  readonly tokenIds: Int32Array;
  readonly positions: Int32Array;
  readonly seqIds: Int32Array;
  readonly seqLens: Int32Array;
  readonly sampleRows: Int32Array;
  readonly sampleFloats: Float32Array;
  readonly sampleInts: Int32Array;
  blockTables: Int32Array;
  sampleTokens: Int32Array;
}

export interface BatchLimits {
  readonly blockSize: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
}

export class BatchBuilder {
  readonly #blockSize: number;
  readonly #sets: readonly [Buffers, Buffers];
  #turn = 0;

  constructor(limits: BatchLimits) {
    this.#blockSize = limits.blockSize;
    this.#sets = [allocate(limits), allocate(limits)];
  }

  /** The batch of `step`, valid until the call after the next. A forward step samples every row greedily. */
  build(step: ScheduledStep): Batch {
    const buffers = this.#sets[this.#turn]!;
    this.#turn ^= 1;
    const numSeqs = step.seqs.length;
    let blocksPerSeq = 1;
    for (let i = 0; i < numSeqs; i++) {
      blocksPerSeq = Math.max(blocksPerSeq, Math.ceil((step.starts[i]! + step.numTokens[i]!) / this.#blockSize));
    }
    buffers.blockTables = atLeast(buffers.blockTables, numSeqs * blocksPerSeq);

    const { tokenIds, positions, seqIds, seqLens, blockTables } = buffers;
    let numTokens = 0;
    let numSamples = 0;
    let numEntries = 0;
    for (let i = 0; i < numSeqs; i++) {
      const seq = step.seqs[i]!;
      const start = step.starts[i]!;
      const end = start + step.numTokens[i]!;
      for (let p = start; p < end; p++, numTokens++) {
        tokenIds[numTokens] = seq.tokens[p]!;
        positions[numTokens] = p;
        seqIds[numTokens] = i;
      }
      seqLens[i] = seq.numTokens;
      const used = Math.ceil(end / this.#blockSize);
      const row = i * blocksPerSeq;
      for (let b = 0; b < used; b++) blockTables[row + b] = seq.blockTable[b]!;
      blockTables.fill(0, row + used, row + blocksPerSeq);
      if (step.isForward) {
        for (let t = numTokens - (end - start); t < numTokens; t++) writeGreedySample(buffers, numSamples++, t);
      } else if (step.sampled[numSamples] === seq) {
        numEntries = writeSample(buffers, numSamples++, numTokens - 1, seq.sampling!, seq.numOutputTokens, numEntries);
      }
    }
    return {
      tokenIds: tokenIds.subarray(0, numTokens),
      positions: positions.subarray(0, numTokens),
      seqIds: seqIds.subarray(0, numTokens),
      seqLens: seqLens.subarray(0, numSeqs),
      blockTables: blockTables.subarray(0, numSeqs * blocksPerSeq),
      numSeqs,
      blocksPerSeq,
      sampleRows: buffers.sampleRows.subarray(0, numSamples),
      sampleFloats: buffers.sampleFloats.subarray(0, numSamples * SAMPLE_FLOATS_WIDTH),
      sampleInts: buffers.sampleInts.subarray(0, numSamples * SAMPLE_INTS_WIDTH),
      sampleTokens: buffers.sampleTokens.subarray(0, numEntries * 2),
    };
  }
}

/** Fills row `s`; returns the number of `sampleTokens` rows used so far. */
function writeSample(
  buffers: Buffers,
  s: number,
  row: number,
  sampling: SamplingState,
  counter: number,
  entries: number,
): number {
  const { sampleRows, sampleFloats, sampleInts } = buffers;
  sampleRows[s] = row;
  const f = s * SAMPLE_FLOATS_WIDTH;
  for (let c = 0; c < SAMPLE_FLOATS_WIDTH; c++) sampleFloats[f + c] = sampling.floats[c]!;
  const counts = sampling.counts;
  const bias = sampling.biasAt(counter);
  const biasBegin = entries + (counts?.size ?? 0);
  const biasEnd = biasBegin + bias.length / 2;
  const n = s * SAMPLE_INTS_WIDTH;
  sampleInts[n + SAMPLE_INTS.topK] = sampling.topK;
  sampleInts[n + SAMPLE_INTS.seedLow] = sampling.seedLow;
  sampleInts[n + SAMPLE_INTS.seedHigh] = sampling.seedHigh;
  sampleInts[n + SAMPLE_INTS.counter] = counter;
  sampleInts[n + SAMPLE_INTS.numLogprobs] = sampling.numLogprobs;
  sampleInts[n + SAMPLE_INTS.tokensBegin] = entries;
  sampleInts[n + SAMPLE_INTS.tokensEnd] = biasBegin;
  sampleInts[n + SAMPLE_INTS.biasBegin] = biasBegin;
  sampleInts[n + SAMPLE_INTS.biasEnd] = biasEnd;
  if (biasEnd > entries) {
    buffers.sampleTokens = atLeast(buffers.sampleTokens, biasEnd * 2);
    counts?.copyTo(buffers.sampleTokens, entries);
    buffers.sampleTokens.set(bias, biasBegin * 2);
  }
  return biasEnd;
}

function writeGreedySample(buffers: Buffers, s: number, row: number): void {
  buffers.sampleRows[s] = row;
  buffers.sampleInts.fill(0, s * SAMPLE_INTS_WIDTH, (s + 1) * SAMPLE_INTS_WIDTH);
  const f = s * SAMPLE_FLOATS_WIDTH;
  buffers.sampleFloats.fill(0, f, f + SAMPLE_FLOATS_WIDTH); // temperature 0
  buffers.sampleFloats[f + SAMPLE_FLOATS.topP] = 1;
  buffers.sampleFloats[f + SAMPLE_FLOATS.repetitionPenalty] = 1;
}

/** `array` itself, or a longer one with its content. */
function atLeast(array: Int32Array, length: number): Int32Array {
  if (array.length >= length) return array;
  const grown = new Int32Array(Math.max(length, array.length * 2));
  grown.set(array);
  return grown;
}

function allocate(limits: BatchLimits): Buffers {
  return {
    tokenIds: new Int32Array(limits.maxNumBatchedTokens),
    positions: new Int32Array(limits.maxNumBatchedTokens),
    seqIds: new Int32Array(limits.maxNumBatchedTokens),
    seqLens: new Int32Array(limits.maxNumSeqs),
    sampleRows: new Int32Array(limits.maxNumSeqs),
    sampleFloats: new Float32Array(limits.maxNumSeqs * SAMPLE_FLOATS_WIDTH),
    sampleInts: new Int32Array(limits.maxNumSeqs * SAMPLE_INTS_WIDTH),
    blockTables: new Int32Array(1024),
    sampleTokens: new Int32Array(256),
  };
}
