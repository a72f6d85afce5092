/**
 * An engine folder brought to life: manifest checked, kernels and weights mapped, KV cache sized, one batch in, tokens out.
 *
 * Not the scheduler: an engine runs the batch it is given and knows no requests. It holds memory and threads until `close`.
 */
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { type Batch, type Device, MAX_LOGPROBS, type StepResult } from "./batch.ts";
import { checkBatch } from "./batch-check.ts";
import { type DeviceOptions, type DevicePlan, type EngineDevice, familyOf } from "./devices/device.ts";
import { checkWeights } from "./engine-files.ts";
import { EngineError, ManifestError } from "./errors.ts";
import { type HashProgress, hashFile } from "./file-hash.ts";
import { bytesPerBlock } from "./kv-cache-size.ts";
import { type Limits, type Manifest, type ManifestSymbol, type Program, STEP_ARRAYS, SYMBOLS, type Tap } from "./manifest.ts";
import { parseManifest } from "./manifest-validator.ts";
import { loadNative, type NativeAddon } from "./native.ts";
import { tapBytes, tapRows } from "./tap-rows.ts";

/** How an engine is loaded. Limits may be lowered below the manifest's, never raised. */
export interface EngineOptions extends DeviceOptions {
  readonly maxModelLen?: number;
  readonly maxNumSeqs?: number;
  readonly maxNumBatchedTokens?: number;
  /** Hears of weights being hashed, which happens when their file is not the one that was last found right. */
  readonly onHash?: HashProgress;
  /** The addon; by default the package's own. */
  readonly native?: NativeAddon;
}

const LIMIT_FLAGS = {
  maxModelLen: "--max-model-len",
  maxNumSeqs: "--max-num-seqs",
  maxNumBatchedTokens: "--max-num-batched-tokens",
} as const;

/** A loaded engine. */
export class Engine implements Device {
  readonly blockSize: number;
  readonly maxModelLen: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly vocabSize: number;
  readonly rebuiltBeyond: readonly number[];
  readonly numBlocks: number;
  readonly depth: 1 | 2;
  /** Of a CPU's team; null where a GPU runs the kernels. */
  readonly threads: number | null;
  /** Bytes reserved for the KV cache, committed as blocks are first used. */
  readonly kvCacheBytes: number;
  #numSampledBefore = 0; // rows of the last step handed over
  #closing: Promise<void> | undefined;

  private constructor(
    readonly folder: string,
    readonly manifest: Manifest,
    limits: Limits,
    plan: DevicePlan,
    private readonly device: EngineDevice,
  ) {
    this.numBlocks = plan.numBlocks;
    this.threads = plan.threads;
    this.depth = device.depth;
    this.blockSize = manifest.kvCache.blockSize;
    this.maxModelLen = limits.maxModelLen;
    this.maxNumSeqs = limits.maxNumSeqs;
    this.maxNumBatchedTokens = limits.maxNumBatchedTokens;
    this.vocabSize = manifest.model.vocabSize;
    this.rebuiltBeyond = manifest.kvCache.rebuiltBeyond;
    this.kvCacheBytes = plan.numBlocks * bytesPerBlock(manifest);
  }

  /**
   * Loads the engine in `folder`.
   * Throws `ManifestError` if its files are missing, damaged or not built, `EngineError` if it cannot run here as asked.
   */
  static async load(folder: string, options: EngineOptions = {}): Promise<Engine> {
    const path = join(folder, "manifest.json");
    if (!existsSync(path))
      throw new ManifestError(`${folder} is not an engine: it has no manifest.json; make one with \`ingot compile <model>\``);
    const manifest = parseManifest(readFileSync(path, "utf8"), path);
    const native = options.native ?? loadNative();
    const family = familyOf(manifest.target);
    family.check(manifest, native, options);
    const library = await checkedLibrary(folder, manifest);
    const limits = lowerLimits(manifest, options);
    const plan = family.plan({ manifest, limits }, native, options); // before weights are hashed, which may take minutes
    const weights = await checkWeights(folder, manifest, { onHash: options.onHash });
    try {
      const device = family.open({ manifest, library, weights, limits, plan }, native, options);
      return new Engine(folder, manifest, limits, plan, device);
    } catch (cause) {
      if (cause instanceof EngineError || cause instanceof ManifestError) throw cause;
      throw new EngineError(`engine ${folder} does not load: ${(cause as Error).message}`, { cause });
    }
  }

