/**
 * Loads engines for the verbs that run them.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { LLM, type LLMOptions } from "../../runtime/llm.ts";
import type { Limits, Manifest } from "../../runtime/manifest.ts";
import { parseManifest } from "../../runtime/manifest-validator.ts";
import type { LoadFlags } from "./options.ts";
import type { Verifiable } from "./verification.ts";

/** The manifest of an engine folder. Throws `ManifestError`. */
export function readManifest(folder: string): Manifest {
  const file = join(folder, "manifest.json");
  return parseManifest(readFileSync(file, "utf8"), file);
}

/** Loads an engine as the flags ask; limits below the engine's own are taken, higher ones are not its to give. */
export function loadLlm(folder: string, flags: LoadFlags & Partial<Limits>, more: LLMOptions = {}): Promise<LLM> {
  const { limits } = readManifest(folder);
  const lowered = (limit: keyof Limits) => Math.min(flags[limit] ?? limits[limit], limits[limit]);
  return LLM.load(folder, {
    maxModelLen: lowered("maxModelLen"),
    maxNumSeqs: lowered("maxNumSeqs"),
    maxNumBatchedTokens: lowered("maxNumBatchedTokens"),
    threads: flags.threads,
    kvCacheMemoryBytes: flags.kvCacheMemory,
    memoryUtilization: flags.memoryUtilization,
    enablePrefixCaching: flags.enablePrefixCaching,
    ...more,
  });
}

/** An engine with what verification asks of it. */
export async function loadForVerification(folder: string, flags: LoadFlags) {
  const llm = await loadLlm(folder, flags);
  const engine: Verifiable = {
    forward: (ids, options) => llm.forward(ids, options),
    async greedy(ids, count) {
      const [output] = await llm.generate([ids], { temperature: 0, maxTokens: count, ignoreEos: true });
      return output?.outputs[0]?.tokenIds ?? [];
    },
  };
  return { engine, manifest: readManifest(folder), close: () => llm.close() };
}
