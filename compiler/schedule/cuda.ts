/**
 * Schedules for NVIDIA GPUs: which skeleton computes a spec, in what tiles, by how many blocks of how many threads.
 */
import type { Rpn } from "../../runtime/manifest.ts";
import { CUDA_KV_BLOCK_SIZE, type CudaDialect } from "../codegen/cuda/dialect.ts";
import { InternalError, invariant, UnsupportedError } from "../errors.ts";
import { type Dim, type DType, dtypeBytes } from "../ir/tensor-type.ts";
import { MOST_GROUPED_HEADS, type SplitPlan, tileRows } from "../kernels/for-blocks.ts";
import type { AttentionKernel, GroupedLinearKernel, KernelKind, KernelOf, KernelSpec, LinearKernel } from "../kernels/spec.ts";
import { chooseTiles, modelled, numTiles, PARTS, type Product, type Tiling, tileBytes, tileThreads } from "./cuda-tiles.ts";

/** How one spec is computed. */
export interface CudaSchedule {
  /** File stem of the skeleton: `templates/<skeleton>.cuda.njk`. */
  readonly skeleton: string;
  /** Blocks of a launch. */
  readonly grid: Rpn;
  readonly threads: number;
  /** Shared memory beside what the kernel declares. */
  readonly sharedBytes: number;
  /** Constants of the skeleton. */
  readonly blocking: Readonly<Record<string, number>>;
}

type Choice = Partial<CudaSchedule> & Pick<CudaSchedule, "grid">;

/** Schedules one spec for steps of up to `maxTokens`. Throws `UnsupportedError` for what no skeleton computes. */
export function scheduleCudaKernel(spec: KernelSpec, dialect: CudaDialect, maxTokens: number): CudaSchedule {
  const choose = schedules[spec.kind] as (s: KernelSpec, maxTokens: number, dialect: CudaDialect) => Choice;
  const schedule = {
    skeleton: spec.kind,
    threads: 256,
    sharedBytes: 0,
    blocking: {},
    ...choose(spec, maxTokens, dialect),
  };
  if (schedule.sharedBytes > dialect.sharedBytes) {
    throw new UnsupportedError(
      `${spec.name} needs ${schedule.sharedBytes} bytes of shared memory a block; cuda:${dialect.arch} has ${dialect.sharedBytes}`,
    );
  }
  return schedule;
}

/** Whether tensor cores multiply elements of `dtype`. */
const multipliesTiles = (dtype: DType): boolean => dtype === "bf16" || dtype === "f16";

/** Whether attention over a cache of `dtype` multiplies tiles, fp8 ones widened, and so needs its units planned. */
export const plansAttention = (dtype: DType): boolean => multipliesTiles(dtype) || dtype === "fp8_e4m3";

const schedules: { readonly [K in KernelKind]: (spec: KernelOf<K>, maxTokens: number, dialect: CudaDialect) => Choice } = {
  embedding: (s) => rowByRow(s.out.rows, s.out.cols),
  rms_norm: (s) => rowInRegisters(s.out.rows, s.out.cols),
  layer_norm: (s) => rowInRegisters(s.out.rows, s.out.cols),
  gather: (s) => rowByRow(s.out.rows, s.out.cols),
  elementwise: (s) => rowByRow(s.out.rows, s.out.cols),
  slot_sum: (s) => rowByRow(s.out.rows, s.out.cols),
  rope_angles: (s) => rowByRow(s.out.rows, s.invFreq.length),
  store_kv: (s, maxTokens) => {
    if (s.v.norm || s.v.rope)
      throw new UnsupportedError(`${s.name}: values are stored as they are; a norm or rotation of v is not supported`);
    if (!s.projection) return { grid: extent(s.out.rows), threads: 128 };
    requireVectors(s.projection.linear);
    // The last block of a head to come takes that head of every row.
    invariant(maxTokens <= MOST_VECTOR_TOKENS, `${s.name} is for rows that one block has, found ${maxTokens}`);
    const { columns } = vectorProduct(s.projection.linear, maxTokens);
    invariant(s.headDim % columns === 0, `${s.name} is for heads of whole blocks of ${columns} columns, found ${s.headDim}`);
    return { ...linearInVectors(s.projection.linear, maxTokens), skeleton: "linear_store_kv" };
  },
  linear: (s, maxTokens, dialect) => {
    requireVectors(s);
    if (!multipliesTiles(s.w.dtype) || maxTokens <= MOST_VECTOR_TOKENS) return linearInVectors(s, maxTokens);
    return linearInTiles(s, chooseTiles(linearProduct(s, maxTokens), dialect, [s.split?.parts ?? 1]));
  },
  grouped_linear: (s, maxTokens, dialect) => {
    requireVectors(s);
    // Active experts come first in the plan, of which there are no more than slots.
    const active: Rpn = [...extent(s.tokens), s.perToken, "mul", s.numExperts, "min"];
    if (!multipliesTiles(s.w.dtype) || maxTokens * s.perToken <= s.numExperts) {
      const { blocking, columns } = vectorProduct(s, maxTokens);
      return { skeleton: "grouped_linear_gemv", grid: [...active, Math.ceil(s.n / columns), "mul"], blocking };
    }
    const rows = Math.ceil((maxTokens * s.perToken) / s.numExperts);
    const product = { count: s.numExperts, rows, n: s.n * s.ways, k: s.k, ways: s.ways };
    const tiling = chooseTiles(product, dialect);
    const grid: Rpn = [...active, Math.ceil((s.n * s.ways) / tiling.tiles.tileN), "mul"];
    return { skeleton: "grouped_linear_mma", grid, ...inTiles(tiling) };
  },
  route: (s) => ({ grid: [...extent(s.outs[0]!.value.rows), ROUTE_WARPS, "ceildiv"], threads: 32 * ROUTE_WARPS }),
  sort_slots: (s) => sortSlots(s.numExperts),
  expert_sum: (s) => {
    throw new InternalError(`${s.name} was not cut into kernels of blocks`);
  },
  attention_units: () => ({ grid: [1], threads: 256 }),
  paged_attention: (s, _, dialect) => attention(s, dialect.sharedBytes),
  sample: (s) => ({ grid: extent(s.logits.rows), threads: 1024 }),
};

