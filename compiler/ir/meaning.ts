/**
 * The meaning of each op: a total table over the op table, in plain f32 arithmetic. `interpret.ts` walks a graph with it.
 */
import { CompileError, invariant } from "../errors.ts";
import type { Node, NodeOf, OpName } from "./ops.ts";
import { roundTo } from "./rounding.ts";
import { groupLimit, renormalize, softmax, topK } from "./row-meaning.ts";
import { sortedSlots } from "./sorted-slots.ts";
import type { InterpretEnvironment, KvState } from "./step.ts";
import type { DType } from "./tensor-type.ts";

/** What a node evaluates to. */
export type Value = Float32Array | Int32Array | KvState;
/** Everything a node's meaning may look at. */
export interface Context {
  readonly env: InterpretEnvironment;
  readonly f32: (node: Node) => Float32Array;
  readonly i32: (node: Node) => Int32Array;
  readonly kv: (node: Node) => KvState;
  /** Extents under the step's binding. */
  readonly shape: (node: Node) => number[];
}

/** Evaluates a node whose operands have values. */
export const meaning: { readonly [K in OpName]: (node: NodeOf<K>, c: Context) => Value } = {
  input: (node, { env }) => env.step.arrays[node.attrs.name],
  weight: (node, { env }) => roundTo(node.type.dtype, env.weights(node.attrs.name)),
  kv_cache: (node, { env }) => env.kv(node.attrs.layer),
  constant: (node) => Float32Array.of(node.attrs.value),

  cast: ({ operands: [x], attrs }, { f32 }) => roundTo(attrs.dtype, f32(x)),
  add: (node, c) => binary(node, c, (p, q) => p + q),
  mul: (node, c) => binary(node, c, (p, q) => p * q),
  min: (node, c) => binary(node, c, Math.min),
  max: (node, c) => binary(node, c, Math.max),
  sigmoid: ({ operands: [x] }, { f32 }) => f32(x).map(scalarMeaning.sigmoid),
  silu: ({ operands: [x] }, { f32 }) => f32(x).map(scalarMeaning.silu),
  gelu_tanh: ({ operands: [x] }, { f32 }) => f32(x).map(scalarMeaning.gelu_tanh),
  tanh: ({ operands: [x] }, { f32 }) => f32(x).map(scalarMeaning.tanh),

  slice({ operands: [x], attrs: { axis, start, size } }, { f32, shape }) {
    const { outer, extent, inner } = split(shape(x), axis);
    const out = new Float32Array(outer * size * inner);
    for (let o = 0; o < outer; o++) {
      const from = (o * extent + start) * inner;
      out.set(f32(x).subarray(from, from + size * inner), o * size * inner);
    }
    return out;
  },
  concat(node, { f32, shape }) {
    const { outer, extent, inner } = split(shape(node), node.attrs.axis);
    const out = new Float32Array(outer * extent * inner);
    let at = 0;
    for (const operand of node.operands) {
      const rows = (shape(operand)[node.attrs.axis] as number) * inner;
      for (let o = 0; o < outer; o++) out.set(f32(operand).subarray(o * rows, (o + 1) * rows), o * extent * inner + at);
      at += rows;
    }
    return out;
  },
  transpose({ operands: [x] }, { f32, shape }) {
    const [rows, cols] = shape(x).slice(-2) as [number, number];
    const from = f32(x);
    const out = new Float32Array(from.length);
    for (let at = 0; at < out.length; at += rows * cols) {
      for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) out[at + c * rows + r] = from[at + r * cols + c]!;
    }
    return out;
  },
  reshape: ({ operands: [x] }, { f32 }) => f32(x),

  embedding({ operands: [ids, table] }, { f32, i32, shape }) {
    const [vocab, hidden] = shape(table) as [number, number];
    return rowsOf(f32(table), i32(ids), hidden, vocab, "token_ids");
  },
  linear({ operands: [x, w] }, { f32, shape }) {
    const [n, k] = shape(w) as [number, number];
    return multiply(f32(x), f32(w), n, k);
  },
  rms_norm({ operands: [x, gain], attrs: { eps } }, { f32, shape }) {
    const width = shape(gain)[0] as number;
    const [xs, gains] = [f32(x), f32(gain)];
    const out = new Float32Array(xs.length);
    for (let at = 0; at < xs.length; at += width) {
      let squares = 0;
      for (let i = 0; i < width; i++) squares += xs[at + i]! * xs[at + i]!;
      const scale = 1 / Math.sqrt(squares / width + eps);
      for (let i = 0; i < width; i++) out[at + i] = Math.fround(xs[at + i]! * scale) * gains[i]!;
    }
    return out;
  },

  layer_norm({ operands: [x, gain, bias], attrs: { eps } }, { f32, shape }) {
    const width = shape(gain)[0] as number;
    const [gains, biases] = [f32(gain), f32(bias)];
    return eachRow(f32(x), width, (row) => {
      const mean = row.reduce((a, b) => a + b, 0) / width;
      const variance = row.reduce((sum, v) => sum + (v - mean) ** 2, 0) / width;
      const scale = 1 / Math.sqrt(variance + eps);
      return row.map((v, i) => Math.fround((v - mean) * scale) * gains[i]! + biases[i]!);
    });
  },
  softmax: ({ operands: [x] }, { f32, shape }) => eachRow(f32(x), shape(x).at(-1) as number, softmax),

  group_limit: ({ operands: [scores], attrs }, { f32, shape }) =>
    eachRow(f32(scores), shape(scores).at(-1) as number, (row) => groupLimit(row, attrs)),
  top_k({ operands: [x], attrs: { k } }, { f32, shape }) {
    const width = shape(x)[1] as number;
    const rows = f32(x).length / width;
    const out = new Int32Array(rows * k);
    for (let r = 0; r < rows; r++) out.set(topK(f32(x).subarray(r * width, (r + 1) * width), k), r * k);
    return out;
  },
  gather_cols({ operands: [x, ids] }, { f32, i32, shape }) {
    const [width, k] = [shape(x)[1], shape(ids)[1]] as [number, number];
    return Float32Array.from(i32(ids), (col, i) => f32(x)[Math.floor(i / k) * width + col]!);
  },
  renormalize: ({ operands: [x], attrs: { eps } }, { f32, shape }) =>
    eachRow(f32(x), shape(x).at(-1) as number, (row) => renormalize(row, eps)),
  dispatch({ operands: [x, ids] }, { f32, i32, shape }) {
    const [width, k] = [shape(x)[1], shape(ids)[1]] as [number, number];
    const out = new Float32Array(i32(ids).length * width);
    sortedSlots(i32(ids)).forEach((slot, row) => {
      const token = Math.floor(slot / k);
      out.set(f32(x).subarray(token * width, (token + 1) * width), row * width);
    });
    return out;
  },
  grouped_linear({ operands: [x, w, ids] }, { f32, i32, shape }) {
    const [, n, k] = shape(w) as [number, number, number];
    const slots = sortedSlots(i32(ids));
    const out = new Float32Array(slots.length * n);
    for (let begin = 0, end: number; begin < slots.length; begin = end) {
      const expert = i32(ids)[slots[begin]!]!;
      for (end = begin + 1; end < slots.length && i32(ids)[slots[end]!] === expert; ) end++;
      const matrix = f32(w).subarray(expert * n * k, (expert + 1) * n * k);
      out.set(multiply(f32(x).subarray(begin * k, end * k), matrix, n, k), begin * n);
    }
    return out;
  },
  expert_rows({ operands: [v, ids] }, { f32, i32, shape }) {
    const [experts, width] = shape(v) as [number, number];
    const rows = Int32Array.from(sortedSlots(i32(ids)), (slot) => i32(ids)[slot]!);
    return rowsOf(f32(v), rows, width, experts, "experts");
  },
  combine({ operands: [y, weights, ids] }, { f32, i32, shape }) {
    const [width, k] = [shape(y)[1], shape(ids)[1]] as [number, number];
    const out = new Float64Array((i32(ids).length / k) * width);
    sortedSlots(i32(ids)).forEach((slot, row) => {
      const at = Math.floor(slot / k) * width;
      for (let i = 0; i < width; i++) out[at + i]! += f32(weights)[slot]! * f32(y)[row * width + i]!;
    });
    return Float32Array.from(out);
  },

  rope_angles({ operands: [positions, seqIds, seqLens], attrs: { invFreq, attentionFactor, long } }, { i32 }) {
    const half = invFreq.length;
    const out = new Float32Array(i32(positions).length * 2 * half);
    i32(positions).forEach((position, t) => {
      const length = seqIds && seqLens ? i32(seqLens)[i32(seqIds)[t]!]! : 0;
      (long && length > long.beyond ? long.invFreq : invFreq).forEach((frequency, i) => {
        const angle = Math.fround(position * Math.fround(frequency));
        out[t * 2 * half + i] = Math.cos(angle) * attentionFactor;
        out[t * 2 * half + half + i] = Math.sin(angle) * attentionFactor;
      });
    });
    return out;
  },
  rope({ operands: [x, angles], attrs: { style } }, { f32, shape }) {
    const [tokens, heads, headDim] = shape(x) as [number, number, number];
    const half = (shape(angles)[1] as number) / 2;
    const turn = f32(angles);
    const out = f32(x).slice();
    for (let t = 0; t < tokens; t++) {
      for (let h = 0; h < heads; h++) {
        const head = out.subarray((t * heads + h) * headDim, (t * heads + h + 1) * headDim);
        for (let i = 0; i < half; i++) {
          const [a, b] = style === "half" ? [i, i + half] : [2 * i, 2 * i + 1];
          const [cos, sin] = [turn[t * 2 * half + i]!, turn[t * 2 * half + half + i]!];
          const [p, q] = [head[a]!, head[b]!];
          head[a] = p * cos - q * sin;
          head[b] = q * cos + p * sin;
        }
      }
    }
    return out;
  },
  store_kv({ operands: [cache, k, v, positions, seqIds, tables], type }, c) {
    const state = c.kv(cache);
    const width = (type.shape[1] as number) * (type.shape[2] as number);
    const next = { blockSize: state.blockSize, k: state.k.slice(), v: state.v.slice() };
    const write = (into: Float32Array, rows: Float32Array, dtype: DType) =>
      i32Each(c.i32(positions), (position, t) => {
        const slot = slotOf(c, tables, c.i32(seqIds)[t]!, position, state.blockSize);
        into.set(roundTo(dtype, rows.slice(t * width, (t + 1) * width)), slot * width);
      });
    write(next.k, c.f32(k), type.dtype);
    write(next.v, c.f32(v), type.dtype);
    return next;
  },
  paged_attention({ operands: [q, cache, positions, seqIds, tables, sinks], attrs: { scale, window } }, c) {
    const state = c.kv(cache);
    const [, numHeads, headDim] = c.shape(q) as [number, number, number];
    const numKvHeads = cache.type.shape[1] as number;
    const width = numKvHeads * headDim;
    const queries = c.f32(q);
    const out = new Float32Array(queries.length);
    i32Each(c.i32(positions), (position, t) => {
      const first = window === null ? 0 : Math.max(0, position - window + 1);
      const slots = Array.from({ length: position - first + 1 }, (_, i) =>
        slotOf(c, tables, c.i32(seqIds)[t]!, first + i, state.blockSize),
      );
      for (let h = 0; h < numHeads; h++) {
        const query = queries.subarray((t * numHeads + h) * headDim, (t * numHeads + h + 1) * headDim);
        const kvAt = Math.floor(h / (numHeads / numKvHeads)) * headDim;
        const sink = sinks ? c.f32(sinks)[h]! : Number.NEGATIVE_INFINITY;
        let max = sink;
        const scores = slots.map((slot) => {
          let sum = 0;
          for (let d = 0, at = slot * width + kvAt; d < headDim; d++, at++) sum += query[d]! * state.k[at]!;
          max = Math.max(max, sum * scale);
          return sum * scale;
        });
        const mixed = new Float64Array(headDim);
        let total = Math.exp(sink - max);
        for (const [i, score] of scores.entries()) {
          const weight = Math.exp(score - max);
          total += weight;
          for (let d = 0, at = slots[i]! * width + kvAt; d < headDim; d++, at++) mixed[d]! += weight * state.v[at]!;
        }
        for (let d = 0; d < headDim; d++) out[(t * numHeads + h) * headDim + d] = mixed[d]! / total;
      }
    });
    return out;
  },
  gather_rows({ operands: [x, rows] }, { f32, i32, shape }) {
    const [count, ...rest] = shape(x) as [number, ...number[]];
    const width = rest.reduce((a, b) => a * b, 1);
    return rowsOf(f32(x), i32(rows), width, count, "sample_rows");
  },
};

