/**
 * Graphs run as ONNX models by onnxruntime.
 */
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import type { Graph } from "../../compiler/ir/graph.ts";
import type { StepInputs } from "../../compiler/ir/step.ts";
import { type OnnxFileOptions, type OnnxFiles, writeOnnx } from "../../compiler/onnx/file.ts";
import { onnxModel } from "../../compiler/onnx/model.ts";
import type { WeightSource } from "../../compiler/weights/source.ts";
import { scratchFolder } from "./compiled-engine.ts";

const scratch = scratchFolder("onnx");

/** Sequences of equal length. */
export type Batch = readonly (readonly number[])[];

/** Writes `graph` as `name`.onnx into a scratch folder. */
export function exported(
  graph: Graph,
  name: string,
  source: WeightSource,
  options: Partial<OnnxFileOptions> = {},
): Promise<OnnxFiles> {
  const model = onnxModel(graph, { name, version: "test", metadata: {} });
  return writeOnnx(join(scratch, `${name}.onnx`), model, { weights: { source, name }, ...options });
}

/** A session of a file. */
export const openOnnx = (file: string): Promise<InferenceSession> => InferenceSession.create(file, { logSeverityLevel: 3 });

/** What the model gives for a batch, row-major. */
export async function outputOf(session: InferenceSession, batch: Batch): Promise<Float32Array> {
  const dims = [batch.length, batch[0]!.length];
  const ids = new Tensor("int64", BigInt64Array.from(batch.flat(), BigInt), dims);
  const { logits } = await session.run({ input_ids: ids });
  return logits!.data as Float32Array;
}

/** One step of the same sequences, with the logits of every token. */
export function batchStep(batch: Batch, blockSize: number): StepInputs {
  const length = batch[0]!.length;
  const P = Math.ceil(length / blockSize);
  const T = batch.length * length;
  return {
    binding: { T, B: batch.length, S: T, P },
    arrays: {
      token_ids: Int32Array.from(batch.flat()),
      positions: Int32Array.from({ length: T }, (_, t) => t % length),
      seq_ids: Int32Array.from({ length: T }, (_, t) => Math.floor(t / length)),
      seq_lens: new Int32Array(batch.length).fill(length),
      block_tables: Int32Array.from({ length: batch.length * P }, (_, i) => i),
      sample_rows: Int32Array.from({ length: T }, (_, t) => t),
    },
  };
}

/** f32 tensors of a graph by name. */
export function arraySource(graph: Graph, values: (name: string) => Float32Array): WeightSource {
  const shapes = new Map(
    graph.liveNodes().flatMap((n) => (n.op === "weight" ? [[n.attrs.name, n.type.shape as readonly number[]] as const] : [])),
  );
  return {
    list: () => [...shapes].map(([name]) => ({ name, bytes: values(name).byteLength })),
    find: (name) => (shapes.has(name) ? { dtype: "f32", shape: shapes.get(name)! } : undefined),
    async read(name, begin, into) {
      const { buffer, byteOffset } = values(name).subarray(begin, begin + into.length / 4);
      into.set(new Uint8Array(buffer, byteOffset, into.length));
    },
  };
}
