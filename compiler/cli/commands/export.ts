/**
 * `ingot export`: a model becomes a file that other programs read.
 */
import { resolve } from "node:path";
import { Command } from "commander";
import { UsageError } from "../exit.ts";
import { exportOnnx } from "../export-model.ts";
import { modelSource } from "../model-source.ts";
import { addJsonFlag, addModelFlags, flag, type ModelFlags } from "../options.ts";
import { formatBytes } from "../progress.ts";

type Flags = Omit<ModelFlags, "weights"> & { onnx?: string; weights: string | false; json?: boolean };

export function exportCommand(): Command {
  const command = new Command("export")
    .description("write a model as ONNX: token ids of whole sequences in, logits of every token out")
    .argument("<model>", "a model folder (config.json and safetensors), or a preset with --weights random or --no-weights")
    .action(async (model: string, { onnx, ...flags }: Flags) => {
      if (!onnx) throw new UsageError("--onnx FILE is missing: the file to write");
      const withWeights = flags.weights !== false && flags.weights !== "none";
      const weights = withWeights ? (flags.weights as string) : "random"; // where none are written none are needed
      const source = modelSource(model, weights);
      if (source.kind === "engine")
        throw new UsageError(`${model} is an engine, its weights packed for its kernels: name the model it was compiled from`);
      const written = await exportOnnx(source, resolve(onnx), { ...flags, weights }, withWeights);
      if (flags.json) return console.log(JSON.stringify(written, null, 2));
      console.log(written.file);
      if (written.data) console.log(written.data);
      console.log(`${formatBytes(written.bytes)}${withWeights ? "" : ", without weights"}`);
    });
  flag(command, "--onnx <file>", "file to write; weights go to FILE.data where it would be over 2 GB");
  addModelFlags(command);
  command.option(
    "--no-weights",
    "the graph alone, for viewers such as Netron: weights are references to FILE.data, which is not written (env: INGOT_WEIGHTS=none)",
  );
  return addJsonFlag(command);
}
