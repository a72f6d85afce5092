/**
 * Loads engines for the verbs that run them.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { LLM } from "../../runtime/llm.ts";
import type { Limits, Manifest } from "../../runtime/manifest.ts";
import { parseManifest } from "../../runtime/manifest-validator.ts";
import { type CompileFlags, defaultCompileFlags, type LoadFlags } from "./options.ts";
import type { Verifiable } from "./verification.ts";

/** The manifest of an engine folder. Throws `ManifestError`. */
export function readManifest(folder: string): Manifest {
  const file = join(folder, "manifest.json");
  return parseManifest(readFileSync(file, "utf8"), file);
}

/** Loads an engine as the flags ask. */
export function loadLlm(folder: string, flags: LoadFlags & Partial<CompileFlags>): Promise<LLM> {
  return LLM.load(folder, {
    threads: flags.threads,
    kvCacheMemoryBytes: flags.kvCacheMemory,
    memoryUtilization: flags.memoryUtilization,
    enablePrefixCaching: flags.enablePrefixCaching,
    ...saidLimits(flags),
  });
}

/** Limits that somebody asked for; the others stay the engine's own. */
function saidLimits(flags: Partial<CompileFlags>): Partial<Limits> {
  const names = ["maxModelLen", "maxNumSeqs", "maxNumBatchedTokens"] as const;
  const unsaid = defaultCompileFlags();
  return Object.fromEntries(names.filter((n) => flags[n] !== unsaid[n]).map((n) => [n, flags[n]]));
}

/** An engine with what verification asks of it. */
export async function loadForVerification(folder: string, flags: LoadFlags & Partial<CompileFlags>) {
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
