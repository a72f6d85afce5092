/**
 * Loads engines for the verbs that run them.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { checkWeights } from "../../runtime/engine-files.ts";
import { EngineError, ManifestError } from "../../runtime/errors.ts";
import type { HashProgress } from "../../runtime/file-hash.ts";
import { LLM } from "../../runtime/llm.ts";
import type { Limits, Manifest } from "../../runtime/manifest.ts";
import { parseManifest } from "../../runtime/manifest-validator.ts";
import { defaultSamplingParams } from "../../runtime/sampling-params.ts";
import { UsageError } from "./exit.ts";
import { cudaDriver } from "./gpu.ts";
import { type CompileFlags, defaultCompileFlags, type LoadFlags } from "./options.ts";
import { withProgress } from "./progress.ts";
import type { Verifiable } from "./verification.ts";

/** The manifest of an engine folder. Throws `ManifestError`. */
export function readManifest(folder: string): Manifest {
  const file = join(folder, "manifest.json");
  if (!existsSync(file)) throw new ManifestError(`${file} is missing: compile the model again to write a new engine`);
  return parseManifest(readFileSync(file, "utf8"), file);
}

/** Loads an engine as the flags ask. Throws `UsageError` where it cannot be what they ask for. */
export async function loadLlm(folder: string, flags: LoadFlags & Partial<CompileFlags>): Promise<LLM> {
  if (flags.batchInvariant) refuseVaryingSums(readManifest(folder));
  const options = {
    threads: flags.threads,
    device: flags.device,
    driver: cudaDriver(),
    kvCacheMemoryBytes: flags.kvCacheMemory,
    memoryUtilization: flags.memoryUtilization,
    enablePrefixCaching: flags.enablePrefixCaching,
    ...saidLimits(flags),
  };
  return checkingWeights((onHash) =>
    withProgress("loading weights", (onLoad) => LLM.load(folder, { ...options, onHash, onLoad }), "bytes"),
  );
}

/** Programs for steps of different sizes add in orders of their own. */
const sumsVary = ({ programs }: Manifest): boolean => programs.length > 1;

function refuseVaryingSums(manifest: Manifest): void {
  if (!sumsVary(manifest)) return;
  const sizes = manifest.programs.map(({ maxTokens }) => maxTokens).join(", ");
  throw new UsageError(
    `--batch-invariant cannot be kept by ${manifest.name} for ${manifest.target}, which adds in another order in steps of up to ${sizes} ` +
      "tokens, so that tokens may depend on the batch: leave the flag out, or compile for a CPU",
  );
}

const checkingWeights = <T>(work: (onHash: HashProgress) => Promise<T>): Promise<T> =>
  withProgress("checking weights", work, "bytes");

/** Limits that somebody asked for; the others stay the engine's own. */
function saidLimits(flags: Partial<CompileFlags>): Partial<Limits> {
  const names = ["maxModelLen", "maxNumSeqs", "maxNumBatchedTokens"] as const;
  const unsaid = defaultCompileFlags();
  return Object.fromEntries(names.filter((n) => flags[n] !== unsaid[n]).map((n) => [n, flags[n]]));
}

/**
 * An engine with what verification asks of it, its weights hashed whatever their stamp says. Throws `ManifestError` when the weights are
 * not the manifest's.
 */
export async function loadForVerification(folder: string, flags: LoadFlags & Partial<CompileFlags>) {
  const manifest = readManifest(folder);
  await checkingWeights((onHash) => checkWeights(folder, manifest, { trustStamp: false, onHash }));
  const llm = await loadLlm(folder, flags);
  const engine: Verifiable = {
    maxTokens: llm.maxModelLen,
    rebuiltBeyond: manifest.kvCache.rebuiltBeyond,
    sumsVary: sumsVary(manifest),
    forward: (ids, options) => llm.forward(ids, options),
    decode: (ids, options) => llm.forward(ids, { ...options, maxNumBatchedTokens: 1 }),
    async greedy(ids, count) {
      const tokens: number[] = [];
      try {
        // Nothing of the model's generation config: a penalty there would change the choice.
        const params = { ...defaultSamplingParams, temperature: 0, maxTokens: count, ignoreEos: true };
        for await (const delta of llm.stream(ids, params)) tokens.push(...delta.tokenIds);
      } catch (error) {
        if (!(error instanceof EngineError)) throw error; // the model gave no token: what is missing counts as wrong
      }
      return tokens;
    },
  };
  return { engine, manifest, close: () => llm.close() };
}
