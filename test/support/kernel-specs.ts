/**
 * Kernel specs written by hand, and random environments for them: what kernels are tested with apart from any model.
 */
import type { RopeStyle } from "../../compiler/ir/ops.ts";
import { roundTo } from "../../compiler/ir/rounding.ts";
import { type DType, extentOf, type SymbolName } from "../../compiler/ir/tensor-type.ts";
import type { KernelEnvironment } from "../../compiler/kernels/environment.ts";
import { headSources } from "../../compiler/kernels/operands.ts";
import type {
  AttentionKernel,
  BufferValue,
  Expr,
  GatherKernel,
  HeadChain,
  InputValue,
  KernelSpec,
  LayerNormKernel,
  LinearKernel,
  StoreKvKernel,
  TensorValue,
} from "../../compiler/kernels/spec.ts";

const node = null as never; // nothing here reads a spec's graph
const T = { sym: "T" as const, times: 1, max: 4096, multipleOf: 1 };
const S = { sym: "S" as const, times: 1, max: 4096, multipleOf: 1 };

export const buffer = (name: string, cols: number, dtype: DType = "f32", rows: "T" | "S" = "T"): BufferValue => ({
  kind: "buffer",
  name,
  dtype,
  rows: rows === "T" ? T : S,
  cols,
  node,
});
export const tensor = (name: string, rows: number, cols: number, dtype: DType = "f32"): TensorValue => ({
  kind: "tensor",
  name,
  dtype,
  rows,
  cols,
  node,
});
export const input = (name: InputValue["name"]): InputValue => ({ kind: "input", name, dtype: "i32", node });

export const acc: Expr = { kind: "acc", way: 0 };
export const operand = (index: number): Expr => ({ kind: "operand", index });
export const add = (a: Expr, b: Expr): Expr => ({ kind: "binary", fn: "add", a, b });
export const mul = (a: Expr, b: Expr): Expr => ({ kind: "binary", fn: "mul", a, b });
export const silu = (x: Expr): Expr => ({ kind: "unary", fn: "silu", x });
export const siluMul: Expr = mul(silu(acc), { kind: "acc", way: 1 });

export function linearSpec(o: {
  n: number;
  k: number;
  ways?: 1 | 2;
  weights?: DType;
  x?: DType;
  out?: DType;
  rows?: "T" | "S";
  epilogue?: Expr;
  operands?: LinearKernel["operands"];
}): LinearKernel {
  const { n, k, ways = 1, weights = "bf16", x = "f32", out = "f32", rows = "T" } = o;
  return {
    kind: "linear",
    norm: null,
    split: null,
    name: "linear_under_test",
    nodes: [],
    x: buffer("x", k, x, rows),
    w: tensor("w", n * ways, k, weights),
    ways,
    n,
    k,
    epilogue: o.epilogue ?? (ways === 2 ? siluMul : acc),
    operands: o.operands ?? [],
    out: buffer("out", n, out, rows),
  };
}

export function layerNormSpec(o: { cols: number; gathers?: boolean; out?: DType; vectors?: DType }): LayerNormKernel {
  const { cols, gathers = false, out = "f32", vectors = "f32" } = o;
  return {
    kind: "layer_norm",
    name: "layer_norm_under_test",
    nodes: [],
    x: buffer("x", cols),
    rows: gathers ? input("sample_rows") : null,
    gain: tensor("gain", 1, cols, vectors),
    bias: tensor("bias", 1, cols, vectors),
    eps: 1e-5,
    epilogue: acc,
    operands: [],
    out: buffer("out", cols, out, gathers ? "S" : "T"),
  };
}

export function gatherSpec(o: {
  from: number;
  col?: number;
  cols: number;
  gathers?: boolean;
  x?: DType;
  out?: DType;
}): GatherKernel {
  const { from, col = 0, cols, gathers = false, x = "f32", out = "f32" } = o;
  return {
    kind: "gather",
    name: "gather_under_test",
    nodes: [],
    x: buffer("x", from, x),
    rows: gathers ? input("sample_rows") : null,
    col,
    epilogue: acc,
    operands: [],
    out: buffer("out", cols, out, gathers ? "S" : "T"),
  };
}