/** x (rows, k) · wᵀ, w (n, k): (rows, n). */
function multiply(xs: Float32Array, w: Float32Array, n: number, k: number): Float32Array {
  const rows = xs.length / k;
  const out = new Float32Array(rows * n);
  for (let col = 0; col < n; col++) {
    const weight = w.subarray(col * k, (col + 1) * k);
    let row = 0;
    // Four rows at a time only saves reading the weights again: each sum runs in the same order.
    for (; row + 4 <= rows; row += 4) {
      let [s0, s1, s2, s3] = [0, 0, 0, 0];
      for (let i = 0, at = row * k; i < k; i++, at++) {
        const v = weight[i]!;
        s0 += xs[at]! * v;
        s1 += xs[at + k]! * v;
        s2 += xs[at + 2 * k]! * v;
        s3 += xs[at + 3 * k]! * v;
      }
      out[row * n + col] = s0;
      out[(row + 1) * n + col] = s1;
      out[(row + 2) * n + col] = s2;
      out[(row + 3) * n + col] = s3;
    }
    for (; row < rows; row++) {
      let sum = 0;
      for (let i = 0, at = row * k; i < k; i++, at++) sum += xs[at]! * weight[i]!;
      out[row * n + col] = sum;
    }
  }
  return out;
}

/** What elementwise functions of one value are, in double precision. */
export const scalarMeaning = {
  sigmoid: (x: number): number => 1 / (1 + Math.exp(-x)),
  silu: (x: number): number => x / (1 + Math.exp(-x)),
  gelu_tanh: (x: number): number => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  tanh: (x: number): number => Math.tanh(x),
};