  /**
   * Runs one batch, `depth` at a time, answered in order. A sampled id of −1 says that the row's logits held a NaN or banned every token: the caller decides.
   * Throws `EngineError` for an unknown tap or a closed engine, `InternalError` for a batch that breaks its own contract.
   */
  async step(batch: Batch, taps: readonly string[] = []): Promise<StepResult> {
    if (this.#closing) throw new EngineError("the engine is closed");
    checkBatch(batch, this, this.#numSampledBefore);
    const numTokens = batch.tokenIds.length;
    const numSamples = batch.sampleRows.length;
    const symbols = { T: numTokens, B: batch.numSeqs, S: numSamples, P: batch.blocksPerSeq };
    const index = this.manifest.programs.findIndex((program) => program.maxTokens >= numTokens);
    const wanted = taps.map((name) => this.tap(this.manifest.programs[index]!, name, symbols));
    const result = {
      tokenIds: new Int32Array(numSamples),
      logprobs: new Float32Array(numSamples),
      topIds: new Int32Array(numSamples * MAX_LOGPROBS),
      topLogprobs: new Float32Array(numSamples * MAX_LOGPROBS),
    };
    const arrays = {
      token_ids: batch.tokenIds,
      positions: batch.positions,
      seq_ids: batch.seqIds,
      seq_lens: batch.seqLens,
      block_tables: batch.blockTables,
      sample_rows: batch.sampleRows,
      sample_floats: batch.sampleFloats,
      sample_ints: batch.sampleInts,
      sample_tokens: batch.sampleTokens,
      sampled_ids: result.tokenIds,
      sampled_logprobs: result.logprobs,
      top_ids: result.topIds,
      top_logprobs: result.topLogprobs,
    };
    this.#numSampledBefore = numSamples;
    const ms = await this.device.run(
      index,
      Int32Array.from(SYMBOLS, (symbol) => symbols[symbol]),
      STEP_ARRAYS.map((name) => arrays[name]),
      wanted.map(({ step, offset, into }) => ({ step, offset, into })),
    );
    return { ...result, ms, taps: new Map(wanted.map(({ name, rows }) => [name, rows()])) };
  }

  /** Turns step timing on or off; returns kernel name and milliseconds of each step of the last profiled batch of `program`. */
  profile(on: boolean, program = 0): { readonly kernel: string; readonly ms: number }[] {
    const ms = this.device.profile(on);
    const steps = this.manifest.programs[program]?.steps ?? [];
    if (ms.length !== steps.length) return [];
    return steps.map((step, i) => ({ kernel: this.manifest.kernels[step.kernel]!.name, ms: ms[i]! }));
  }

  /** Lets a running step finish, then gives back threads and memory. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.device.close();
    return this.#closing;
  }

  private tap(program: Program, name: string, symbols: Readonly<Record<ManifestSymbol, number>>) {
    const tap: Tap | undefined = program.taps.find((entry) => entry.name === name);
    if (tap === undefined) {
      throw new EngineError(
        `the engine has no tap ${name}; it has ${program.taps.map((entry) => entry.name).join(", ") || "none"}`,
      );
    }
    const buffer = this.manifest.arena.buffers[tap.buffer]!;
    const numRows = typeof buffer.rows === "number" ? buffer.rows : symbols[buffer.rows];
    const into = new Uint8Array(tapBytes(buffer, numRows));
    return { name, step: tap.step, offset: buffer.offset, into, rows: () => tapRows(buffer, numRows, into) };
  }
}

function wholeNumber(flag: string, value: number, max: number): number {
  if (Number.isInteger(value) && value >= 1 && value <= max) return value;
  throw new EngineError(`${flag} must be a whole number from 1 to ${max}, found ${value}`);
}

async function checkedLibrary(folder: string, { library }: Manifest): Promise<string> {
  const remedy = `build it with \`npx ingot build ${folder}\``;
  if (library === null) throw new ManifestError(`the kernels of ${folder} are not built: ${remedy}`);
  const file = resolve(folder, library.file);
  if (!existsSync(file)) throw new ManifestError(`${file} is missing: ${remedy}`);
  const found = await hashFile(file);
  if (found !== library.sha256)
    throw new ManifestError(`${file} has sha256 ${found}, the manifest says ${library.sha256}: ${remedy}`);
  return file;
}

function lowerLimits({ limits }: Manifest, options: EngineOptions): Limits {
  const lower = (name: keyof Limits): number => {
    const value = options[name];
    if (value === undefined) return limits[name];
    if (value > limits[name]) {
      throw new EngineError(
        `${LIMIT_FLAGS[name]} ${value} is above the engine's ${limits[name]}: compile the model again with ${LIMIT_FLAGS[name]} ${value}`,
      );
    }
    return wholeNumber(LIMIT_FLAGS[name], value, limits[name]);
  };
  return {
    maxModelLen: lower("maxModelLen"),
    maxNumSeqs: lower("maxNumSeqs"),
    maxNumBatchedTokens: lower("maxNumBatchedTokens"),
  };
}
