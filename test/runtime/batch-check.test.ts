import { describe, expect, it } from "vitest";
import { type Batch, SAMPLE_FLOATS_WIDTH, SAMPLE_INTS_WIDTH } from "../../runtime/batch.ts";
import { checkBatch } from "../../runtime/batch-check.ts";
import { FakeDevice } from "../support/fake-device.ts";

/** One token of one sequence, sampled. */
const batchOf = (id: number): Batch => ({
  tokenIds: Int32Array.of(id),
  positions: Int32Array.of(0),
  seqIds: Int32Array.of(0),
  seqLens: Int32Array.of(1),
  blockTables: Int32Array.of(0),
  numSeqs: 1,
  blocksPerSeq: 1,
  sampleRows: Int32Array.of(0),
  sampleFloats: new Float32Array(SAMPLE_FLOATS_WIDTH),
  sampleInts: new Int32Array(SAMPLE_INTS_WIDTH),
  sampleTokens: new Int32Array(0),
});

describe("checkBatch", () => {
  it("takes an id for a row that the step before samples, on a device that takes two steps at once", () => {
    const device = new FakeDevice({ depth: 2 });
    for (const id of [-3, -1, 0, 63]) checkBatch(batchOf(id), device, 3);
    expect(() => checkBatch(batchOf(-4), device, 3)).toThrow("tokenIds[0] -4, vocabulary 64, ids of 3 rows still on the device");
    expect(() => checkBatch(batchOf(-1), device, 0)).toThrow("tokenIds[0] -1");
    expect(() => checkBatch(batchOf(64), device, 3)).toThrow("tokenIds[0] 64");
  });

  it("refuses such an id where a step waits for the one before", () => {
    expect(() => checkBatch(batchOf(-1), new FakeDevice({ depth: 1 }), 3)).toThrow("tokenIds[0] -1, vocabulary 64");
  });
});