/** a ∘ b, each repeated over the axes that it lacks or has 1 of. */
function binary(
  { operands: [a, b], type }: NodeOf<"add" | "mul" | "min" | "max">,
  { f32, shape }: Context,
  f: (p: number, q: number) => number,
): Float32Array {
  const [p, q] = [f32(a), f32(b)];
  const cols = shape(a).length >= shape(b).length ? (shape(a).at(-1) ?? 1) : (shape(b).at(-1) ?? 1);
  const width = Math.max(cols, (type.shape.at(-1) as number | undefined) ?? 1);
  const isColumn = (n: Node) => n.type.shape.length === type.shape.length && n.type.shape.at(-1) === 1 && width !== 1;
  const at = (n: Node, length: number) => (isColumn(n) ? (i: number) => Math.floor(i / width) : (i: number) => i % length);
  const [atA, atB] = [at(a, p.length), at(b, q.length)];
  const out = new Float32Array(Math.max(isColumn(a) ? p.length * width : p.length, isColumn(b) ? q.length * width : q.length));
  for (let i = 0; i < out.length; i++) out[i] = f(p[atA(i)]!, q[atB(i)]!);
  return out;
}

/** `f` of each row of `width`. */
function eachRow(x: Float32Array, width: number, f: (row: Float32Array) => Float32Array): Float32Array {
  const out = new Float32Array(x.length);
  for (let at = 0; at < x.length; at += width) out.set(f(x.subarray(at, at + width)), at);
  return out;
}

function split(shape: readonly number[], axis: number): { outer: number; extent: number; inner: number } {
  const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);
  return { outer: product(shape.slice(0, axis)), extent: shape[axis] as number, inner: product(shape.slice(axis + 1)) };
}

function rowsOf(x: Float32Array, rows: Int32Array, width: number, count: number, name: string): Float32Array {
  const out = new Float32Array(rows.length * width);
  i32Each(rows, (row, i) => {
    if (row < 0 || row >= count) throw new CompileError(`${name}[${i}] is ${row}; expected 0 … ${count - 1}`);
    out.set(x.subarray(row * width, (row + 1) * width), i * width);
  });
  return out;
}

function i32Each(values: Int32Array, f: (value: number, index: number) => void): void {
  for (let i = 0; i < values.length; i++) f(values[i]!, i);
}

function slotOf(c: Context, tables: Node, seq: number, position: number, blockSize: number): number {
  const block = c.i32(tables)[seq * c.env.step.binding.P + Math.floor(position / blockSize)];
  invariant(block !== undefined, `position ${position} of sequence ${seq} lies outside its block table`);
  return block * blockSize + (position % blockSize);
}