/** Tokens of a block that chooses experts, a warp each. */
const ROUTE_WARPS = 4;

/** Sorting warps each have a count of every expert: as many warps as the counts leave room for. */
function sortSlots(numExperts: number): Choice {
  const warps = Math.max(1, Math.min(32, Math.floor(SORT_BYTES / (4 * numExperts)) - 1));
  return { grid: [1], threads: 32 * warps, sharedBytes: 4 * numExperts * (warps + 1) };
}
const SORT_BYTES = 64 * 1024;

/** A block a row, of as many threads as it has columns, up to 256. */
const rowByRow = (rows: Dim, cols: number): Choice => ({
  grid: extent(rows),
  threads: Math.min(256, roundUp(cols, 32)),
});

/** A block a row, whose threads hold four elements each, or more of rows of more than 4,096. */
function rowInRegisters(rows: Dim, cols: number): Choice {
  const threads = Math.min(1024, roundUp(Math.ceil(cols / 4), 32));
  return { grid: extent(rows), threads, blocking: { perThread: Math.ceil(cols / threads) } };
}

/** A linear whose warps have columns of their own. */
function linearInVectors(s: LinearKernel, maxTokens: number): Choice {
  const { blocking, columns } = vectorProduct(s, maxTokens);
  return {
    skeleton: "linear_gemv",
    grid: [...extent(s.out.rows), blocking.tokens, "ceildiv", Math.ceil(s.n / columns), "mul"],
    blocking,
    sharedBytes: s.norm ? blocking.tokens * s.k * dtypeBytes[s.norm.dtype] : 0,
  };
}

/** Rows of a product beyond which tensor cores multiply them. */
export const MOST_VECTOR_TOKENS = 4;

/** Columns that a warp computes, and rows at a time. */
function vectorProduct({ n, ways, w }: LinearKernel | GroupedLinearKernel, maxTokens: number) {
  // Products that no tensor core makes, of many rows: as many sums as registers hold, for what is read of both.
  if (!multipliesTiles(w.dtype) && maxTokens >= 256) return { blocking: { tokens: 8, columns: 4 / ways }, columns: 32 / ways };
  const tokens = Math.min(maxTokens, MOST_VECTOR_TOKENS);
  // Two rows of weights in flight for each warp: a gate and its up, or two columns where there are warps enough.
  const perWarp = ways === 1 && n >= 4096 && tokens === 1 ? 2 : 1;
  return { blocking: { tokens, columns: perWarp }, columns: 8 * perWarp };
}

const linearProduct = ({ n, k, ways }: LinearKernel, rows: number): Product => ({ count: 1, rows, n: n * ways, k, ways });

const inTiles = ({ tiles, parts }: Tiling) => ({
  threads: tileThreads(tiles),
  sharedBytes: tileBytes(tiles),
  blocking: { ...tiles, parts },
});

