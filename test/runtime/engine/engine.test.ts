import { rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import type { Batch } from "../../../runtime/batch.ts";
import { Engine, type EngineOptions } from "../../../runtime/engine.ts";
import { EngineError, InternalError, ManifestError } from "../../../runtime/errors.ts";
import type { Manifest } from "../../../runtime/manifest.ts";
import type { NativeAddon } from "../../../runtime/native.ts";
import { testAddon } from "../../native/kernel-library.ts";
import { promptBatch, tableRow, VOCAB, writeEchoEngine } from "./echo-engine.ts";

const engines: Engine[] = [];
async function load(folder: string, options: EngineOptions = {}): Promise<Engine> {
  const engine = await Engine.load(folder, { threads: 3, native: testAddon(), ...options });
  engines.push(engine);
  return engine;
}
afterEach(async () => {
  for (const engine of engines.splice(0)) {
    await engine.close();
    rmSync(engine.folder, { recursive: true });
  }
});

describe("an engine", () => {
  it("runs a batch of prompts and gives ids, log-probabilities and alternatives row by row", async () => {
    const engine = await load(writeEchoEngine());
    const result = await engine.step(promptBatch([[3, 4, 5], [7], [1, 2]], [[2], [0], [5]]));
    expect([...result.tokenIds]).toEqual([12, 7, 3]);
    expect([...result.logprobs]).toEqual([0.5, 1.5, 2.5]);
    expect([...result.topIds.slice(20, 24)]).toEqual([100, 101, 102, 103]);
    expect([...result.topLogprobs.slice(40, 43)]).toEqual([-0, -1, -2]);
    expect(result.taps.size).toBe(0);
  });

  it("keeps the KV cache of each layer and block apart between steps", async () => {
    const engine = await load(writeEchoEngine());
    const first = Array.from({ length: 20 }, (_, i) => i + 1);
    const second = Array.from({ length: 20 }, (_, i) => 2 * i + 1);
    const tables = [
      [7, 3],
      [1, 31],
    ];
    await engine.step(promptBatch([first, second], tables));
    const result = await engine.step(promptBatch([[50], [60]], tables, 20), ["seen.0", "seen.1"]);
    expect([...result.tokenIds]).toEqual([210 + 50, 400 + 60]);
    expect(result.taps.get("seen.0")).toEqual(result.taps.get("seen.1"));
  });

  it("reads taps back as float32 rows from rows and from bf16 tiles", async () => {
    const engine = await load(writeEchoEngine());
    const ids = Array.from({ length: 18 }, (_, i) => 5 * i);
    const { taps } = await engine.step(promptBatch([ids], [[0, 1]]), ["hidden.1", "hidden.0"]);
    expect([...taps.get("hidden.0")!]).toEqual(ids.flatMap((id) => tableRow(id)));
    const truncated = Float32Array.from(ids.flatMap((id) => tableRow(id)));
    const bits = new Uint32Array(truncated.buffer);
    for (let i = 0; i < bits.length; i++) bits[i]! &= 0xffff0000;
    expect(taps.get("hidden.1")).toEqual(truncated);
  });

  it("runs a batch that samples nothing: a chunk of a prompt", async () => {
    const engine = await load(writeEchoEngine());
    const none = { sampleRows: new Int32Array(0), sampleFloats: new Float32Array(0), sampleInts: new Int32Array(0) };
    const result = await engine.step({ ...promptBatch([[1, 2, 3]], [[4]]), ...none });
    expect(result).toMatchObject({ tokenIds: new Int32Array(0), topLogprobs: new Float32Array(0) });
    expect((await engine.step(promptBatch([[5]], [[4]], 3))).tokenIds[0]).toBe(11);
  });

  it("refuses a tap it does not have and names those it has", async () => {
    const engine = await load(writeEchoEngine());
    await expect(engine.step(promptBatch([[1]], [[0]]), ["hidden.9"])).rejects.toThrow(
      /no tap hidden\.9; it has hidden\.0, hidden\.1, seen\.0/,
    );
  });

  it("names each step's kernel with its milliseconds when profiled", async () => {
    const engine = await load(writeEchoEngine());
    engine.profile(true);
    await engine.step(promptBatch([[1, 2, 3]], [[0]]));
    const steps = engine.profile(false);
    expect(steps.map((step) => step.kernel)).toEqual(["embedding", "to_tiles", "attend", "attend", "pick"]);
    expect(steps.every((step) => step.ms >= 0)).toBe(true);
  });

  it("closes once, after the running step, and refuses steps from then on", async () => {
    const engine = await load(writeEchoEngine());
    const running = engine.step(promptBatch([[9]], [[0]]));
    await Promise.all([engine.close(), engine.close()]);
    expect((await running).tokenIds[0]).toBe(9);
    await expect(engine.step(promptBatch([[9]], [[0]]))).rejects.toThrow(EngineError);
  });

  const broken: [what: string, change: Partial<Record<keyof Batch, unknown>>, message: RegExp][] = [
    ["a token outside the vocabulary", { tokenIds: Int32Array.of(1, VOCAB) }, /tokenIds\[1\] 100, vocabulary 100/],
    ["a negative block", { blockTables: Int32Array.of(-1) }, /blockTables\[0\] -1/],
    ["a position beyond its table", { positions: Int32Array.of(0, 16) }, /positions\[1\] 16, block table for 16/],
    ["a position beyond its sequence", { seqLens: Int32Array.of(1) }, /positions\[1\] 1, a sequence of 1 tokens/],
    ["a sequence without a length", { seqLens: new Int32Array(0) }, /seqLens of 0 numbers, expected 1/],
    ["a sequence without a table", { seqIds: Int32Array.of(0, 1) }, /seqIds\[1\] 1, 1 sequences/],
    ["a sampled row outside", { sampleRows: Int32Array.of(2) }, /sampleRows\[0\] 2, 2 tokens/],
    ["a short array", { sampleInts: new Int32Array(11) }, /sampleInts of 11 numbers, expected 12/],
    [
      "a bias range outside",
      { sampleInts: Int32Array.of(0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0) },
      /bias of row 0 are 0 to 1 of 0 entries/,
    ],
    ["too many sequences", { numSeqs: 5 }, /5 sequences, limit 4/],
  ];
  it.each(broken)("refuses a batch with %s before any kernel sees it", async (_, change, message) => {
    const engine = await load(writeEchoEngine());
    const batch = { ...promptBatch([[1, 2]], [[0]]), ...change } as Batch;
    await expect(engine.step(batch)).rejects.toThrow(message);
    await expect(engine.step(batch)).rejects.toThrow(InternalError);
  });
});

/** The real addon with other facts about the machine. */
function pretend(facts: { availableBytes?: number; features?: string[] }): NativeAddon {
  const native = testAddon();
  return {
    ...native,
    cpuFacts: () => ({
      ...native.cpuFacts(),
      model: "A Processor",
      arch: "x64",
      ...(facts.features ? { features: facts.features } : {}),
    }),
    memoryFacts: () => ({ totalBytes: 2 ** 40, availableBytes: facts.availableBytes ?? 2 ** 32 }),
  };
}

describe("the KV cache", () => {
  it("gets what the limits can use when memory allows", async () => {
    const engine = await load(writeEchoEngine());
    expect(engine.numBlocks).toBe(4 * 8);
    expect(engine.kvCacheBytes).toBe(4 * 8 * 2 * 4096);
    expect((await load(writeEchoEngine(), { maxNumSeqs: 1, maxModelLen: 17 })).numBlocks).toBe(2);
  });

  it("gets 90 % of free memory less weights, arena and scratch when that is less", async () => {
    const availableBytes = 300_000;
    const rest = 0.9 * availableBytes - 16384 - 65536 - 3 * 256;
    expect((await load(writeEchoEngine(), { native: pretend({ availableBytes }) })).numBlocks).toBe(Math.floor(rest / 8192));
    const half = await load(writeEchoEngine(), { native: pretend({ availableBytes }), memoryUtilization: 0.55 });
    expect(half.numBlocks).toBe(Math.floor((rest - 0.35 * availableBytes) / 8192));
  });

  it("refuses to start when not one sequence fits, with the numbers and the flag to lower", async () => {
    const native = pretend({ availableBytes: 130_000 });
    await expect(load(writeEchoEngine(), { native })).rejects.toThrow(
      /one sequence of 128 tokens takes .* lower --max-model-len to at most 64/,
    );
    expect((await load(writeEchoEngine(), { native, maxModelLen: 64 })).numBlocks).toBe(4);
    await expect(load(writeEchoEngine(), { native: pretend({ availableBytes: 1000 }) })).rejects.toThrow(
      /free memory or use a smaller model/,
    );
  });

  it("has the size asked for, within free memory", async () => {
    expect((await load(writeEchoEngine(), { kvCacheMemoryBytes: 10 * 8192 + 5 })).numBlocks).toBe(10);
    await expect(load(writeEchoEngine(), { kvCacheMemoryBytes: 8192 })).rejects.toThrow(/--kv-cache-memory gives .* at most 16/);
    await expect(
      load(writeEchoEngine(), { kvCacheMemoryBytes: 2 ** 40, native: pretend({ availableBytes: 200_000 }) }),
    ).rejects.toThrow(/lower it/);
    await expect(load(writeEchoEngine(), { memoryUtilization: 1.5 })).rejects.toThrow(/--memory-utilization/);
  });
});

describe("loading refuses", () => {
  const cases: [
    what: string,
    change: (m: Manifest) => Manifest,
    message: RegExp,
    kind: typeof ManifestError | typeof EngineError,
  ][] = [
    ["kernels that are not built", (m) => ({ ...m, library: null }), /not built: build it with `npx ingot build/, ManifestError],
    [
      "kernels of another build",
      (m) => ({ ...m, library: { ...m.library!, sha256: "0".repeat(64) } }),
      /the manifest says 0{64}: build it with/,
      ManifestError,
    ],
    [
      "kernels that are gone",
      (m) => ({ ...m, library: { ...m.library!, file: "build/gone.so" } }),
      /gone\.so is missing: build it/,
      ManifestError,
    ],
    [
      "weights that are gone",
      (m) => ({ ...m, weights: { ...m.weights, file: "gone.bin" } }),
      /gone\.bin is missing/,
      ManifestError,
    ],
    [
      "another device's engine",
      (m) => ({ ...m, target: "metal:apple8" }),
      /for metal:apple8, which this runtime cannot drive/,
      EngineError,
    ],
    [
      "a kernel that the library lacks",
      (m) => ({ ...m, kernels: m.kernels.map((k) => ({ ...k, name: k.name === "pick" ? "pack" : k.name })) }),
      /no symbol pack/,
      EngineError,
    ],
  ];
  it.each(cases)("%s", async (_, change, message, kind) => {
    const folder = writeEchoEngine(change);
    await expect(load(folder)).rejects.toThrow(message);
    await expect(load(folder)).rejects.toThrow(kind);
    rmSync(folder, { recursive: true });
  });

  it("truncated weights, with both sizes", async () => {
    const folder = writeEchoEngine();
    truncateSync(join(folder, "weights.bin"), 16000);
    await expect(load(folder)).rejects.toThrow(/weights\.bin has 16000 bytes, the manifest says 16384/);
  });

  it("weights of other bytes, with both hashes", async () => {
    const folder = writeEchoEngine();
    await load(folder);
    writeFileSync(join(folder, "weights.bin"), new Uint8Array(16384));
    await expect(load(folder)).rejects.toThrow(
      /weights\.bin has sha256 \w{64}, the manifest says \w{64}: compile the model again/,
    );
  });

  it("flags that cannot be met, before weights are looked at", async () => {
    const folder = writeEchoEngine();
    truncateSync(join(folder, "weights.bin"), 16000);
    await expect(load(folder, { threads: 0 })).rejects.toThrow(/--threads must be a whole number from 1 to 1024, found 0/);
    await expect(load(folder, { kvCacheMemoryBytes: 8192 })).rejects.toThrow(/--kv-cache-memory gives/);
    await expect(load(folder, { memoryUtilization: 2 })).rejects.toThrow(/--memory-utilization must be above 0/);
  });

  it("a damaged manifest and a folder that is none", async () => {
    const folder = writeEchoEngine();
    writeFileSync(join(folder, "manifest.json"), "{");
    await expect(load(folder)).rejects.toThrow(ManifestError);
    await expect(load(join(folder, "build"))).rejects.toThrow(/is not an engine: it has no manifest\.json/);
  });

  it("an engine built for another CPU, saying what is missing and what to do", async () => {
    const tiled = writeEchoEngine((m) => ({
      ...m,
      target: "cpu:avx512-amx",
      features: ["avx2", "avx512f", "amx_tile", "amx_bf16"],
    }));
    await expect(load(tiled, { native: pretend({ features: ["avx2", "fma", "avx512f"] }) })).rejects.toThrow(
      /is for cpu:avx512-amx, but this machine \(A Processor\) lacks amx_tile, amx_bf16: .*--target native/,
    );
    const elsewhere = writeEchoEngine((m) => ({ ...m, target: "metal:apple8" }));
    await expect(load(elsewhere, { native: pretend({}) })).rejects.toThrow(/for metal:apple8, which this runtime cannot drive/);
  });

  it("limits above the engine's, and takes lower ones", async () => {
    const folder = writeEchoEngine();
    await expect(load(folder, { maxModelLen: 129 })).rejects.toThrow(
      /--max-model-len 129 is above the engine's 128: compile the model again/,
    );
    await expect(load(folder, { maxNumSeqs: 0 })).rejects.toThrow(/--max-num-seqs must be a whole number from 1 to 4, found 0/);
    await expect(load(folder, { threads: 1.5 })).rejects.toThrow(/--threads must be a whole number/);
    const engine = await load(folder, { maxModelLen: 100, maxNumSeqs: 2, maxNumBatchedTokens: 10 });
    expect(engine).toMatchObject({ maxModelLen: 100, maxNumSeqs: 2, maxNumBatchedTokens: 10, blockSize: 16, vocabSize: VOCAB });
  });
});