export function storeKvSpec(o: {
  heads: number;
  kvHeads: number;
  headDim: number;
  dtype?: DType;
  norm?: boolean;
  half?: number;
  style?: RopeStyle;
  /** Rows of their own for q, k and v, instead of one for all. */
  apart?: boolean;
}): StoreKvKernel {
  const { heads, kvHeads, headDim, dtype = "bf16", norm = false, half = 0, style = "half", apart = false } = o;
  const source = (name: string, col: number, numHeads: number) =>
    apart ? { x: buffer(`${name}_x`, numHeads * headDim + 7), col: 7 } : { x: buffer("x", (heads + 2 * kvHeads) * headDim), col };
  const chain = (name: string, col: number, numHeads: number): HeadChain => ({
    ...source(name, col, numHeads),
    numHeads,
    norm: norm ? { gain: tensor(`${name}_gain`, 1, headDim), eps: 1e-6 } : null,
    rope: half ? { style, angles: buffer("angles", 2 * half), half } : null,
  });
  return {
    kind: "store_kv",
    projection: null,
    name: "store_kv_under_test",
    nodes: [],
    q: chain("q", 0, heads),
    k: chain("k", heads * headDim, kvHeads),
    v: { ...source("v", (heads + kvHeads) * headDim, kvHeads), numHeads: kvHeads, norm: null, rope: null },
    headDim,
    kv: { kind: "kv", layer: 0, dtype, numKvHeads: kvHeads, headDim, node },
    positions: input("positions"),
    seqIds: input("seq_ids"),
    blockTables: input("block_tables"),
    out: buffer("out", heads * headDim),
  };
}

export function attentionSpec(o: {
  heads: number;
  kvHeads: number;
  headDim: number;
  dtype?: DType;
  window?: number | null;
  sinks?: DType;
  out?: DType;
}): AttentionKernel {
  const { heads, kvHeads, headDim, dtype = "bf16", window = null, sinks, out = "f32" } = o;
  return {
    kind: "paged_attention",
    name: "paged_attention_under_test",
    nodes: [],
    q: buffer("q", heads * headDim),
    kv: { kind: "kv", layer: 0, dtype, numKvHeads: kvHeads, headDim, node },
    numHeads: heads,
    headDim,
    scale: headDim ** -0.5,
    window,
    sinks: sinks ? tensor("sinks", 1, heads, sinks) : null,
    units: null,
    positions: input("positions"),
    seqIds: input("seq_ids"),
    blockTables: input("block_tables"),
    epilogue: acc,
    out: buffer("out", heads * headDim, out),
  };
}

/** Random numbers from a seed (mulberry32). */
export function randomSource(seed: number): { uniform: () => number; normal: () => number; below: (n: number) => number } {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return { uniform, normal, below: (n) => Math.floor(uniform() * n) };
}

export type RandomSource = ReturnType<typeof randomSource>;

/** One sequence of a batch: `length` positions end at the last of its `tokens` batch tokens. */
export interface TestSequence {
  readonly length: number;
  readonly tokens: number;
}

