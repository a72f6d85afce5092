/**
 * The same request gives the same bits whatever runs beside it: alone, in a crowd that arrives and leaves at random, with and
 * without prefix cache, in small chunks, preempted, on one thread or two. Logits are compared bit by bit, not only tokens.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { readManifest } from "../../compiler/cli/load.ts";
import { AsyncEngine } from "../../runtime/async-engine.ts";
import { type Batch, type Device, SAMPLE_INTS, SAMPLE_INTS_WIDTH, type StepResult } from "../../runtime/batch.ts";
import { Engine, type EngineOptions } from "../../runtime/engine.ts";
import { bytesPerBlock } from "../../runtime/kv-cache-size.ts";
import { type SamplingParams, samplingParams } from "../../runtime/sampling-params.ts";
import { compileForTest, isFullRun, nativeTarget, runnableTargets, scratchFolder } from "../support/compiled-engine.ts";
import { goldenFolder, hasGolden } from "../support/golden.ts";
import { seededRandom } from "../support/seeded-random.ts";

const pebble = join(import.meta.dirname, "../../models/pebble");
const CROWD = 65;
/** The last requests have short prompts and long outputs and arrive together: their growth is what preempts. */
const GROWING = 16;
const ABORTED = 8;
const CONTEXT = 512;
const FIRST_SEED = 1000;

interface Case {
  readonly model: string;
  readonly folder: string;
  readonly target: string;
  readonly dtype: string;
}

const golden = (family: string, target: string, dtype: string): Case[] =>
  hasGolden ? [{ model: family, folder: goldenFolder(family), target, dtype }] : [];
const trained = (target: string, dtype: string): Case => ({ model: "pebble", folder: pebble, target, dtype });

function sample(): Case[] {
  const others = ["cpu:generic", "cpu:avx512"].filter((t) => t !== nativeTarget && runnableTargets.includes(t));
  return [
    trained(nativeTarget, "bfloat16"),
    trained(nativeTarget, "float32"),
    ...golden("mistral-swa", nativeTarget, "bfloat16"),
    ...others.flatMap((target) => golden("qwen3", target, "bfloat16")),
  ];
}

const sweep = (): Case[] =>
  runnableTargets.flatMap((target) =>
    ["float32", "bfloat16", "float16"].flatMap((dtype) => [
      trained(target, dtype),
      ...["qwen3", "mistral-swa", "qwen2-yarn"].flatMap((family) => golden(family, target, dtype)),
    ]),
  );

/** A device that keeps, of every sampled row, the hash of its logits under the request's seed and the index of the output token. */
class RecordingDevice implements Device {
  readonly blockSize: number;
  readonly numBlocks: number;
  readonly maxModelLen: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly vocabSize: number;
  readonly rebuiltBeyond: readonly number[];
  readonly depth: 1 | 2;
  readonly logits = new Map<string, string>();
  readonly #engine: Engine;
  readonly #onStep: () => void;

  constructor(engine: Engine, onStep: () => void) {
    ({
      blockSize: this.blockSize,
      numBlocks: this.numBlocks,
      maxModelLen: this.maxModelLen,
      maxNumSeqs: this.maxNumSeqs,
      maxNumBatchedTokens: this.maxNumBatchedTokens,
      vocabSize: this.vocabSize,
      rebuiltBeyond: this.rebuiltBeyond,
      depth: this.depth,
    } = engine);
    this.#engine = engine;
    this.#onStep = onStep;
  }

  async step(batch: Batch, taps?: readonly string[]): Promise<StepResult> {
    this.#onStep();
    if (taps !== undefined) return this.#engine.step(batch, taps);
    const result = await this.#engine.step(batch, ["logits"]);
    const logits = result.taps.get("logits")!;
    for (let s = 0; s < batch.sampleRows.length; s++) {
      const ints = batch.sampleInts.subarray(s * SAMPLE_INTS_WIDTH, (s + 1) * SAMPLE_INTS_WIDTH);
      const key = `${ints[SAMPLE_INTS.seedLow]!}:${ints[SAMPLE_INTS.counter]!}`;
      if (this.logits.has(key)) throw new Error(`the token ${key} was sampled twice`);
      this.logits.set(key, hashRow(logits, s, this.vocabSize));
    }
    return result;
  }
}

function hashRow(logits: Float32Array, row: number, width: number): string {
  const bytes = new Uint8Array(logits.buffer, logits.byteOffset + row * width * 4, width * 4);
  return createHash("sha1").update(bytes).digest("base64");
}

interface Ask {
  readonly seed: number;
  readonly prompt: readonly number[];
  readonly params: SamplingParams;
}