/** A linear in tensor cores, as `tiling` says. */
export function linearInTiles(s: LinearKernel, tiling: Tiling): Choice {
  const { tiles, parts } = tiling;
  const blocks = Math.ceil((s.n * s.ways) / tiles.tileN) * parts;
  return { skeleton: "linear_mma", grid: [...extent(s.out.rows), tiles.tileT, "ceildiv", blocks, "mul"], ...inTiles(tiling) };
}

/** How blocks are to share the sums of a linear in steps of up to `maxTokens`; null where they gain next to nothing by it. */
export function splitOf(spec: LinearKernel, maxTokens: number, dialect: CudaDialect): SplitPlan | null {
  if (!multipliesTiles(spec.w.dtype) || maxTokens <= MOST_VECTOR_TOKENS) return null;
  const product = linearProduct(spec, maxTokens);
  const { tiles, parts } = chooseTiles(product, dialect, PARTS);
  const gain = modelled(chooseTiles(product, dialect), product, dialect) / modelled({ tiles, parts }, product, dialect);
  return gain > 1.05 ? { parts, tiles: numTiles(tiles, product), sums: tiles.tileN * tiles.tileT } : null;
}

/** Throws `UnsupportedError` where rows of weights or of inputs do not begin at sixteen bytes, or are of different dtypes. */
function requireVectors(s: LinearKernel | GroupedLinearKernel): void {
  const { name, k, w } = s;
  const vector = 16 / dtypeBytes[w.dtype];
  const x = s.kind === "linear" && s.norm ? s.norm.dtype : s.x.dtype;
  if (x !== w.dtype)
    throw new UnsupportedError(`${name}: a linear of ${x} rows with ${w.dtype} weights has no kernel on CUDA; cast its input`);
  if (k % vector !== 0)
    throw new UnsupportedError(
      `${name}: rows of ${k} ${w.dtype} are not whole vectors of sixteen bytes; expected a multiple of ${vector}`,
    );
}

/** Blocks that take units of attention in turns. */
const MOST_ATTENTION_BLOCKS = 1056;

function attention(s: AttentionKernel, sharedBytes: number): Choice {
  const { headDim, kv, numHeads, units } = s;
  const group = numHeads / kv.numKvHeads;
  if (headDim % 16 !== 0 || headDim > 256)
    throw new UnsupportedError(
      `${s.name}: head sizes are multiples of 16 up to 256 here; found ${headDim} (config.json: head_dim, or hidden_size / num_attention_heads)`,
    );
  if (group > MOST_GROUPED_HEADS)
    throw new UnsupportedError(
      `${s.name}: ${group} query heads share a key and value head; at most ${MOST_GROUPED_HEADS} are supported`,
    );
  if (!units) {
    if (kv.dtype !== "f32") throw new UnsupportedError(`${s.name}: a cache of ${kv.dtype} has no kernel on CUDA`);
    const warps = 4;
    return {
      skeleton: "paged_attention_simt",
      grid: [...extent(s.q.rows), kv.numKvHeads, "mul"],
      threads: 32 * warps,
      sharedBytes: 4 * group * (headDim + warps * (headDim + 2)), // queries; every warp's sums, largest scores and weights
    };
  }
  const rows = tileRows(headDim);
  const pitch = (headDim + 8) * 2;
  const isNarrow = kv.dtype === "fp8_e4m3";
  const stages = 2; // the next keys and values arrive meanwhile
  // Keys and values of a tile, as they are multiplied, and as they are copied where that is something else.
  const bytes = (tileKeys: number) => rows * pitch + 2 * tileKeys * (isNarrow ? pitch + stages * headDim : stages * pitch);
  // Half a block of large heads at a time, where a whole one has no room.
  const tileKeys = bytes(CUDA_KV_BLOCK_SIZE) <= sharedBytes ? CUDA_KV_BLOCK_SIZE : CUDA_KV_BLOCK_SIZE / 2;
  return {
    skeleton: "paged_attention_mma",
    grid: [...extent(s.q.rows), kv.numKvHeads * (units.cut.maxChunks + 1), "mul", MOST_ATTENTION_BLOCKS, "min"],
    threads: 2 * rows,
    sharedBytes: bytes(tileKeys),
    blocking: { stages, tileKeys },
  };
}

const extent = (dim: Dim): Rpn => (typeof dim === "number" ? [dim] : dim.times === 1 ? [dim.sym] : [dim.sym, dim.times, "mul"]);

const roundUp = (n: number, to: number): number => Math.ceil(n / to) * to;
