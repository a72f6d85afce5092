/**
 * From what a user named to a file in another format.
 */
import { computeDType } from "../architecture.ts";
import type { OnnxFiles } from "../onnx/file.ts";
import { writeOnnx } from "../onnx/file.ts";
import { onnxModel } from "../onnx/model.ts";
import { underWholeNames } from "../weights/base-model.ts";
import { RandomWeights } from "../weights/random.ts";
import { openCheckpoint } from "../weights/safetensors.ts";
import type { WeightDType, WeightSource } from "../weights/source.ts";
import { describeModel } from "./compile-model.ts";
import { graphOf } from "./model-graph.ts";
import type { ModelSource } from "./model-source.ts";
import type { ModelFlags } from "./options.ts";
import { packageVersion } from "./package-root.ts";
import { withProgress } from "./progress.ts";

/** Writes a model as ONNX; `withWeights` false leaves its weights out. Throws `CompileError`, `UsageError`. */
export async function exportOnnx(
  source: Exclude<ModelSource, { kind: "engine" }>,
  file: string,
  flags: ModelFlags,
  withWeights: boolean,
): Promise<OnnxFiles> {
  const { architecture, config } = await describeModel(source, flags);
  const graph = graphOf(architecture, config, "f32"); // nothing is kept in a cache, so nothing is rounded there
  const metadata = { architecture: config.architecture, dtype: config.dtype };
  const model = onnxModel(graph, { name: source.name, version: packageVersion(), metadata });
  if (!withWeights) return writeOnnx(file, model, { weights: null });
  return withProgress(
    "writing weights",
    async (onProgress) => {
      const write = (weights: WeightSource, name: string) =>
        writeOnnx(file, model, { weights: { source: weights, name }, onProgress });
      if (flags.weights === "random" || source.kind === "preset") {
        const shapes = new Map(architecture.weights(config).map((w) => [w.name, w.shape]));
        return write(new RandomWeights(flags.weightsSeed, computeDType(config.dtype) as WeightDType, shapes), source.name);
      }
      const checkpoint = openCheckpoint(source.folder);
      try {
        const names = architecture.weights(config).map((w) => w.name);
        return await write(underWholeNames(checkpoint, names), source.folder);
      } finally {
        checkpoint.close();
      }
    },
    "bytes",
  );
}
