/**
 * What a graph means: slow, obvious f32 arithmetic, one node at a time. Everything fast is compared with it.
 *
 * Values are rounded to f32 (or to a cast's dtype) where a node ends; sums inside a node run in double precision, so that the
 * result does not depend on an order of summation.
 */
import { CompileError, invariant } from "../errors.ts";
import type { Graph } from "./graph.ts";
import type { InputName, Node, NodeOf, OpName } from "./ops.ts";
import { roundTo } from "./rounding.ts";
import { type Dim, type DType, printType, type SymbolName } from "./tensor-type.ts";

/** A checkpoint tensor's values, row-major, by published name. */
export type WeightSource = (name: string) => Float32Array;

/** One step: the symbols' values and the arrays of `runtime/batch.ts`. */
export interface StepInputs {
  readonly binding: Readonly<Record<SymbolName, number>>;
  readonly arrays: Readonly<Record<InputName, Int32Array>>;
}

/** One layer's cache by slot (block · blockSize + offset): k and v are (slots, numKvHeads · headDim). Never written in place. */
export interface KvState {
  readonly blockSize: number;
  readonly k: Float32Array;
  readonly v: Float32Array;
}

export interface InterpretEnvironment {
  readonly step: StepInputs;
  readonly weights: WeightSource;
  readonly kv: (layer: number) => KvState;
  /** Values of nodes made of weights alone, kept from step to step. */
  readonly constants?: Map<Node, Float32Array>;
}

/** Row-major values; a tap's and the logits' shapes are their nodes' types under the step's binding. */
export interface Interpretation {
  readonly logits: Float32Array;
  readonly taps: ReadonlyMap<string, Float32Array>;
  /** The cache of each layer after the step. */
  readonly kv: ReadonlyMap<number, KvState>;
}

/** Evaluates one step of a graph. Throws `CompileError` when an input or a weight does not have the size its type says. */
export function interpret(graph: Graph, env: InterpretEnvironment): Interpretation {
  const nodes = graph.liveNodes();
  const uses = new Map<Node, number>();
  const use = (node: Node, by: number) => uses.set(node, (uses.get(node) ?? 0) + by);
  for (const node of nodes) for (const operand of node.operands) use(operand, 1);
  for (const node of [graph.logits, ...graph.taps.values()]) use(node, 1);

  const values = new Map<Node, Value>();
  const kv = new Map<number, KvState>();
  for (const node of nodes) {
    values.set(node, evaluate(node, values, env));
    if (node.op === "store_kv") kv.set(layerOf(node), values.get(node) as KvState);
    for (const operand of node.operands) {
      use(operand, -1);
      if (uses.get(operand) === 0) values.delete(operand);
    }
  }
  const array = (node: Node) => values.get(node) as Float32Array;
  return { logits: array(graph.logits), taps: new Map([...graph.taps].map(([name, node]) => [name, array(node)])), kv };
}

/** Runs a graph step after step over a cache of its own, as an engine would. */
export class Interpreter {
  private readonly constants = new Map<Node, Float32Array>();
  private readonly cache = new Map<number, KvState>();

  constructor(
    private readonly graph: Graph,
    private readonly weights: WeightSource,
    private readonly numBlocks: number,
  ) {
    for (const node of graph.liveNodes()) {
      if (node.op !== "kv_cache") continue;
      const size = numBlocks * graph.limits.blockSize * node.attrs.numKvHeads * node.attrs.headDim;
      const state = { blockSize: graph.limits.blockSize, k: new Float32Array(size), v: new Float32Array(size) };
      this.cache.set(node.attrs.layer, state);
    }
  }

  /** Evaluates one step and keeps the caches it leaves. */
  step(step: StepInputs): Interpretation {
    const { weights, constants, numBlocks } = this;
    invariant(
      step.arrays.block_tables.every((b) => b >= 0 && b < numBlocks),
      `block_tables names a block outside the ${numBlocks} there are`,
    );
    const kv = (layer: number) => this.cache.get(layer) as KvState;
    const result = interpret(this.graph, { step, weights, constants, kv });
    for (const [layer, state] of result.kv) this.cache.set(layer, state);
    return result;
  }
}

/** A step of one sequence in blocks 0, 1, 2, …: `tokenIds` at positions from `firstPosition`, logits of every row or of the last. */
export function oneSequenceStep(
  tokenIds: readonly number[],
  firstPosition: number,
  blockSize: number,
  sample: "all" | "last",
): StepInputs {
  const T = tokenIds.length;
  const P = Math.ceil((firstPosition + T) / blockSize);
  const rows = sample === "all" ? tokenIds.map((_, t) => t) : [T - 1];
  return {
    binding: { T, B: 1, S: rows.length, P },
    arrays: {
      token_ids: Int32Array.from(tokenIds),
      positions: Int32Array.from(tokenIds, (_, t) => firstPosition + t),
      seq_ids: new Int32Array(T),
      block_tables: Int32Array.from({ length: P }, (_, p) => p),
      sample_rows: Int32Array.from(rows),
    },
  };
}

