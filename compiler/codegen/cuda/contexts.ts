/**
 * What each CUDA skeleton is given; see `render.ts`.
 */
import { InternalError, invariant } from "../../errors.ts";
import type { Dim } from "../../ir/tensor-type.ts";
import { mostChunks } from "../../kernels/attention-units.ts";
import { headSources } from "../../kernels/operands.ts";
import type {
  AttentionKernel,
  GatherKernel,
  GroupedLinearKernel,
  HeadChain,
  KernelKind,
  KernelOf,
  LayerNormKernel,
  LinearKernel,
  RmsNormKernel,
  StoreKvKernel,
} from "../../kernels/spec.ts";
import type { CudaSchedule } from "../../schedule/cuda.ts";
import { floatLiteral } from "../expression.ts";
import { ropeAngles } from "../rope-angles.ts";
import type { TemplateContext } from "../template.ts";
import { CUDA_KV_BLOCK_SIZE, cudaType } from "./dialect.ts";
import { PROJECTED, sourceNames } from "./params.ts";
import { route } from "./route.ts";
import { cudaSlots, expertArgument } from "./slots.ts";

type ContextOf<K extends KernelKind> = (spec: KernelOf<K>, schedule: CudaSchedule) => TemplateContext;

export const cudaContexts: { readonly [K in KernelKind]: ContextOf<K> } = {
  embedding: (s) => ({ cols: s.out.cols, ...rowCount(s.out.rows), ...cudaSlots({ ...s, ways: 1 }) }),

  rms_norm: (s) => ({ eps: s.eps, epsLiteral: floatLiteral(s.eps), ...gathered(s) }),

  layer_norm: (s) => ({ eps: s.eps, epsLiteral: floatLiteral(s.eps), ...gathered(s) }),

  gather: (s) => ({ xCols: s.x.cols, firstCol: s.col, sourceCol: s.col === 0 ? "j" : `${s.col} + j`, ...gathered(s) }),

  elementwise: (s) => ({ cols: s.out.cols, ...rowCount(s.out.rows), ...cudaSlots({ ...s, ways: 0 }) }),

  slot_sum: (s) => ({
    cols: s.out.cols,
    perToken: s.weights.cols,
    ...rowCount(s.out.rows),
    ...cudaSlots({ ...s, ways: 1 }),
  }),

  rope_angles: (s) => ({
    ...ropeAngles(s),
    frequency: s.long ? "(is_long ? kLongInvFreq[i] : kInvFreq[i])" : "kInvFreq[i]",
    ...rowCount(s.out.rows),
  }),

  store_kv: (s, schedule) => ({ ...(s.projection ? linear(s.projection.linear, schedule, PROJECTED) : {}), ...storeKv(s) }),

  linear: (s, schedule) => linear(s, schedule, "out"),

  grouped_linear: (s, schedule) => {
    const writtenRow = s.scatters ? "slots_of_rows[row0 + r]" : "first + row0 + r";
    return {
      ...product(s, schedule),
      experts: s.numExperts,
      perToken: s.perToken,
      loadInput: "load16",
      sums: sumsOf(s.ways, s.gathers ? "x[token(r), k]" : "x[r, k]", (way) => `w[e, ${way}, k]`, s.n),
      xRows: s.gathers ? "tokens" : "sorted rows",
      xRow: s.gathers ? "(slots_of_rows[row0 + r] / kPerToken)" : "(first + row0 + r)",
      outRow: s.scatters ? "slot(r)" : "r",
      writtenRow,
      expertArgument: expertArgument(s),
      ...cudaSlots(s),
    };
  },

  expert_sum: (s) => {
    throw new InternalError(`${s.name} was not cut into kernels of blocks`);
  },

  route: (s) => ({ ...rowCount(s.outs[0]!.value.rows), ...route(s) }),

  sort_slots: (s) => ({
    experts: s.numExperts,
    perToken: s.ids.cols,
    idBits: Math.ceil(Math.log2(s.numExperts)),
    ...rowCount(s.ids.rows),
  }),

  attention_units: (s) => {
    const { cut } = s.units;
    const { tileTokens, chunk, maxChunks, splitBelow, window } = cut;
    return {
      ...{ tileTokens, chunk, maxChunks, splitBelow },
      firstVisible: firstVisible(window),
      rowCount: "*num_rows",
    };
  },

  paged_attention: (s) => attention(s),

  sample: (s) => ({ vocab: s.vocabSize, ...rowCount(s.logits.rows) }),
};

