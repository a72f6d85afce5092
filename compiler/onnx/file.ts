/**
 * Writes ONNX files, weights inside or, where protocol buffers end, in `FILE.data` beside it.
 *
 * Weights stream from their source through windows of a few megabytes; memory holds only the graph.
 */
import { existsSync, rmSync, statSync } from "node:fs";
import { type FileHandle, mkdir, open, rename } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { ensureSpace, writeError } from "../engine/disk.ts";
import { CompileError } from "../errors.ts";
import { checkSources } from "../weights/check-sources.ts";
import { type PackProgress, type PackSink, packWeights, streamWeights } from "../weights/pack.ts";
import type { WeightSource } from "../weights/source.ts";
import type { OnnxModel } from "./model.ts";
import { EXTERNAL, GraphProto, ModelProto, TensorProto } from "./proto.ts";

/** No message of protocol buffers, and so no file, is longer. */
const MAX_MESSAGE_BYTES = 2 ** 31 - 1;

export interface OnnxFileOptions {
  /** Where the weights come from, and what errors call it; null writes the graph alone, its weights references to `FILE.data`. */
  readonly weights: { readonly source: WeightSource; readonly name: string } | null;
  readonly onProgress?: PackProgress;
  /** Bytes up to which weights stand in the file itself. */
  readonly embedBytes?: number;
}

/** What was written. */
export interface OnnxFiles {
  readonly file: string;
  /** The weights' own file, where there is one. */
  readonly data: string | null;
  readonly bytes: number;
}

/**
 * Writes `model` to `file`: whole or not at all. Throws `CompileError` for a checkpoint that lacks a tensor, and for a place that is
 * full or cannot be written.
 */
export async function writeOnnx(file: string, model: OnnxModel, options: OnnxFileOptions): Promise<OnnxFiles> {
  const { weights, onProgress, embedBytes = MAX_MESSAGE_BYTES } = options;
  const there = existsSync(file) ? statSync(file) : null;
  if (there?.isDirectory())
    throw new CompileError(`${file} is a folder; expected the name of a file to write, such as ${file}/model.onnx`);
  if (there && !there.isFile())
    throw new CompileError(`${file} is a device or a pipe, which the file would replace; expected the name of a file to write`);
  if (weights) checkSources(model.plan, weights.source, weights.name);
  const data = `${file}.data`;
  const inside = framed(model);
  const fits = inside.bytes <= embedBytes;
  const [embedded, apart] = fits ? [weights?.source, undefined] : [undefined, weights?.source];
  const frame = embedded ? inside : referring(model, basename(data));
  const bytes = frame.bytes + (apart ? model.plan.bytes : 0);
  const partial = { file: `${file}.partial`, data: `${data}.partial` };
  const onExit = () => {
    for (const path of [partial.file, partial.data, `${partial.data}.partial`]) if (existsSync(path)) rmSync(path);
  };
  process.once("exit", onExit); // an interrupt ends the process at once
  try {
    await mkdir(dirname(file), { recursive: true });
    await ensureSpace(file, bytes, "--onnx");
    if (apart) await packWeights(model.plan, apart, partial.data, onProgress);
    await writeFrame(partial.file, frame, embedded ? (sink) => streamWeights(model.plan, embedded, sink, onProgress) : null);
    if (apart) await rename(partial.data, data);
    await rename(partial.file, file);
    return { file, data: apart ? data : null, bytes };
  } catch (error) {
    onExit();
    throw writeError(error, file, { what: "file", flag: "--onnx" });
  } finally {
    process.removeListener("exit", onExit);
  }
}

/** The bytes of a model around those of its weights: `head`, then for each tensor `before`, and `size` bytes of content. */
interface Frame {
  readonly head: readonly Uint8Array[];
  readonly tensors: readonly { readonly before: readonly Uint8Array[]; readonly size: number }[];
  readonly bytes: number;
}

/** Field numbers of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. */
const FIELD = { "ModelProto.graph": 7, "GraphProto.initializer": 5, "TensorProto.raw_data": 9 } as const;

/** The model with its weights inside, framed by hand since no encoder streams. */
function framed({ model, initializers, plan }: OnnxModel): Frame {
  const tensors = initializers.map((proto, i) => {
    const size = (plan.tensors[i] as (typeof plan.tensors)[number]).entry.bytes;
    const described = [TensorProto.encode(proto).finish(), fieldHead("TensorProto.raw_data", size)];
    return { before: [fieldHead("GraphProto.initializer", length(described) + size), ...described], size };
  });
  const { graph, ...rest } = model;
  const nodes = GraphProto.encode(graph ?? {}).finish();
  const content = tensors.reduce((sum, t) => sum + length(t.before) + t.size, 0);
  const head = [ModelProto.encode(rest).finish(), fieldHead("ModelProto.graph", nodes.length + content), nodes];
  return { head, tensors, bytes: length(head) + content };
}

/** The model with references to its weights in `location`. */
function referring({ model, initializers, plan }: OnnxModel, location: string): Frame {
  const initializer = initializers.map((proto, i) => {
    const { offset, bytes } = (plan.tensors[i] as (typeof plan.tensors)[number]).entry;
    const external = Object.entries({ location, offset, length: bytes });
    return { ...proto, dataLocation: EXTERNAL, externalData: external.map(([key, value]) => ({ key, value: `${value}` })) };
  });
  const graph = { ...model.graph, initializer: [...(model.graph?.initializer ?? []), ...initializer] };
  const head = [ModelProto.encode({ ...model, graph }).finish()];
  return { head, tensors: [], bytes: length(head) };
}

/** A field of `size` bytes begins. */
function fieldHead(field: keyof typeof FIELD, size: number): Uint8Array {
  const bytes = [(FIELD[field] << 3) | 2];
  for (let rest = size; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Uint8Array.from([...bytes, rest]);
    bytes.push((rest % 128) | 128);
  }
}

const length = (parts: readonly Uint8Array[]): number => parts.reduce((sum, part) => sum + part.length, 0);

async function writeFrame(path: string, frame: Frame, stream: ((sink: PackSink) => Promise<unknown>) | null): Promise<void> {
  const handle = await open(path, "w");
  try {
    for (const part of frame.head) await handle.writeFile(part);
    if (stream) await stream(between(frame, handle));
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Takes the weights as in a file of their own, each up to a page's end, and writes them into the frame. */
function between({ tensors }: Frame, handle: FileHandle): PackSink {
  let next = 0;
  let left = 0;
  return {
    async write(bytes) {
      if (left === 0) {
        const { before, size } = tensors[next++] as Frame["tensors"][number];
        for (const part of before) await handle.writeFile(part);
        left = size;
      }
      const content = bytes.subarray(0, left);
      await handle.writeFile(content);
      left -= content.length;
    },
  };
}
