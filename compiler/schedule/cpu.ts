/**
 * Schedules for CPUs: which skeleton computes a spec, in what blocks, and how its work is handed to threads.
 *
 * The planner takes grids from here, the renderer takes the constants.
 */
import type { Rpn } from "../../runtime/manifest.ts";
import { cpuDialects, type Isa } from "../codegen/cpu/dialect.ts";
import { DEFAULT_KV_BLOCK_SIZE, type KernelSchedule, type ScheduleContext } from "../codegen/cpu/kernel-schedule.ts";
import { tensorLayout } from "../codegen/cpu/layout.ts";
import { InternalError, invariant, UnsupportedError } from "../errors.ts";
import type { Dim } from "../ir/tensor-type.ts";
import { kernelOutputs } from "../kernels/operands.ts";
import type {
  BufferValue,
  ExpertSumKernel,
  GroupedLinearKernel,
  KernelKind,
  KernelOf,
  KernelSpec,
  LinearKernel,
  TensorValue,
} from "../kernels/spec.ts";

/** Schedules one spec. Throws `UnsupportedError` for dtypes or sizes that no skeleton of this target computes. */
export function scheduleKernel(
  spec: KernelSpec,
  isa: Isa,
  context: ScheduleContext = { kvBlockSize: DEFAULT_KV_BLOCK_SIZE, panelTensors: new Set() },
): KernelSchedule {
  invariant(
    context.kvBlockSize > 0 && context.kvBlockSize % 16 === 0,
    `KV blocks hold multiples of 16 tokens, not ${context.kvBlockSize}`,
  );
  const partial = (schedules[spec.kind] as (s: KernelSpec, isa: Isa) => Partial<KernelSchedule>)(spec, isa);
  return {
    isa,
    skeleton: spec.kind,
    grid: extent((spec.kind === "sample" ? spec.logits : (kernelOutputs(spec)[0] as BufferValue)).rows),
    chunk: 1,
    serialUnits: 0,
    blocking: {},
    kvBlockSize: context.kvBlockSize,
    tableLayout: spec.kind === "embedding" ? tensorLayout(spec.table, context.panelTensors) : "rows",
    ...partial,
  };
}

const schedules: { readonly [K in KernelKind]: (spec: KernelOf<K>, isa: Isa) => Partial<KernelSchedule> } = {
  embedding: (s) => rowWork(s.out.cols),
  rms_norm: (s) => rowWork(s.out.cols),
  layer_norm: (s) => rowWork(s.out.cols),
  gather: (s) => rowWork(s.out.cols),
  elementwise: (s) => rowWork(s.out.cols),
  rope_angles: () => ({ chunk: 2, serialUnits: 1 }),
  store_kv: (s, isa) => {
    requireLanes(s.name, s.headDim);
    if (s.kv.dtype === "fp8_e4m3")
      throw new UnsupportedError(
        `${s.name}: cpu:${isa} keeps no cache of fp8; choose --kv-cache-dtype auto, float32, bfloat16 or float16`,
      );
    if (s.v.norm || s.v.rope)
      throw new UnsupportedError(`${s.name}: values are stored as they are; a norm or rotation of v is not supported`);
    for (const { norm } of [s.q, s.k]) if (norm) requireF32(s.name, norm.gain);
    return { chunk: 2, serialUnits: 1 };
  },
  linear: (s, isa) => linear(s, isa),
  route: (s) => {
    const others = s.outs.flatMap((o) => (o.value.dtype === "i32" ? [] : [o.value]));
    for (const value of [...s.inputs, ...others]) requireF32(s.name, value);
    return rowWork(64 * Math.max(...s.steps.map((step) => step.size))); // exponentials and comparisons
  },
  sort_slots: () => ({ grid: [1], serialUnits: 1 }),
  grouped_linear: (s, isa) => {
    const { skeleton, blocking } = product(s, isa);
    const units = roundUp(Math.ceil(s.n / 16), STREAMS);
    const groups = skeleton === "linear_amx" ? 3 : 1; // rows gathered into tiles are used for more than one group of panels
    return {
      skeleton: skeleton === "linear_amx" ? "grouped_linear_amx" : "grouped_linear",
      // Active experts come first in the plan, of which there are no more than slots: the units of a large batch's idle experts do nothing.
      grid: [...extent(s.tokens), s.perToken, "mul", s.numExperts, "min", units, "mul"],
      chunk: Math.min(units, groups * STREAMS),
      blocking: { ...blocking, units },
    };
  },
  expert_sum: (s, isa) => {
    for (const value of [s.weights, ...(s.bias ? [s.bias] : [])]) requireF32(s.name, value);
    const { skeleton, blocking } = product(s, isa);
    return {
      skeleton: skeleton === "linear_amx" ? "expert_sum_amx" : "expert_sum",
      grid: [Math.ceil(s.n / 16)],
      chunk: STREAMS,
      blocking,
    };
  },
  paged_attention: (s, isa) => {
    requireLanes(s.name, s.headDim);
    const { rowBlock, accumulators } = cpuDialects[isa];
    const group = s.numHeads / s.kv.numKvHeads;
    // About 32 rows share one conversion of a chunk of keys and values; a tile of decode rows is not larger than 16 sequences.
    const tileTokens = Math.max(1, Math.min(16, 2 ** Math.floor(Math.log2(64 / group))));
    return {
      grid: [extent(s.q.rows)[0]!, tileTokens, "ceildiv", s.kv.numKvHeads, "mul"],
      blocking: { tileTokens, chunk: 64, rowBlock, accumulators },
    };
  },
  slot_sum: (s) => notOfTeams(s.name),
  attention_units: (s) => notOfTeams(s.name),
  sample: () => ({}),
};

