/**
 * `ingot compile`: a model becomes an engine folder.
 */
import { Command } from "commander";
import type { CompileReport } from "../../compile.ts";
import { explainKernels, type KernelExplanation, printExplanation } from "../../explain.ts";
import type { Generated } from "../../pipeline.ts";
import { compileModel } from "../compile-model.ts";
import { UsageError } from "../exit.ts";
import { modelSource } from "../model-source.ts";
import { addCompileFlags, addJsonFlag, type CompileFlags, flag, toggle } from "../options.ts";
import { formatBytes, log } from "../progress.ts";

type Flags = CompileFlags & { output?: string; build: boolean; weightsFile: boolean; explain?: boolean; json?: boolean };

export function compileCommand(): Command {
  const command = new Command("compile")
    .description("compile a model into an engine folder: readable kernels, packed weights, manifest")
    .argument("<model>", "a model folder (config.json and safetensors), or a preset with --weights random")
    .action(async (model: string, flags: Flags) => {
      const source = modelSource(model, flags.weights);
      if (source.kind === "engine")
        throw new UsageError(`${model} is an engine already; to build its kernels here: ingot build ${model}`);
      let explanation: readonly KernelExplanation[] | undefined;
      const onGenerated = (generated: Generated): void => {
        explanation = explainKernels(generated);
      };
      const { build, weightsFile, output: out } = flags;
      const manner = { build, weightsFile, out, say: log, onGenerated: flags.explain ? onGenerated : undefined };
      const report = await compileModel(source, flags, manner);
      if (flags.json) return console.log(JSON.stringify({ ...report, explanation }, null, 2));
      console.log(summary(report, flags));
      if (explanation) console.log(`\n${printExplanation(explanation)}`);
    });
  flag(command, "-o, --output <dir>", "engine folder to write; default: one in the cache");
  toggle(command, "--no-build", "write sources and weights, build no kernels");
  toggle(command, "--no-weights-file", "leave weights.bin out: kernels to look at, of a model too large for this disk");
  toggle(command, "--explain", "say of each kernel which lines of the model it came from, what was fused and why");
  addCompileFlags(command);
  return addJsonFlag(command);
}

function summary(report: CompileReport & { target: string }, flags: Flags): string {
  if (report.upToDate) return `${report.folder} is up to date (${report.target}): nothing to do`;
  const { generate, pack, build } = report.seconds;
  return (
    `${report.folder}\n${report.kernels} kernels for ${report.target}, ${formatBytes(report.weightBytes)} of weights ` +
    `(generated in ${generate.toFixed(1)} s, ${flags.weightsFile ? `packed in ${pack.toFixed(1)} s` : "not packed"}, ${flags.build ? `built in ${build.toFixed(1)} s` : "not built"})`
  );
}
