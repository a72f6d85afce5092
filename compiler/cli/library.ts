/**
 * The package's entry `ingot`: models loaded, prompts in, text out.
 *
 * `LLM.load` takes engine folders and model folders alike; a model folder is compiled on first use and kept in the cache.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { LLM as EngineLLM, type LLMOptions, loadParts } from "../../runtime/llm.ts";

export { registerArchitecture } from "../../models/registry.ts";
export { EngineError, ManifestError, RequestError } from "../../runtime/errors.ts";
export type { ChatOptions, LLMOptions, Prompt, RequestOptions } from "../../runtime/llm.ts";
export type { FinishReason, OutputDelta, RequestOutput, TokenLogprob } from "../../runtime/request.ts";
export type { SamplingParams } from "../../runtime/sampling-params.ts";

/** How a model is loaded, and what it is where a folder's config.json does not say it to Ingot. */
export interface LoadOptions extends LLMOptions {
  /** A TypeScript file that exports the model folder's architecture, as `--arch` takes it. */
  readonly arch?: string;
}

/** A loaded language model; see `runtime/llm.ts` for its methods. */
export class LLM extends EngineLLM {
  /** Loads an engine, or compiles a model folder on first use. Throws as the compiler and `runtime/llm.ts` do. */
  static override async load(path: string, { arch, ...options }: LoadOptions = {}): Promise<LLM> {
    return new LLM(await loadParts(path, { resolve: (folder) => compileOnFirstUse(folder, arch), ...options }));
  }
}

async function compileOnFirstUse(path: string, arch: string | undefined): Promise<string> {
  const { ensureAddon } = await import("./native-addon.ts");
  ensureAddon();
  if (arch === undefined && existsSync(join(path, "manifest.json"))) return path;
  const { engineOf } = await import("./engine-of.ts");
  const { defaultCompileFlags } = await import("./options.ts");
  return engineOf(path, { ...defaultCompileFlags(), arch }, () => {});
}
