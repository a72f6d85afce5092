/**
 * Checks a batch against its own contract before kernels, which trust every index in it, read or write outside a buffer.
 *
 * A batch comes from the scheduler, so a failure here is a mistake of this program. Linear in the batch, no allocation.
 */
import { type Batch, type Device, SAMPLE_FLOATS_WIDTH, SAMPLE_INTS, SAMPLE_INTS_WIDTH } from "./batch.ts";
import { InternalError } from "./errors.ts";

/**
 * Throws `InternalError` unless lengths match shapes, shapes keep to `device`'s limits and every index is inside its table.
 * `numSampledBefore`: rows that the step before samples, to which ids below 0 point where the device takes two steps at once.
 */
export function checkBatch(batch: Batch, device: Device, numSampledBefore: number): void {
  const { tokenIds, positions, seqIds, seqLens, blockTables, numSeqs, blocksPerSeq } = batch;
  const { sampleRows, sampleInts, sampleTokens } = batch;
  const numTokens = tokenIds.length;
  const numSamples = sampleRows.length;
  const maxBlocks = Math.ceil(device.maxModelLen / device.blockSize);
  if (numTokens < 1 || numTokens > device.maxNumBatchedTokens) fail(`${numTokens} tokens, limit ${device.maxNumBatchedTokens}`);
  if (numSeqs < 1 || numSeqs > device.maxNumSeqs) fail(`${numSeqs} sequences, limit ${device.maxNumSeqs}`);
  if (numSamples > device.maxNumSeqs) fail(`${numSamples} sampled rows, limit ${device.maxNumSeqs}`);
  if (blocksPerSeq < 1 || blocksPerSeq > maxBlocks) fail(`${blocksPerSeq} blocks per sequence, limit ${maxBlocks}`);
  expectLength("positions", positions, numTokens);
  expectLength("seqIds", seqIds, numTokens);
  expectLength("seqLens", seqLens, numSeqs);
  expectLength("blockTables", blockTables, numSeqs * blocksPerSeq);
  expectLength("sampleFloats", batch.sampleFloats, numSamples * SAMPLE_FLOATS_WIDTH);
  expectLength("sampleInts", sampleInts, numSamples * SAMPLE_INTS_WIDTH);
  if (sampleTokens.length % 2 !== 0) fail(`sampleTokens of ${sampleTokens.length} numbers, expected pairs`);
  // Comparisons first, messages only on failure: this runs once per token of every step.
  const maxPosition = blocksPerSeq * device.blockSize;
  const leastId = device.depth === 2 ? -numSampledBefore : 0;
  for (let t = 0; t < numTokens; t++) {
    if (!(tokenIds[t]! >= leastId && tokenIds[t]! < device.vocabSize)) {
      fail(`tokenIds[${t}] ${tokenIds[t]}, vocabulary ${device.vocabSize}, ids of ${-leastId} rows still on the device`);
    }
    if (outside(seqIds[t]!, numSeqs)) fail(`seqIds[${t}] ${seqIds[t]}, ${numSeqs} sequences`);
    if (outside(positions[t]!, maxPosition)) fail(`positions[${t}] ${positions[t]}, block table for ${maxPosition}`);
    const length = seqLens[seqIds[t]!]!;
    if (outside(positions[t]!, length)) fail(`positions[${t}] ${positions[t]}, a sequence of ${length} tokens`);
  }
  for (let i = 0; i < blockTables.length; i++) {
    if (outside(blockTables[i]!, device.numBlocks)) fail(`blockTables[${i}] ${blockTables[i]}, ${device.numBlocks} blocks`);
  }
  const numEntries = sampleTokens.length / 2;
  for (let s = 0; s < numSamples; s++) {
    if (outside(sampleRows[s]!, numTokens)) fail(`sampleRows[${s}] ${sampleRows[s]}, ${numTokens} tokens`);
    checkRange("tokens", s, SAMPLE_INTS.tokensBegin, SAMPLE_INTS.tokensEnd);
    checkRange("bias", s, SAMPLE_INTS.biasBegin, SAMPLE_INTS.biasEnd);
  }

  function checkRange(name: string, s: number, beginColumn: number, endColumn: number): void {
    const begin = sampleInts[s * SAMPLE_INTS_WIDTH + beginColumn]!;
    const end = sampleInts[s * SAMPLE_INTS_WIDTH + endColumn]!;
    if (begin < 0 || begin > end || end > numEntries) fail(`${name} of row ${s} are ${begin} to ${end} of ${numEntries} entries`);
    for (let i = begin; i < end; i++) {
      const id = sampleTokens[2 * i]!;
      if (outside(id, device.vocabSize)) fail(`sampleTokens[${i}] is of token ${id}, vocabulary ${device.vocabSize}`);
    }
  }
}

const outside = (value: number, end: number): boolean => !(value >= 0 && value < end);

function expectLength(name: string, array: ArrayLike<number>, length: number): void {
  if (array.length !== length) fail(`${name} of ${array.length} numbers, expected ${length}`);
}

function fail(message: string): never {
  throw new InternalError(`batch has ${message}`);
}
