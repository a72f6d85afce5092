/**
 * `ingot compile` and `ingot build`: a model becomes an engine folder; an engine's sources become a library for this machine.
 */
import { join } from "node:path";
import { Command } from "commander";
import { writeManifest } from "../../engine/contents.ts";
import { buildLibrary } from "../../engine/library.ts";
import { compileModel } from "../compile-model.ts";
import { UsageError } from "../exit.ts";
import { readManifest } from "../load.ts";
import { modelSource } from "../model-source.ts";
import { addCompileFlags, addJsonFlag, type CompileFlags, flag } from "../options.ts";
import { kernelCache } from "../places.ts";
import { formatBytes, progress } from "../progress.ts";
import { engineFolder } from "./engines.ts";

type Flags = CompileFlags & { output?: string; build: boolean; json?: boolean };

export function compileCommand(): Command {
  const command = new Command("compile")
    .description("compile a model into an engine folder: readable kernels, packed weights, manifest")
    .argument("<model>", "a model folder (config.json and safetensors), or a preset with --weights random")
    .action(async (model: string, flags: Flags) => {
      const source = modelSource(model, flags.weights);
      if (source.kind === "engine")
        throw new UsageError(`${model} is an engine already; to build its kernels here: ingot build ${model}`);
      const report = await compileModel(source, flags, { build: flags.build, out: flags.output });
      if (flags.json) return console.log(JSON.stringify(report, null, 2));
      if (report.upToDate) return console.log(`${report.folder} is up to date (${report.target}): nothing to do`);
      const { generate, pack, build } = report.seconds;
      console.log(report.folder);
      console.log(
        `${report.kernels} kernels for ${report.target}, ${formatBytes(report.weightBytes)} of weights ` +
          `(generated in ${generate.toFixed(1)} s, packed in ${pack.toFixed(1)} s, ${flags.build ? `built in ${build.toFixed(1)} s` : "not built"})`,
      );
    });
  flag(command, "-o, --output <dir>", "engine folder to write; default: one in the cache");
  flag(command, "--no-build", "write sources and weights, build no kernels");
  addCompileFlags(command);
  return addJsonFlag(command);
}

export function buildCommand(): Command {
  const command = new Command("build")
    .description("build an engine's generated sources for this machine")
    .argument("<engine>", "an engine folder or an id from `ingot list`")
    .action(async (engine: string, flags: { json?: boolean }) => {
      const folder = engineFolder(engine);
      const manifest = readManifest(folder);
      const bar = progress("building kernels");
      const library = await buildLibrary(folder, manifest.target, kernelCache(), (done, total) => bar.update(done, total));
      bar.stop();
      const changed = manifest.library?.sha256 !== library.sha256;
      if (changed) await writeManifest(folder, { ...manifest, library });
      if (flags.json) return console.log(JSON.stringify({ folder, target: manifest.target, library, changed }, null, 2));
      console.log(`${join(folder, library.file)} (${manifest.target})${changed ? "" : " was up to date"}`);
    });
  return addJsonFlag(command);
}
