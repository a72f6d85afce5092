/**
 * Runs generated CUDA kernels over an interpreter's environment, on the emulator: packs it as the kernels read it, runs, reads back.
 */
import { type CudaArch, cudaDialects } from "../../compiler/codegen/cuda/dialect.ts";
import { cudaParameters, type Parameter } from "../../compiler/codegen/cuda/params.ts";
import { renderCudaKernel } from "../../compiler/codegen/cuda/render.ts";
import { evaluateRpn } from "../../compiler/engine/manifest.ts";
import type { InputName } from "../../compiler/ir/ops.ts";
import type { KvState } from "../../compiler/ir/step.ts";
import { dtypeBytes, extentOf } from "../../compiler/ir/tensor-type.ts";
import type { KernelEnvironment } from "../../compiler/kernels/environment.ts";
import { kernelOutputs, kernelScratch } from "../../compiler/kernels/operands.ts";
import type { BufferValue, KernelSpec, KvValue } from "../../compiler/kernels/spec.ts";
import { type CudaSchedule, scheduleCudaKernel } from "../../compiler/schedule/cuda.ts";
import { type Place, packElements, rowsPlace, unpackElements } from "./kernel-layouts.ts";
import { runSimt, type SimtAccess, type SimtOptions } from "./simt-kernel.ts";

export interface CudaRunOptions extends SimtOptions {
  readonly arch?: CudaArch;
  /** Rows of the largest step of the program that the kernel is for; by default many. */
  readonly maxTokens?: number;
  /** What the kernel's own schedule is changed in. */
  readonly schedule?: Partial<CudaSchedule>;
  /** Rows that the grid is made for beyond those there are: a captured graph's. */
  readonly padding?: number;
}

/** What a kernel left behind: its outputs by name, and the cache. */
export interface CudaKernelResult {
  readonly outs: ReadonlyMap<string, Float32Array>;
  readonly out: Float32Array;
  readonly kv: KvState | null;
}

/** An environment, and what the step before sampled. */
export type CudaEnvironment = KernelEnvironment & { readonly sampled?: Int32Array };

/** Runs `spec` once per environment; outputs hold NaN before. */
export function runCudaKernel(
  spec: KernelSpec,
  environments: readonly CudaEnvironment[],
  { arch = "sm_80", maxTokens = 4096, padding = 0, schedule: changes, ...simt }: CudaRunOptions = {},
): { readonly results: readonly CudaKernelResult[]; readonly accesses: readonly SimtAccess[] } {
  const schedule = { ...scheduleCudaKernel(spec, cudaDialects[arch], maxTokens), ...changes };
  const { name, source } = renderCudaKernel(spec, schedule);
  const parameters = cudaParameters(spec);
  const outs = kernelOutputs(spec);
  const launches = environments.map((env) => {
    const { T, B, S, P } = env.binding;
    return {
      grid: evaluateRpn(schedule.grid, { T: T + padding, B: B + padding, S: S + padding, P }),
      threads: schedule.threads,
      sharedBytes: schedule.sharedBytes,
      args: parameters.map((p) => pack(p, spec, env)),
    };
  });
  const { args, accesses } = runSimt({ name, source }, launches, simt);
  const results = environments.map((env, job): CudaKernelResult => {
    const after = args[job] as readonly Uint8Array[];
    const read = (value: BufferValue) => {
      const at = parameters.findIndex((p) => p.arg.kind === "value" && p.arg.value === value);
      return unpackElements(
        value.dtype,
        after[at] as Uint8Array,
        [extentOf(value.rows, env.binding), value.cols],
        rowsPlace(value.cols),
      );
    };
    const kvAt = parameters.findIndex((p) => p.arg.kind === "value" && p.arg.value.kind === "kv");
    const kv = parameters[kvAt]?.arg;
    return {
      outs: new Map(outs.map((o) => [o.name, read(o)])),
      out: read(outs.at(-1) as BufferValue),
      kv: kv?.kind === "value" && kv.value.kind === "kv" ? unpackKv(kv.value, after[kvAt] as Uint8Array, env) : null,
    };
  });
  return { results, accesses };
}

function pack({ arg }: Parameter, spec: KernelSpec, env: CudaEnvironment): Uint8Array {
  if (arg.kind === "symbol") return bytesOf(Int32Array.of(env.binding[arg.symbol]));
  if (arg.kind === "array") return bytesOf(env.sampled ?? new Int32Array(1)); // ids that the step before sampled
  const { value } = arg;
  switch (value.kind) {
    case "input":
      return bytesOf(env.input(value.name as InputName));
    case "kv":
      return packKv(value, env.kv(value.layer));
    case "tensor":
      return packElements(
        value.dtype,
        env.tensor(value),
        [value.rows, value.cols],
        value.rows * value.cols,
        rowsPlace(value.cols),
      );
    case "buffer": {
      const rows = extentOf(value.rows, env.binding);
      const bytes = rows * value.cols * dtypeBytes[value.dtype];
      if (kernelScratch(spec).includes(value)) return new Uint8Array(bytes).fill(value.dtype === "i32" ? 0 : 0xff);
      if (kernelOutputs(spec).includes(value)) return new Uint8Array(bytes).fill(0xff);
      const data = env.buffers.get(value.name);
      if (!data) throw new Error(`${value.name} is not given`);
      return packElements(value.dtype, data, [rows, value.cols], rows * value.cols, rowsPlace(value.cols));
    }
  }
}

/** [block][kv head][K | V][token][element], of slots in rows of all heads. */
function kvPlaces({ headDim, numKvHeads }: KvValue, blockSize: number): { readonly k: Place; readonly v: Place } {
  const half = blockSize * headDim;
  const at = (slot: number, col: number) =>
    (Math.floor(slot / blockSize) * numKvHeads + Math.floor(col / headDim)) * 2 * half +
    (slot % blockSize) * headDim +
    (col % headDim);
  return { k: at, v: (slot, col) => at(slot, col) + half };
}

function packKv(kv: KvValue, { blockSize, k, v }: KvState): Uint8Array {
  const width = kv.numKvHeads * kv.headDim;
  const shape = [k.length / width, width] as const;
  const places = kvPlaces(kv, blockSize);
  const values = packElements(kv.dtype, v, shape, 2 * k.length, places.v);
  return packElements(kv.dtype, k, shape, 2 * k.length, places.k).map((byte, i) => byte | values[i]!);
}

function unpackKv(kv: KvValue, bytes: Uint8Array, env: KernelEnvironment): KvState {
  const { blockSize, k } = env.kv(kv.layer);
  const width = kv.numKvHeads * kv.headDim;
  const shape = [k.length / width, width] as const;
  const places = kvPlaces(kv, blockSize);
  return { blockSize, k: unpackElements(kv.dtype, bytes, shape, places.k), v: unpackElements(kv.dtype, bytes, shape, places.v) };
}

const bytesOf = (array: Int32Array): Uint8Array => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