/** Prompts of 1 to 400 tokens, a third of them beginning alike; greedy and at temperature 0.8, some with penalties and filters. */
function asks(vocabSize: number): Ask[] {
  const random = seededRandom(7);
  const ids = (n: number) => Array.from({ length: n }, () => random.below(vocabSize));
  const beginnings = [ids(64), ids(130)];
  const lengths = [1, 2, 15, 16, 17, 31, 32, 33, 64, 65, 400];
  const promptOf = (i: number): number[] => {
    if (i >= CROWD - GROWING) return ids(1 + random.below(20));
    if (i % 3 === 2) return [...random.pick(beginnings), ...ids(1 + random.below(20))];
    return ids(lengths[i] ?? 1 + random.below(i % 2 === 0 ? 300 : 60));
  };
  return Array.from({ length: CROWD }, (_, i) => {
    const seed = FIRST_SEED + i;
    const prompt = promptOf(i);
    const sampled = { temperature: 0.8, topP: [1, 0.95][i % 2], topK: [0, 40, 0][i % 3], minP: [0, 0.02][i % 2] };
    const penalties = i % 5 === 4 ? { repetitionPenalty: 1.2, presencePenalty: 0.3, frequencyPenalty: 0.1 } : {};
    const maxTokens = i >= CROWD - GROWING ? 100 + random.below(40) : 8 + random.below(25);
    const params = { maxTokens, ignoreEos: true, seed, ...penalties };
    return {
      seed,
      prompt,
      params: samplingParams(random.below(2) === 0 ? { temperature: 0, ...params } : { ...sampled, ...params }),
    };
  });
}

interface Run {
  readonly tokens: ReadonlyMap<number, readonly number[]>;
  readonly logits: ReadonlyMap<string, string>;
  readonly forwards: readonly (readonly string[])[];
  readonly prefixCacheHits: number;
  readonly numPreemptions: number;
  readonly maxRunning: number;
}

interface RunOptions extends EngineOptions {
  readonly alone?: boolean;
  readonly enablePrefixCaching: boolean;
  /** Blocks of the KV cache. */
  readonly numBlocks?: number;
}

/** Runs all requests in one way, and scores some prompts beside them. */
async function run(folder: string, requests: readonly Ask[], { alone, numBlocks, ...options }: RunOptions): Promise<Run> {
  const manifest = readManifest(folder);
  const kvCacheMemoryBytes = (numBlocks ?? 2048) * bytesPerBlock(manifest);
  const engine = await Engine.load(folder, { maxModelLen: CONTEXT, kvCacheMemoryBytes, ...options });
  const random = seededRandom(CROWD);
  const arrivals: (() => void)[] = [];
  let maxRunning = 0;
  const device = new RecordingDevice(engine, () => {
    loop.checkIntegrity();
    maxRunning = Math.max(maxRunning, loop.stats().numRunning);
    for (let n = random.below(7); n > 0; n--) arrivals.shift()?.();
  });
  const { numLayers } = manifest.model;
  const { enablePrefixCaching } = options;
  const loop = new AsyncEngine(
    device,
    { stream: () => ({ push: () => "", flush: () => "" }) },
    { ...{ eosTokenIds: [], numLayers }, enablePrefixCaching },
  );
  const tokens = new Map<number, readonly number[]>();

  const complete = async ({ seed, prompt, params }: Ask, signal?: AbortSignal): Promise<void> => {
    const ids: number[] = [];
    for await (const delta of loop.generate({ requestId: String(seed), promptTokenIds: prompt, params, signal })) {
      ids.push(...delta.tokenIds);
    }
    if (!signal) tokens.set(seed, ids);
  };
  const score = async ({ prompt }: Ask): Promise<string[]> => {
    const { logits } = await loop.forward(prompt);
    return prompt.map((_, t) => hashRow(logits, t, manifest.model.vocabSize));
  };

  try {
    const scored = requests.filter(({ prompt }) => prompt.length > 30 && prompt.length < 140).slice(0, 3);
    const forwards: string[][] = [];
    if (alone) {
      for (const request of requests) await complete(request);
      for (const request of scored) forwards.push(await score(request));
    } else {
      const done: Promise<unknown>[] = [];
      const mixed = requests.slice(0, CROWD - GROWING).sort((a, b) => ((a.seed * 31) % 67) - ((b.seed * 31) % 67));
      const order = [...mixed.slice(0, 20), ...requests.slice(CROWD - GROWING), ...mixed.slice(20)];
      order.forEach((request, i) => {
        arrivals.push(() => done.push(complete(request)));
        if (i % Math.floor(CROWD / ABORTED) !== 0) return;
        // Another request that is given up some steps later.
        const controller = new AbortController();
        const params = samplingParams({ ...request.params, seed: 1 + i });
        arrivals.push(() => done.push(complete({ seed: 1 + i, prompt: request.prompt.slice(0, 90), params }, controller.signal)));
        arrivals.push(() => controller.abort());
      });
      scored.forEach((request, i) => {
        arrivals.splice(10 * (i + 1), 0, () => done.push(score(request).then((rows) => (forwards[i] = rows))));
      });
      while (arrivals.length > 0) {
        arrivals.shift()!(); // starts the loop when it is idle; most arrive while steps run
        for (let seen = -1; done.length > seen; ) {
          seen = done.length;
          await Promise.all(done);
        }
      }
    }
    loop.checkIntegrity();
    expect(loop.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvCacheUsage: 0 });
    const { prefixCacheHits, numPreemptions } = loop.stats();
    const own = [...device.logits].filter(([key]) => Number(key.split(":")[0]) >= FIRST_SEED);
    return { tokens, logits: new Map(own), forwards, prefixCacheHits, numPreemptions, maxRunning };
  } finally {
    await loop.close();
    await engine.close();
  }
}

