/**
 * `ingot verify`: the engine, layer by layer, against recorded activations or the interpreter.
 */
import { Command } from "commander";
import { formatTable } from "../../../runtime/bench/text-table.ts";
import { engineOf } from "../engine-of.ts";
import { hasGolden, readGolden } from "../golden.ts";
import { interpreterReference } from "../interpreter-reference.ts";
import { loadForVerification } from "../load.ts";
import { addCompileFlags, addJsonFlag, addLoadFlags, type CompileFlags, flag, integer, type LoadFlags } from "../options.ts";
import { log } from "../progress.ts";
import { F32_TOLERANCE, type Verification, verifyAgainst, verifyGolden } from "../verification.ts";

type Flags = CompileFlags & LoadFlags & { json?: boolean; golden?: string; tokens: number };

/** Loose enough for bf16 rounding of activations against an interpreter that rounds at the same places; layers compound it. */
const BF16_TOLERANCE = 0.02;

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
  flag(command, "--tokens <n>", "random tokens per prompt when comparing with the interpreter", integer(1), 24);
  addCompileFlags(command);
  addLoadFlags(command);
  return addJsonFlag(command);
}

async function verify(model: string, flags: Flags): Promise<Verification> {
  const golden = flags.golden ?? (hasGolden(model) ? model : null);
  const folder = await engineOf(model, flags);
  const loaded = await loadForVerification(folder, flags);
  try {
    const { dtype } = loaded.manifest.model;
    if (golden !== null) return await verifyGolden(loaded.engine, readGolden(golden), dtype, golden);
    log("no recorded activations: comparing with the interpreter on random tokens …");
    const reference = await interpreterReference(folder, loaded.manifest);
    return await verifyAgainst(loaded.engine, reference.prompts(flags.tokens), reference.compute, {
      dtype,
      tolerance: dtype === "float32" ? F32_TOLERANCE : BF16_TOLERANCE,
      reference: "interpreter",
    });
  } finally {
    await loaded.close();
  }
}

function report(result: Verification): string {
  const text = (n: number, what: string) => (what === "greedy" ? String(n) : n.toExponential(2));
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
  return `${table}\n\n${verdict}, ${result.dtype} against ${result.reference}`;
}
