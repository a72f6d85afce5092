/**
 * From what a user named to a file in another format.
 */
import type { OnnxFiles } from "../onnx/file.ts";
import { writeOnnx } from "../onnx/file.ts";
import { onnxModel } from "../onnx/model.ts";
import { describeModel } from "./compile-model.ts";
import { graphOf } from "./model-graph.ts";
import type { ModelSource } from "./model-source.ts";
import { openWeights } from "./model-weights.ts";
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
      const weights = openWeights(source, architecture, config, flags);
      const name = weights.checkpoint?.folder ?? source.name;
      try {
        return await writeOnnx(file, model, { weights: { source: weights.source, name }, onProgress });
      } finally {
        weights.close();
      }
    },
    "bytes",
  );
}
