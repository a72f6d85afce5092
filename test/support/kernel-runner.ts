/**
 * Runs generated kernels over an interpreter's environment: packs it into the layouts kernels read, runs, and reads outputs back.
 */

import type { Isa } from "../../compiler/codegen/cpu/dialect.ts";
import { bufferLayout } from "../../compiler/codegen/cpu/layout.ts";
import { renderKernel } from "../../compiler/codegen/cpu/render.ts";
import { evaluateRpn } from "../../compiler/engine/manifest.ts";
import type { InputName } from "../../compiler/ir/ops.ts";
import type { KvState } from "../../compiler/ir/step.ts";
import { dtypeBytes, extentOf } from "../../compiler/ir/tensor-type.ts";
import type { KernelEnvironment } from "../../compiler/kernels/environment.ts";
import { kernelArgs, kernelOutputs } from "../../compiler/kernels/operands.ts";
import type { BufferValue, KernelSpec, TensorValue, Value } from "../../compiler/kernels/spec.ts";
import { scheduleKernel } from "../../compiler/schedule/cpu.ts";
import { type Place, packElements, panelElements, panelPlace, rowsPlace, tilePlace, unpackElements } from "./kernel-layouts.ts";
import { type KernelJob, type Runner, runJobs } from "./kernel-process.ts";

export interface RunOptions {
  /** Operand whose memory the output takes over, by index. */
  readonly inPlace?: number;
  readonly kvBlockSize?: number;
  /** Names of tensors packed as panels for readers that are not linears. */
  readonly panelTensors?: ReadonlySet<string>;
  /** Numbers in [0, 1) that order the ranges a launch is cut into. */
  readonly random?: () => number;
}

/** What a kernel left behind; `out` and `outBytes` are the last of its outputs. */
export interface KernelResult {
  readonly outs: readonly Float32Array[];
  readonly out: Float32Array;
  readonly outBytes: Uint8Array;
  readonly kv: KvState | null;
}

/** Runs `spec` once per environment, in one process; outputs hold NaN before. */
export function runKernel(
  spec: KernelSpec,
  runner: Runner,
  environments: readonly KernelEnvironment[],
  options: RunOptions = {},
): KernelResult[] {
  const schedule = scheduleKernel(spec, runner.isa, {
    kvBlockSize: options.kvBlockSize ?? 32,
    panelTensors: options.panelTensors ?? new Set(),
  });
  const kernel = renderKernel(spec, schedule, runner.dialect);
  const args = kernelArgs(spec).map((a) => (a.kind === "value" ? a.value : fail(`${spec.name} takes step arrays`)));
  const outs = kernelOutputs(spec);
  const kvArg = args.findIndex((a) => a.kind === "kv");
  const packed = environments.map((env) =>
    args.map((arg, i) =>
      i >= args.length - outs.length
        ? poison(arg as BufferValue, runner.isa, env)
        : packArg(spec, arg, runner.isa, env, schedule.tableLayout),
    ),
  );
  const aliasOf = options.inPlace === undefined ? -1 : args.length - 1 - operandCount(spec) + options.inPlace;

  const jobs = environments.map((env, job): KernelJob => {
    const { T, B, S, P } = env.binding;
    const memory = packed[job] as Uint8Array[];
    return {
      dims: [T, B, S, P],
      ranges: cut(evaluateRpn(schedule.grid, env.binding), schedule.chunk, options.random ?? (() => 0.5)),
      args: aliasOf < 0 ? memory : [...memory.slice(0, -1), aliasOf],
    };
  });
  return runJobs(runner, kernel, jobs).map((after, job) => {
    const env = environments[job] as KernelEnvironment;
    const bytes = after.slice(-outs.length) as Uint8Array[];
    const unpacked = outs.map((o, i) =>
      unpackElements(o.dtype, bytes[i] as Uint8Array, [rowsOf(o, env), o.cols], placeOf(o, runner.isa)),
    );
    return {
      outs: unpacked,
      out: unpacked.at(-1) as Float32Array,
      outBytes: bytes.at(-1) as Uint8Array,
      kv: kvArg < 0 ? null : unpackKv(args[kvArg] as Extract<Value, { kind: "kv" }>, after[kvArg] as Uint8Array, env),
    };
  });
}

const operandCount = (spec: KernelSpec): number => ("operands" in spec ? spec.operands.length : 0);

const rowsOf = (b: BufferValue, env: KernelEnvironment): number => extentOf(b.rows, env.binding);

const placeOf = (b: BufferValue, isa: Isa) => (bufferLayout(isa, b) === "rows" ? rowsPlace(b.cols) : tilePlace(b.cols));

function bufferElements(b: BufferValue, isa: Isa, env: KernelEnvironment): number {
  const rows = rowsOf(b, env);
  return bufferLayout(isa, b) === "rows" ? rows * b.cols : Math.ceil(rows / 16) * Math.ceil(b.cols / 32) * 512;
}

const poison = (out: BufferValue, isa: Isa, env: KernelEnvironment): Uint8Array =>
  new Uint8Array(bufferElements(out, isa, env) * dtypeBytes[out.dtype]).fill(0xff);