/** An environment with every buffer, tensor, input and cache `spec` reads, filled with random numbers of the right precision. */
export function randomEnvironment(
  spec: KernelSpec,
  random: RandomSource,
  shape: {
    readonly rows?: number;
    readonly sampled?: number;
    readonly sequences?: readonly TestSequence[];
    readonly blockSize?: number;
  } = {},
): KernelEnvironment {
  const blockSize = shape.blockSize ?? 32;
  const sequences = shape.sequences ?? [{ length: shape.rows ?? 1, tokens: shape.rows ?? 1 }];
  const T = sequences.reduce((n, s) => n + s.tokens, 0);
  const P = Math.max(...sequences.map((s) => Math.ceil(s.length / blockSize))) + 1;
  const binding: Record<SymbolName, number> = { T, B: sequences.length, S: shape.sampled ?? Math.min(T, 3), P };
  const normal = (n: number, dtype: DType, scale = 1) =>
    roundTo(
      dtype,
      Float32Array.from({ length: n }, () => random.normal() * scale),
    );

  const used = sequences.reduce((n, s) => n + Math.ceil(s.length / blockSize), 0);
  const blocks = shuffled(
    Array.from({ length: used + 2 }, (_, i) => i),
    random,
  );
  let nextBlock = 0;
  const tables = new Int32Array(binding.B * P);
  const positions: number[] = [];
  const seqIds: number[] = [];
  sequences.forEach((s, i) => {
    for (let b = 0; b < Math.ceil(s.length / blockSize); b++) tables[i * P + b] = blocks[nextBlock++]!;
    for (let j = 0; j < s.tokens; j++) {
      positions.push(s.length - s.tokens + j);
      seqIds.push(i);
    }
  });

  const vocab = spec.kind === "embedding" ? spec.table.rows : 1;
  const inputs: Record<string, Int32Array> = {
    token_ids: Int32Array.from({ length: T }, () => random.below(vocab)),
    positions: Int32Array.from(positions),
    seq_ids: Int32Array.from(seqIds),
    seq_lens: Int32Array.from(sequences, (s) => s.length),
    block_tables: tables,
    sample_rows: Int32Array.from({ length: binding.S }, () => random.below(T)),
  };
  const tensors = new Map<string, Float32Array>();
  const buffers = new Map<string, Float32Array>();
  for (const value of valuesOf(spec)) {
    if (value.kind === "tensor")
      tensors.set(value.name, normal(value.rows * value.cols, value.dtype, value.rows === 1 ? 1 : value.cols ** -0.5));
    else buffers.set(value.name, normal(extentOf(value.rows, binding) * value.cols, value.dtype));
  }
  const kvValue = "kv" in spec ? spec.kv : null;
  const width = kvValue ? kvValue.numKvHeads * kvValue.headDim : 0;
  const slots = (used + 2) * blockSize * width;
  // Slots no position stands in hold NaN: a kernel that lets them into a sum is found out.
  const cache = () => new Float32Array(slots).fill(Number.NaN);
  const kv = { blockSize, k: cache(), v: cache() };
  if (kvValue && spec.kind === "paged_attention") {
    sequences.forEach((s, i) => {
      for (let p = 0; p < s.length; p++) {
        const slot = tables[i * P + Math.floor(p / blockSize)]! * blockSize + (p % blockSize);
        kv.k.set(normal(width, kvValue.dtype), slot * width);
        kv.v.set(normal(width, kvValue.dtype), slot * width);
      }
    });
  }
  return {
    binding,
    buffers,
    tensor: (value) => tensors.get(value.name) as Float32Array,
    input: (name) => inputs[name] as Int32Array,
    kv: () => kv,
  };
}

/** The same environment with buffers and cache of its own. */
export function copyEnvironment(env: KernelEnvironment): KernelEnvironment {
  const { blockSize, k, v } = env.kv(0);
  const kv = { blockSize, k: k.slice(), v: v.slice() };
  return { ...env, buffers: new Map([...env.buffers].map(([name, data]) => [name, data.slice()])), kv: () => kv };
}

function valuesOf(spec: KernelSpec): (BufferValue | TensorValue)[] {
  switch (spec.kind) {
    case "embedding":
      return [spec.table, ...spec.operands];
    case "rms_norm":
      return [spec.x, spec.gain, ...spec.operands];
    case "layer_norm":
      return [spec.x, spec.gain, spec.bias, ...spec.operands];
    case "gather":
      return [spec.x, ...spec.operands];
    case "linear":
      return [spec.x, spec.w, ...(spec.norm ? [spec.norm.gain] : []), ...spec.operands];
    case "store_kv":
      return [
        ...(spec.projection ? valuesOf(spec.projection.linear) : headSources(spec)),
        ...[spec.q, spec.k].flatMap((c) => [...(c.norm ? [c.norm.gain] : []), ...(c.rope ? [c.rope.angles] : [])]),
      ];
    case "paged_attention": // a plan of units is its maker's
      return [spec.q, ...(spec.sinks ? [spec.sinks] : [])];
    case "elementwise":
      return [...spec.operands];
    case "route":
      return [...spec.inputs];
    case "slot_sum":
      return [spec.y, spec.weights, ...spec.operands];
    // What these read must fit together: their tests make it.
    case "sort_slots":
    case "grouped_linear":
    case "expert_sum":
    case "attention_units":
    case "rope_angles":
    case "sample":
      return [];
  }
}

function shuffled<A>(items: readonly A[], random: RandomSource): A[] {
  return items
    .map((item) => [random.uniform(), item] as const)
    .sort((a, b) => a[0] - b[0])
    .map(([, item]) => item);
}