const scratch = scratchFolder("invariance");

describe.each(isFullRun ? sweep() : sample())("$model in $dtype on $target gives the same bits", (c) => {
  const folder = join(scratch, [c.model, c.dtype, c.target.slice(4)].join("-"));
  let requests: Ask[];
  let reference: Run;

  beforeAll(async () => {
    const limits = { maxModelLen: CONTEXT, maxNumSeqs: 96, maxNumBatchedTokens: 2048 };
    await compileForTest(c.folder, folder, { target: c.target, dtype: c.dtype, ...limits });
    requests = asks(readManifest(folder).model.vocabSize);
    reference = await run(folder, requests, { alone: true, threads: 1, enablePrefixCaching: false });
    expect(reference.tokens.size).toBe(CROWD);
    expect(reference.logits.size).toBe(requests.reduce((sum, { params }) => sum + params.maxTokens!, 0));
    expect(new Set(reference.logits.values()).size).toBeGreaterThan(reference.logits.size * 0.9);
    expect(reference.maxRunning).toBe(1);
  });

  async function expectSame(options: RunOptions): Promise<Run> {
    const found = await run(folder, requests, options);
    for (const { seed, params } of requests) {
      for (let i = 0; i < params.maxTokens!; i++) {
        const key = `${seed}:${i}`;
        expect(found.logits.get(key), `logits of request ${seed} after ${i} output tokens`).toBe(reference.logits.get(key));
      }
      expect(found.tokens.get(seed), `tokens of request ${seed}`).toEqual(reference.tokens.get(seed));
    }
    expect(found.forwards).toEqual(reference.forwards);
    expect(reference.forwards).toHaveLength(3);
    return found;
  }

  it("alone on two threads", () => expectSame({ alone: true, threads: 2, enablePrefixCaching: true }));

  it("in a crowd, finding prefixes of others in the cache", async () => {
    const found = await expectSame({ threads: 2, enablePrefixCaching: true });
    expect(found.prefixCacheHits).toBeGreaterThan(500);
    expect(found.maxRunning).toBeGreaterThan(40);
  });

  it("in a crowd without prefix cache, on one thread", async () => {
    const found = await expectSame({ threads: 1, enablePrefixCaching: false });
    expect(found.prefixCacheHits).toBe(0);
  });

  it("in chunks of 16 tokens", () => expectSame({ threads: 2, enablePrefixCaching: true, maxNumBatchedTokens: 16 }));

  it("preempted for want of memory", async () => {
    const found = await expectSame({ threads: 2, enablePrefixCaching: true, numBlocks: 20 });
    expect(found.numPreemptions).toBeGreaterThanOrEqual(3);
  });

  it("preempted and in chunks of 16, without prefix cache", async () => {
    const options = { threads: 2, enablePrefixCaching: false, numBlocks: 20, maxNumBatchedTokens: 16 };
    const found = await expectSame(options);
    expect(found.numPreemptions).toBeGreaterThanOrEqual(3);
  });

  it("scoring as in generating", async () => {
    // A scored position is the same computation as a generated one: rows of forward are the logits that tokens were drawn from.
    const engine = await Engine.load(folder, { threads: 2, maxModelLen: CONTEXT, kvCacheMemoryBytes: 2 ** 28 });
    const { numLayers, vocabSize } = readManifest(folder).model;
    const loop = new AsyncEngine(engine, { stream: () => ({ push: () => "", flush: () => "" }) }, { eosTokenIds: [], numLayers });
    try {
      for (const { seed, prompt } of requests.slice(0, 12)) {
        const output = reference.tokens.get(seed)!;
        const { logits } = await loop.forward([...prompt, ...output.slice(0, -1)]);
        const rows = output.map((_, i) => hashRow(logits, prompt.length - 1 + i, vocabSize));
        expect(rows).toEqual(output.map((_, i) => reference.logits.get(`${seed}:${i}`)));
      }
    } finally {
      await loop.close();
      await engine.close();
    }
  });
});