function packArg(spec: KernelSpec, arg: Value, isa: Isa, env: KernelEnvironment, tableLayout: string): Uint8Array {
  switch (arg.kind) {
    case "input":
      return bytesOf(env.input(arg.name as InputName));
    case "buffer": {
      const data = env.buffers.get(arg.name) ?? fail(`${arg.name} is not given`);
      const rows = rowsOf(arg, env);
      // Rows of a tile beyond the batch hold NaN: nobody may read them into a result.
      const bytes = packElements(arg.dtype, data, [rows, arg.cols], bufferElements(arg, isa, env), placeOf(arg, isa), 0);
      return bufferLayout(isa, arg) === "rows" ? bytes : poisonRows(bytes, rows, arg.cols);
    }
    case "tensor":
      return packTensor(spec, arg, env.tensor(arg), tableLayout);
    case "kv":
      return packKv(arg, env.kv(arg.layer));
  }
}

function poisonRows(bytes: Uint8Array, rows: number, cols: number): Uint8Array {
  const words = new Uint16Array(bytes.buffer);
  const place = tilePlace(cols);
  for (let row = rows; row % 16 !== 0; row++)
    for (let col = 0; col < Math.ceil(cols / 32) * 32; col++) words[place(row, col)] = 0xffff;
  return bytes;
}

function packTensor(spec: KernelSpec, tensor: TensorValue, data: Float32Array, tableLayout: string): Uint8Array {
  const shape = [tensor.rows, tensor.cols] as const;
  const isPanel =
    ("w" in spec && spec.w === tensor) || (spec.kind === "embedding" && spec.table === tensor && tableLayout === "panel16");
  if (!isPanel) return packElements(tensor.dtype, data, shape, tensor.rows * tensor.cols, rowsPlace(tensor.cols));
  const ways = "ways" in spec ? spec.ways : 1;
  const stacked = "numExperts" in spec ? spec.numExperts : 1;
  const n = tensor.rows / ways / stacked;
  const one = panelElements(tensor.dtype, n, tensor.cols, ways);
  const inOne = panelPlace(tensor.dtype, n, tensor.cols, ways);
  const rows = n * ways; // of one matrix of the stack
  const place: Place = (row, col) => Math.floor(row / rows) * one + inOne(row % rows, col);
  return packElements(tensor.dtype, data, shape, stacked * one, place);
}

/** [block][kv head][K panels | V rows] */
function kvPlaces(kv: Extract<Value, { kind: "kv" }>, blockSize: number) {
  const { headDim, numKvHeads, dtype } = kv;
  const half = blockSize * headDim;
  const head = (slot: number, col: number) => (Math.floor(slot / blockSize) * numKvHeads + Math.floor(col / headDim)) * 2 * half;
  return {
    k: (slot: number, col: number) =>
      head(slot, col) +
      panelPlace(dtype === "bf16" ? "bf16" : "f32", blockSize, headDim, 1)(slot % blockSize, col % headDim) -
      padding(slot),
    v: (slot: number, col: number) => head(slot, col) + half + (slot % blockSize) * headDim + (col % headDim),
  };
  // panelPlace pads k to 32 for bf16 weights; a cache has no padding.
  function padding(slot: number): number {
    const padded = dtype === "bf16" ? Math.ceil(headDim / 32) * 32 : headDim;
    return Math.floor((slot % blockSize) / 16) * 16 * (padded - headDim);
  }
}

function packKv(kv: Extract<Value, { kind: "kv" }>, slots: KvState): Uint8Array {
  const width = kv.numKvHeads * kv.headDim;
  const count = slots.k.length / width;
  const places = kvPlaces(kv, slots.blockSize);
  const elements = count * width * 2;
  const k = packElements(kv.dtype, slots.k, [count, width], elements, places.k);
  const v = packElements(kv.dtype, slots.v, [count, width], elements, places.v);
  return k.map((byte, i) => byte | v[i]!);
}

function unpackKv(kv: Extract<Value, { kind: "kv" }>, bytes: Uint8Array, env: KernelEnvironment): KvState {
  const { blockSize, k } = env.kv(kv.layer);
  const width = kv.numKvHeads * kv.headDim;
  const shape = [k.length / width, width] as const;
  const places = kvPlaces(kv, blockSize);
  return { blockSize, k: unpackElements(kv.dtype, bytes, shape, places.k), v: unpackElements(kv.dtype, bytes, shape, places.v) };
}

/** Cuts 0 … units − 1 at multiples of `chunk` into a few ranges and shuffles them. */
function cut(units: number, chunk: number, random: () => number): [number, number][] {
  const ranges: [number, number][] = [];
  for (let begin = 0; begin < units; ) {
    const end = Math.min(units, begin + chunk * (1 + Math.floor(random() * 3)));
    ranges.push([begin, end]);
    begin = end;
  }
  return ranges
    .map((r) => [random(), r] as const)
    .sort((a, b) => a[0] - b[0])
    .map(([, r]) => r);
}

const bytesOf = (array: Int32Array | Float32Array): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
function fail(message: string): never {
  throw new Error(message);
}
