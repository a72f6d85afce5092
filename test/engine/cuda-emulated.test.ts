/**
 * The sample model on the emulated GPU, through the whole stack: compiled for CUDA, loaded over the fake driver, run by the engine loop
 * two steps at a time. What it says must be what the CPU's engine says.
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { AsyncEngine } from "../../runtime/async-engine.ts";
import { Engine, type EngineOptions } from "../../runtime/engine.ts";
import { compileForTest, nativeTarget, scratchFolder } from "../support/compiled-engine.ts";
import { ask, collect, randomIds } from "../support/engine-requests.ts";
import { buildFakeCuda } from "../support/fake-cuda.ts";
import { fakeTokenizer } from "../support/fake-device.ts";

const model = join(import.meta.dirname, "../../models/pebble");
const scratch = scratchFolder("cuda-emulated");
const limits = { maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16 };

/** Greedy tokens of requests that are begun together; more of them than run at a time, and prompts longer than a step. */
async function tokensOf(folder: string, options: EngineOptions) {
  const device = await Engine.load(join(scratch, folder), { ...options, ...limits, kvCacheMemoryBytes: 1 << 22 });
  let inFlight = 0;
  let mostInFlight = 0;
  let numPlaceholders = 0;
  const step = device.step.bind(device);
  device.step = async (batch, taps) => {
    numPlaceholders += batch.tokenIds.filter((id) => id < 0).length;
    mostInFlight = Math.max(mostInFlight, ++inFlight);
    try {
      return await step(batch, taps);
    } finally {
      inFlight--;
    }
  };
  const engine = new AsyncEngine(device, fakeTokenizer(), { eosTokenIds: [], numLayers: device.manifest.model.numLayers });
  const requests = [3, 20, 1, 7, 12].map(async (length, i) => {
    const params = { maxTokens: 3 + i, ...(i === 3 ? { repetitionPenalty: 1.3 } : {}) };
    return (await collect(ask(engine, randomIds(i, length, device.vocabSize), params)))[0]!.tokenIds;
  });
  const tokens = await Promise.all(requests);
  engine.checkIntegrity();
  await engine.close();
  await device.close();
  return { tokens, mostInFlight, numPlaceholders };
}

describe("the sample model on an emulated GPU", () => {
  beforeAll(async () => {
    await compileForTest(model, join(scratch, "cpu"), { target: nativeTarget, dtype: "float32" });
    vi.stubEnv("NVCC", fileURLToPath(new URL("../simt/nvcc", import.meta.url)));
    await compileForTest(model, join(scratch, "cuda"), { target: "cuda:sm_80", dtype: "float32" });
  });
  afterEach(() => vi.unstubAllEnvs());

  it("says what it says on the CPU, several requests at once, two steps in flight", async () => {
    const cpu = await tokensOf("cpu", {});
    const cuda = await tokensOf("cuda", { driver: buildFakeCuda() });
    expect(cuda.tokens).toEqual(cpu.tokens);
    expect(cuda.tokens.map((ids) => ids.length)).toEqual([3, 4, 5, 6, 7]);
    expect(cpu).toMatchObject({ mostInFlight: 1, numPlaceholders: 0 });
    // All but the first token of each and all of the one with a penalty, unless a token had to wait for room in a step.
    expect(cuda.mostInFlight).toBe(2);
    expect(cuda.numPlaceholders).toBeGreaterThan(10);
  });
});