/** How many rows this step has, a number or what the extent's parameter points at; and how that is asked before `wait_for_inputs`. */
function rowCount(rows: Dim): { readonly rowCount: string; readonly earlyRowCount: string } {
  const times = (extent: string, n: number) => (n === 1 ? extent : `${extent} * ${n}`);
  const count = (extent: string) => (typeof rows === "number" ? `${rows}` : times(extent, rows.times));
  return { rowCount: count("*num_rows"), earlyRowCount: count("load_extent(num_rows)") };
}

/** What every kernel says that reads rows of x in their own or in a gathered order. */
function gathered(s: RmsNormKernel | LayerNormKernel | GatherKernel): TemplateContext {
  return {
    cols: s.out.cols,
    sourceRow: s.rows ? "source_rows[t]" : "t",
    source: s.rows ? "source_rows[row]" : "row",
    ...rowCount(s.out.rows),
    ...cudaSlots({ ...s, ways: 1 }),
  };
}

/** `acc[t, j] = Σ_k x[t, k] · w[j, k]`, for each way. */
function sumsOf(ways: 1 | 2, x: string, w: (row: string) => string, n: number): string {
  const sum = (row: string) => `Σ_k ${x} · ${w(row)}`;
  return ways === 1 ? `acc[j] = ${sum("j")}` : `acc0[j] = ${sum("j")};  acc1[j] = ${sum(`${n} + j`)}`;
}

/** A linear whose result its kernel has as the parameter `out`. */
function linear(s: LinearKernel, schedule: CudaSchedule, out: string): TemplateContext {
  return {
    ...product(s, schedule),
    sums: sumsOf(s.ways, s.norm ? "y[t, k]" : "x[t, k]", (way) => `w[${way}, k]`, s.n),
    hasNorm: s.norm !== null,
    inputDtype: s.x.dtype,
    eps: s.norm?.eps ?? 0,
    epsLiteral: floatLiteral(s.norm?.eps ?? 0),
    loadInput: s.norm ? "load16_shared" : "load16",
    ...rowCount(s.out.rows),
    ...cudaSlots(s, out),
  };
}

/** Sizes and dtypes of a product, and how its skeleton names a column's sums. */
function product(s: LinearKernel | GroupedLinearKernel, { skeleton, blocking }: CudaSchedule): TemplateContext {
  const isTiled = skeleton.endsWith("_mma");
  const { parts = 1 } = blocking;
  const sum = parts > 1 ? "sum_of_parts(partials" : "sum_at(memory";
  const acc = (way: number) =>
    isTiled
      ? `${sum}, ${skeleton === "linear_mma" ? "t" : "r"}, n${way ? " + 16" : ""})`
      : `sums[t][${way ? "kColumns + c" : "c"}]`;
  return {
    n: s.n,
    k: s.k,
    ways: s.ways,
    dtype: s.w.dtype,
    type: cudaType(s.w.dtype),
    weightRows: s.n * s.ways,
    ...blocking,
    isSplit: parts > 1,
    pieces: parts > 1 ? "part * kPieces / kParts, (part + 1) * kPieces / kParts" : "0, kPieces",
    ...(isTiled ? { tileColumns: (blocking.tileN ?? 0) / s.ways } : { blockColumns: 8 * (blocking.columns ?? 0) }),
    accs: s.ways === 1 ? acc(0) : `${acc(0)}, ${acc(1)}`,
  };
}

