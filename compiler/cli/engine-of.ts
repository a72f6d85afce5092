/**
 * From what a user named to an engine folder, for the verbs that run one: an engine as it is, a model compiled on first use.
 *
 * The compiler is loaded only when there is something to compile.
 */
import type { Manifest } from "../../runtime/manifest.ts";
import { UsageError } from "./exit.ts";
import { readManifest } from "./load.ts";
import { modelSource } from "./model-source.ts";
import { ensureAddon } from "./native-addon.ts";
import { type CompileFlags, defaultCompileFlags } from "./options.ts";
import { log } from "./progress.ts";

/**
 * The engine folder of `model`: itself, or one in the cache. Throws `UsageError` for flags that would change a compiled engine, and
 * what the compiler throws.
 */
export async function engineOf(model: string, flags: CompileFlags, say: (message: string) => void = log): Promise<string> {
  const source = modelSource(model, flags.weights);
  ensureAddon();
  if (source.kind === "engine") {
    refuseChanges(model, readManifest(source.folder), flags);
    return source.folder;
  }
  const { compileModel } = await import("./compile-model.ts");
  const { folder } = await compileModel(source, flags, { build: true, say });
  return folder;
}

/** An engine's limits can be lowered when it is loaded; everything else stands in its kernels and weights. */
function refuseChanges(engine: string, manifest: Manifest, flags: CompileFlags): void {
  const is: Partial<Record<keyof CompileFlags, unknown>> = {
    target: manifest.target,
    dtype: manifest.model.dtype,
    kvCacheDtype: DTYPE_NAMES[manifest.kvCache.dtype],
    layers: manifest.model.numLayers,
    weights: undefined,
    weightsSeed: undefined,
    arch: undefined,
  };
  const unsaid = defaultCompileFlags();
  for (const name of Object.keys(is) as (keyof CompileFlags)[]) {
    if (flags[name] === unsaid[name] || flags[name] === is[name]) continue;
    const flag = `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    const found = is[name] === undefined ? "" : ` with ${is[name]}`;
    throw new UsageError(
      `${flag} ${flags[name]} cannot change ${engine}, an engine compiled${found}: leave the flag out, or name the model`,
    );
  }
}

const DTYPE_NAMES: Readonly<Record<string, string>> = { f32: "float32", bf16: "bfloat16", f16: "float16", fp8_e4m3: "fp8" };