function notOfTeams(name: string): never {
  throw new InternalError(`${name} is a kernel of blocks of threads, which CPUs do not have`);
}

/** Weight panels that a core walks side by side: it reads several streams faster than one. */
const STREAMS = 4;

function linear(spec: LinearKernel, isa: Isa): Partial<KernelSchedule> {
  const { skeleton, blocking } = product(spec, isa);
  return { skeleton, grid: [Math.ceil(spec.n / 16)], chunk: STREAMS, blocking };
}

/** How rows are multiplied with weight panels: as tiles, or in registers. Throws `UnsupportedError` for dtypes that neither does. */
function product(
  spec: LinearKernel | GroupedLinearKernel | ExpertSumKernel,
  isa: Isa,
): { readonly skeleton: "linear" | "linear_amx"; readonly blocking: KernelSchedule["blocking"] } {
  const { bf16, rowBlock, accumulators } = cpuDialects[isa];
  const bothBf16 = spec.x.dtype === "bf16" && spec.w.dtype === "bf16";
  if (bothBf16 && bf16 === "tiles") {
    const rowTilesPerPass = spec.kind === "linear" ? 16 : 4; // experts have few rows each
    return { skeleton: "linear_amx", blocking: { streams: STREAMS, rowTilesPerPass, blockTilesK: 16, prefetchTiles: 2 } };
  }
  const widens = spec.x.dtype === "f32" && ["f32", "bf16", "f16"].includes(spec.w.dtype);
  if (!widens && !(bothBf16 && bf16 === "pairs")) {
    throw new UnsupportedError(
      `${spec.name}: a linear of ${spec.x.dtype} rows with ${spec.w.dtype} weights has no kernel on cpu:${isa}; cast its input to f32`,
    );
  }
  const blocking = { streams: STREAMS, rowBlock, accumulators, rowsPerPass: 96, blockK: 512, prefetchBytes: 2048 };
  return { skeleton: "linear", blocking };
}

/** Row work of a few operations per element: rows that take less than a barrier are not shared. */
function rowWork(cols: number): Partial<KernelSchedule> {
  return { chunk: Math.max(1, Math.min(16, Math.floor(16384 / cols))), serialUnits: Math.max(1, Math.floor(4096 / cols)) };
}

function requireLanes(name: string, headDim: number): void {
  if (headDim % 16 !== 0)
    throw new UnsupportedError(
      `${name}: head sizes are multiples of 16 here; found ${headDim} (config.json: head_dim, or hidden_size / num_attention_heads)`,
    );
}

/** Not every skeleton reads every dtype: throws `UnsupportedError` where a value beside rows and matrices is not f32. */
function requireF32(name: string, value: BufferValue | TensorValue): void {
  if (value.dtype === "f32") return;
  const remedy = value.kind === "tensor" ? "declare the weight as f32" : "cast the value to f32";
  throw new UnsupportedError(`${name}: ${value.name} is ${value.dtype}, which is read as f32 here: ${remedy}`);
}

const extent = (dim: Dim): Rpn => (typeof dim === "number" ? [dim] : dim.times === 1 ? [dim.sym] : [dim.sym, dim.times, "mul"]);

const roundUp = (n: number, to: number): number => Math.ceil(n / to) * to;