const firstVisible = (window: number | null): string => (window === null ? "0" : `max_of(0, position + 1 - ${window})`);

function attention(s: AttentionKernel): TemplateContext {
  const { headDim, numHeads, kv, scale, window, sinks, units } = s;
  const isNarrow = kv.dtype === "fp8_e4m3";
  return {
    headDim,
    numHeads,
    numKvHeads: kv.numKvHeads,
    group: numHeads / kv.numKvHeads,
    kvDtype: kv.dtype,
    kvType: cudaType(kv.dtype),
    isNarrow,
    elementDtype: isNarrow ? "bf16" : kv.dtype,
    elementType: cudaType(isNarrow ? "bf16" : kv.dtype),
    widened: isNarrow ? `; ${kv.dtype} keys and values are widened to it` : "",
    copiedPitch: isNarrow ? "kHeadDim" : "kPitch",
    copiedTile: isNarrow ? "kCachedTile" : "kTile",
    blockSize: CUDA_KV_BLOCK_SIZE,
    scale,
    scaleLiteral: floatLiteral(scale),
    visible: window === null ? "0 … positions[t]" : `the last ${window} up to positions[t]`,
    firstVisible: firstVisible(window),
    hasSinks: sinks !== null,
    sinkOfHead: sinks ? ", widen(sinks[head])" : "",
    chunk: units?.cut.chunk ?? 0,
    maxChunks: units?.cut.maxChunks ?? 0,
    mostChunks: units ? mostChunks(units.cut) : 0,
    ...rowCount(s.q.rows),
    ...cudaSlots({ ...s, operands: [], ways: 1 }),
  };
}

function storeKv(s: StoreKvKernel): TemplateContext {
  const sources = headSources(s);
  const called = sourceNames(s);
  const chain = (name: "q" | "k" | "v", c: HeadChain, first: number, to: string) => {
    const source = called[sources.findIndex((x) => x.name === c.x.name)] as string;
    return {
      name,
      h: first === 0 ? "head_index" : `head_index - ${first}`,
      source,
      sourceCols: c.x.cols,
      from: `${c.col}${sources.length === 1 ? "" : ` of ${source}`}`,
      place: c.col === 0 ? "" : `${c.col} + `,
      numHeads: c.numHeads,
      what: `${c.norm ? `, normalized (eps ${c.norm.eps})` : ""}${c.rope ? `, ${2 * c.rope.half} elements rotated in ${c.rope.style === "half" ? "halves" : "neighbouring pairs"}` : ""}`,
      hasNorm: c.norm !== null,
      eps: floatLiteral(c.norm?.eps ?? 0),
      hasRope: c.rope !== null,
      half: c.rope?.half ?? 0,
      angleCols: c.rope?.angles.cols ?? 0,
      interleaved: c.rope?.style === "interleaved",
      to,
    };
  };
  const chains = [
    chain("q", s.q, 0, `out + (int64_t(t) * ${s.q.numHeads} + h) * kHeadDim`),
    chain("k", s.k, s.q.numHeads, "keys + h * 2 * kBlockSize * kHeadDim"),
    chain("v", s.v, s.q.numHeads + s.k.numHeads, "keys + (h * 2 + 1) * kBlockSize * kHeadDim"),
  ];
  invariant(
    [...sources, s.out].every((b) => b.dtype === "f32"),
    `${s.name} reads and writes f32 rows`,
  );
  return {
    headDim: s.headDim,
    numKvHeads: s.kv.numKvHeads,
    totalHeads: s.q.numHeads + s.k.numHeads + s.v.numHeads,
    what: sources.length === 1 ? "row of the fused projection" : "rows of q, k and v",
    kvDtype: cudaType(s.kv.dtype),
    blockSize: CUDA_KV_BLOCK_SIZE,
    anyNorm: chains.some((c) => c.hasNorm),
    anyRope: chains.some((c) => c.hasRope),
    chains,
    ...rowCount(s.out.rows),
  };
}