type Value = Float32Array | Int32Array | KvState;
type Values = ReadonlyMap<Node, Value>;

/** Everything a node's meaning may look at. */
interface Context {
  readonly env: InterpretEnvironment;
  readonly f32: (node: Node) => Float32Array;
  readonly i32: (node: Node) => Int32Array;
  readonly kv: (node: Node) => KvState;
  /** Extents under the step's binding. */
  readonly shape: (node: Node) => number[];
}

function evaluate(node: Node, values: Values, env: InterpretEnvironment): Value {
  const known = env.constants?.get(node);
  if (known) return known;
  const extent = (d: Dim) => (typeof d === "number" ? d : env.step.binding[d.sym]);
  const context: Context = {
    env,
    f32: (n) => values.get(n) as Float32Array,
    i32: (n) => values.get(n) as Int32Array,
    kv: (n) => values.get(n) as KvState,
    shape: (n) => n.type.shape.map(extent),
  };
  const value = (meaning[node.op] as (n: Node, c: Context) => Value)(node, context);
  if (node.op !== "kv_cache" && node.op !== "store_kv") {
    const expected = context.shape(node).reduce((a, b) => a * b, 1);
    const { length } = value as Float32Array;
    if (length !== expected) {
      const name = node.op === "input" || node.op === "weight" ? ` ${node.attrs.name}` : "";
      throw new CompileError(`${node.op}${name} holds ${length} elements; ${printType(node.type)} has ${expected} in this step`);
    }
  }
  const madeOfWeights = node.op === "weight" || (node.operands.length > 0 && node.operands.every((o) => env.constants?.has(o)));
  if (madeOfWeights) env.constants?.set(node, value as Float32Array);
  return value;
}

const meaning: { readonly [K in OpName]: (node: NodeOf<K>, c: Context) => Value } = {
  input: (node, { env }) => env.step.arrays[node.attrs.name],
  weight: (node, { env }) => roundTo(node.type.dtype, env.weights(node.attrs.name)),
  kv_cache: (node, { env }) => env.kv(node.attrs.layer),
  constant: (node) => Float32Array.of(node.attrs.value),

  cast: ({ operands: [x], attrs }, { f32 }) => roundTo(attrs.dtype, f32(x)),
  add: ({ operands: [a, b] }, { f32 }) => binary(f32(a), f32(b), (p, q) => p + q),
  mul: ({ operands: [a, b] }, { f32 }) => binary(f32(a), f32(b), (p, q) => p * q),
  silu: ({ operands: [x] }, { f32 }) => f32(x).map((v) => v / (1 + Math.exp(-v))),

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
  reshape: ({ operands: [x] }, { f32 }) => f32(x),

  embedding({ operands: [ids, table] }, { f32, i32, shape }) {
    const [vocab, hidden] = shape(table) as [number, number];
    return rowsOf(f32(table), i32(ids), hidden, vocab, "token_ids");
  },
  linear({ operands: [x, w] }, { f32, shape }) {
    const [n, k] = shape(w) as [number, number];
    const xs = f32(x);
    const rows = xs.length / k;
    const out = new Float32Array(rows * n);
    for (let col = 0; col < n; col++) {
      const weight = f32(w).subarray(col * k, (col + 1) * k);
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

  rope_angles({ operands: [positions], attrs: { invFreq, attentionFactor } }, { i32 }) {
    const half = invFreq.length;
    const out = new Float32Array(i32(positions).length * 2 * half);
    i32(positions).forEach((position, t) => {
      invFreq.forEach((frequency, i) => {
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
  paged_attention({ operands: [q, cache, positions, seqIds, tables], attrs: { scale, window } }, c) {
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
        let max = Number.NEGATIVE_INFINITY;
        const scores = slots.map((slot) => {
          let sum = 0;
          for (let d = 0, at = slot * width + kvAt; d < headDim; d++, at++) sum += query[d]! * state.k[at]!;
          max = Math.max(max, sum * scale);
          return sum * scale;
        });
        const mixed = new Float64Array(headDim);
        let total = 0;
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

/** a ∘ b with the shorter array repeated along the longer. */
function binary(a: Float32Array, b: Float32Array, f: (p: number, q: number) => number): Float32Array {
  const out = new Float32Array(Math.max(a.length, b.length));
  for (let i = 0; i < out.length; i++) out[i] = f(a[i % a.length]!, b[i % b.length]!);
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

function layerOf(node: Node): number {
  if (node.op === "kv_cache") return node.attrs.layer;
  return layerOf(node.operands[0] as Node);
}
