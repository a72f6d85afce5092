/**
 * `ingot verify`: the engine, layer by layer, against recorded activations or the interpreter.
 */
import { Command } from "commander";
import { formatTable } from "../../../runtime/bench/text-table.ts";
import type { Manifest } from "../../../runtime/manifest.ts";
import { CompileError } from "../../errors.ts";
import { architectureOfEngine } from "../architecture-of.ts";
import { engineOf } from "../engine-of.ts";
import { type Golden, hasGolden, readGolden } from "../golden.ts";
import { interpreterReference, interpreterTolerance } from "../interpreter-reference.ts";
import { loadForVerification, readManifest } from "../load.ts";
import { modelSource } from "../model-source.ts";
import { addCompileFlags, addJsonFlag, addLoadFlags, type CompileFlags, flag, integer, type LoadFlags } from "../options.ts";
import { log, withProgress } from "../progress.ts";
import { unusedNotes } from "../unused-notes.ts";
import { COUNTS, GREEDY_TOKENS, type Verification, verifyAgainst, verifyGolden, whereToLook } from "../verification.ts";

type Flags = CompileFlags & LoadFlags & { json?: boolean; golden?: string; tokens: number };

export function verifyCommand(): Command {
  const command = new Command("verify")
    .description("compare an engine with recorded activations or with the interpreter; exits with 1 when it is off")
    .argument("<model>", "an engine folder, a model folder, or a preset with --weights random")
    .action(async (model: string, flags: Flags) => {
      const result = await verify(model, flags);
      console.log(flags.json ? JSON.stringify(result, null, 2) : report(result));
      if (!result.ok) process.exitCode = 1;
    });
  flag(command, "--golden <dir>", "folder with golden.json and golden.safetensors; default: the model folder if it has them");
  flag(command, "--tokens <n>", "most random tokens of a prompt when comparing with the interpreter", integer(1), 130);
  addCompileFlags(command);
  addLoadFlags(command);
  return addJsonFlag(command);
}

async function verify(model: string, flags: Flags): Promise<Verification> {
  const golden = flags.golden ?? (hasGolden(model) ? model : null);
  const { arch, ...others } = flags; // an engine's architecture changes nothing of it, but the interpreter needs it
  const isEngine = modelSource(model, flags.weights).kind === "engine";
  const folder = await engineOf(model, isEngine ? others : flags);
  const compiled = readManifest(folder);
  if (isEngine) for (const note of unusedNotes(compiled.weights.unused)) log(note); // of a model, its compile said it
  const reference = golden === null ? await architectureOfEngine(folder, compiled, arch) : golden;
  const loaded = await loadForVerification(folder, flags);
  try {
    const { engine, manifest } = loaded;
    const { dtype } = manifest.model;
    if (typeof reference === "string") {
      const recorded = readGolden(reference);
      refuseOther(recorded, manifest, reference);
      const against = { dtype, cache: manifest.kvCache.dtype, reference };
      return await withProgress("comparing tokens", (onProgress) => verifyGolden(engine, recorded, against, onProgress));
    }
    log("no recorded activations: comparing with the interpreter on random tokens …");
    const longest = Math.max(1, Math.min(flags.tokens, engine.maxTokens - GREEDY_TOKENS));
    const prompts = await withProgress("interpreting tokens", (onProgress) =>
      interpreterReference(folder, manifest, reference, longest, onProgress),
    );
    const options = { dtype, tolerance: interpreterTolerance(manifest), reference: "interpreter" };
    return await withProgress("comparing tokens", (onProgress) => verifyAgainst(engine, prompts, options, onProgress));
  } finally {
    await loaded.close();
  }
}

/** Throws `CompileError` where a recording is of a model of another shape. */
function refuseOther({ prompts }: Golden, { model }: Manifest, golden: string): void {
  for (const { ids, logits, hidden } of prompts) {
    const layers = hidden.length > 0 ? hidden.length - 1 : model.numLayers;
    const vocabSize = logits.length / ids.length;
    if (layers === model.numLayers && vocabSize === model.vocabSize) continue;
    throw new CompileError(
      `${golden} is a recording of another model: one of ${layers} layers and a vocabulary of ${vocabSize}, ` +
        `where this one has ${model.numLayers} and ${model.vocabSize}`,
    );
  }
}

function report(result: Verification): string {
  const text = (n: number, what: string) => (COUNTS.has(what) ? String(n) : n.toExponential(2));
  const table = formatTable(
    ["prompt", "tokens", "what", "error", "allowed", ""],
    result.rows.map((r) => [
      String(r.prompt),
      String(r.tokens),
      r.what,
      text(r.error, r.what),
      text(r.allowed, r.what),
      r.ok ? "ok" : "OFF",
    ]),
  );
  const { firstFailure: f } = result;
  const verdict = f
    ? `FAILED: first off is ${f.what} of prompt ${f.prompt} (${f.tokens} tokens)`
    : `passed: ${result.rows.length} comparisons`;
  const hint = whereToLook(result);
  return `${table}\n\n${verdict}, ${result.dtype} against ${result.reference}${hint === null ? "" : `\n${hint}`}`;
}
