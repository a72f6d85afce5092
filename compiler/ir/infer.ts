/**
 * Type rules: the result type of each op from its operands and attributes.
 *
 * A total table over the op table. A rule that does not hold throws `TypeRuleError` with the shapes it saw; the graph adds where.
 */
import type { Attrs, Node, Operands, OpName } from "./ops.ts";
import { type Dim, type DType, printDim, printShape, printType, sameDim, type TensorType, timesDim } from "./tensor-type.ts";

/** Operands or attributes that an op's type rule refuses; `Graph.add` turns it into a `CompileError` naming the model path. */
export class TypeRuleError extends Error {
  override readonly name = "TypeRuleError";
}

function require(condition: unknown, message: () => string): asserts condition {
  if (!condition) throw new TypeRuleError(message());
}

/** The type of an op applied to operands. Throws `TypeRuleError`. */
export const inferType: { readonly [K in OpName]: (operands: Operands<K>, attrs: Attrs<K>) => TensorType } = {
  input: (_, { type }) => type,
  weight: (_, { name, type }) => {
    require(type.shape.every((d) => typeof d === "number" && Number.isInteger(d) && d > 0), () =>
      `weight ${name} is ${printShape(type.shape)}; a checkpoint tensor has whole, positive extents`);
    return type;
  },
  kv_cache: (_, { dtype, numKvHeads, headDim }) => ({ dtype, shape: [2, numKvHeads, headDim] }),
  constant: () => f32([]),

  cast: ([x], { dtype }) => {
    require(isFloat(x.type.dtype) && isFloat(dtype), () =>
      `x is ${printType(x.type)}, cast to ${dtype}; both must be float dtypes`);
    return { dtype, shape: x.type.shape };
  },
  add: ([a, b]) => f32(broadcast(a, b)),
  mul: ([a, b]) => f32(broadcast(a, b)),
  min: ([a, b]) => f32(broadcast(a, b)),
  max: ([a, b]) => f32(broadcast(a, b)),
  sigmoid: ([x]) => sameInF32(x),
  silu: ([x]) => sameInF32(x),
  gelu_tanh: ([x]) => sameInF32(x),
  tanh: ([x]) => sameInF32(x),

  slice: ([x], { axis, start, size }) => {
    const extent = x.type.shape[axis];
    require(typeof extent === "number", () =>
      `axis ${axis} of x ${printShape(x.type.shape)} must be an existing axis of fixed extent`);
    require(isWhole(start) && isWhole(size) && size > 0 && start + size <= extent, () =>
      `elements ${start} … ${start + size - 1} of axis ${axis} do not lie in x ${printShape(x.type.shape)}`);
    return { dtype: x.type.dtype, shape: x.type.shape.with(axis, size) };
  },
  concat: (operands, { axis }) => {
    const [first] = operands;
    require(first, () => "at least one operand is needed");
    let total = 0;
    for (const operand of operands) {
      const extent = operand.type.shape[axis];
      require(typeof extent === "number", () =>
        `axis ${axis} of ${printShape(operand.type.shape)} must be an existing axis of fixed extent`);
      require(operand.type.dtype === first.type.dtype &&
        sameShape(operand.type.shape.with(axis, 0), first.type.shape.with(axis, 0)), () =>
        `${printType(operand.type)} and ${printType(first.type)} must agree in dtype and in all axes but ${axis}`);
      total += extent;
    }
    return { dtype: first.type.dtype, shape: first.type.shape.with(axis, total) };
  },
  transpose: ([x]) => {
    const { dtype, shape } = x.type;
    require(shape.length >= 2 && shape.every((d) => typeof d === "number"), () =>
      `x is ${printShape(shape)}; only a weight of two axes or more is transposed`);
    return { dtype, shape: [...shape.slice(0, -2), shape.at(-1) as Dim, shape.at(-2) as Dim] };
  },
  reshape: ([x], { shape }) => {
    require(shape.every((d) => typeof d !== "number" || d > 0), () =>
      `the shape asked for is ${printShape(shape)}; every extent is written out, and none is ${shape.find((d) => typeof d === "number" && d <= 0)}`);
    const [symbols, elements] = extentProduct(shape);
    const [xSymbols, xElements] = extentProduct(x.type.shape);
    require(symbols === xSymbols && elements === xElements, () =>
      `x is ${printShape(x.type.shape)} but the shape asked for is ${printShape(shape)}; both must have the same number of elements`);
    return { dtype: x.type.dtype, shape };
  },

  embedding: ([ids, table]) => {
    require(ids.type.dtype === "i32" && ids.type.shape.length === 1, () => `ids are ${printType(ids.type)}; expected i32(T)`);
    require(isFloat(table.type.dtype) && table.type.shape.length === 2, () =>
      `table is ${printType(table.type)}; expected a float matrix (vocab, hidden)`);
    return f32([ids.type.shape[0]!, table.type.shape[1]!]);
  },
  linear: ([x, w]) => {
    requireFloat("x", x);
    requireFloat("weight", w);
    require(w.type.shape.length === 2, () => `weight is ${printShape(w.type.shape)}; expected (N, K)`);
    const [n, k] = w.type.shape as [Dim, Dim];
    const last = x.type.shape.at(-1);
    require(last !== undefined && sameDim(last, k), () =>
      `x is ${printShape(x.type.shape)} but weight is ${printShape(w.type.shape)}; last extents must match`);
    return f32([...x.type.shape.slice(0, -1), n]);
  },
  rms_norm: ([x, gain]) => {
    requireLastVector("gain", gain, x);
    return sameInF32(x);
  },
  layer_norm: ([x, gain, bias]) => {
    requireLastVector("gain", gain, x);
    requireLastVector("bias", bias, x);
    return sameInF32(x);
  },
  softmax: ([x]) => {
    requireFixedLast("x", x);
    return sameInF32(x);
  },

  group_limit: ([scores], { groups, keep, best }) => {
    const experts = requireFixedLast("scores", scores);
    const whole = isWhole(groups) && isWhole(keep) && isWhole(best) && groups > 0 && keep > 0 && best > 0;
    require(whole && experts % groups === 0 && keep <= groups && best <= experts / groups, () =>
      `${experts} experts do not form ${groups} equal groups of which the ${best} best experts judge and ${keep} groups remain`);
    return sameInF32(scores);
  },
  top_k: ([x], { k }) => {
    const columns = requireFixedLast("x", x);
    require(x.type.shape.length === 2, () => `x is ${printShape(x.type.shape)}; expected rows of scores (T, E)`);
    require(isWhole(k) && k > 0 && k <= columns, () => `k is ${k}; expected 1 … ${columns}, the columns of x`);
    return { dtype: "i32", shape: [x.type.shape[0]!, k] };
  },
  gather_cols: ([x, ids]) => {
    requireFixedLast("x", x);
    const [rows, k] = requireIds(ids);
    require(x.type.shape.length === 2 && sameDim(x.type.shape[0]!, rows), () =>
      `x is ${printShape(x.type.shape)} but ids are ${printShape(ids.type.shape)}; both need the same rows`);
    return f32([rows, k]);
  },
  renormalize: ([x]) => {
    requireFixedLast("x", x);
    return sameInF32(x);
  },
  dispatch: ([x, ids]) => {
    requireFloat("x", x);
    const [rows, k] = requireIds(ids);
    require(x.type.shape.length === 2 && sameDim(x.type.shape[0]!, rows), () =>
      `x is ${printShape(x.type.shape)} but ids are ${printShape(ids.type.shape)}; expected one row of ids a token`);
    return { dtype: x.type.dtype, shape: [timesDim(rows, k), x.type.shape[1]!] };
  },
  grouped_linear: ([x, w, ids]) => {
    requireFloat("x", x);
    requireFloat("weight", w);
    require(w.type.shape.length === 3, () => `weight is ${printShape(w.type.shape)}; expected (E, N, K)`);
    const [experts, n, k] = w.type.shape as [number, number, number];
    const rows = requireSorted(x, ids);
    requireExperts(ids, experts, "weight");
    require(x.type.shape.length === 2 && sameDim(x.type.shape[1]!, k), () =>
      `x is ${printShape(x.type.shape)} but weight is ${printShape(w.type.shape)}; last extents must match`);
    return f32([rows, n]);
  },
  expert_rows: ([v, ids]) => {
    requireFloat("v", v);
    require(v.type.shape.length === 2, () => `v is ${printShape(v.type.shape)}; expected one vector an expert, (E, N)`);
    const [rows, k] = requireIds(ids);
    requireExperts(ids, v.type.shape[0] as number, "v");
    return f32([timesDim(rows, k), v.type.shape[1]!]);
  },
  combine: ([y, weights, ids]) => {
    requireFloat("y", y);
    requireFloat("weights", weights);
    const [tokens] = requireIds(ids);
    requireSorted(y, ids);
    require(y.type.shape.length === 2 && sameShape(weights.type.shape, ids.type.shape), () =>
      `weights are ${printShape(weights.type.shape)} but ids are ${printShape(ids.type.shape)}; expected one weight an expert`);
    return f32([tokens, y.type.shape[1]!]);
  },

  rope_angles: ([positions, ...lengths], { invFreq, long }) => {
    require(positions.type.dtype === "i32" && positions.type.shape.length === 1, () =>
      `positions are ${printType(positions.type)}; expected i32(T)`);
    require(lengths.length === (long ? 2 : 0), () =>
      `${lengths.length} operands follow the positions; expected seq_ids and seq_lens with long frequencies, nothing without`);
    const [seqIds, seqLens] = lengths;
    if (long && seqIds && seqLens) {
      require(seqIds.type.dtype === "i32" && sameShape(seqIds.type.shape, positions.type.shape), () =>
        `seq_ids are ${printType(seqIds.type)} but positions are ${printType(positions.type)}; expected one a token`);
      require(seqLens.type.dtype === "i32" && seqLens.type.shape.length === 1, () =>
        `seq_lens are ${printType(seqLens.type)}; expected i32(B)`);
      require(long.invFreq.length === invFreq.length, () =>
        `long sequences have ${long.invFreq.length} frequencies, short ones ${invFreq.length}; expected as many`);
      require(isWhole(long.beyond) && long.beyond > 0, () =>
        `long frequencies hold beyond ${long.beyond} tokens; expected a whole number of at least 1`);
    }
    return f32([positions.type.shape[0]!, 2 * invFreq.length]);
  },
  rope: ([x, angles]) => {
    const [tokens, , headDim] = x.type.shape;
    require(x.type.shape.length === 3 && typeof headDim === "number", () =>
      `x is ${printShape(x.type.shape)}; expected (T, heads, headDim)`);
    const [angleTokens, width] = angles.type.shape;
    require(angles.type.shape.length === 2 && typeof width === "number" && sameDim(angleTokens!, tokens!), () =>
      `angles are ${printShape(angles.type.shape)} but x is ${printShape(x.type.shape)}; expected one row of angles a token`);
    require(width <= headDim && width % 2 === 0, () => `angles rotate ${width} elements but a head of x has ${headDim}`);
    return f32(x.type.shape);
  },
  store_kv: ([kv, k, v, positions, seqIds, blockTables]) => {
    const [, numKvHeads, headDim] = requireCache(kv);
    for (const [name, value] of [
      ["k", k],
      ["v", v],
    ] as const) {
      const [tokens, heads, dim] = value.type.shape;
      require(value.type.shape.length === 3 && heads === numKvHeads && dim === headDim, () =>
        `${name} is ${printShape(value.type.shape)} but the cache holds ${numKvHeads} heads of ${headDim}`);
      require(sameDim(tokens!, positions.type.shape[0] ?? 0), () =>
        `${name} is ${printShape(value.type.shape)} but positions are ${printShape(positions.type.shape)}; one position a token`);
    }
    requirePaging(positions, seqIds, blockTables);
    return kv.type;
  },
  paged_attention: ([q, kv, positions, seqIds, blockTables, sinks], { window }) => {
    const [, numKvHeads, headDim] = requireCache(kv);
    const [, numHeads, qDim] = q.type.shape;
    require(q.type.shape.length === 3 && qDim === headDim && typeof numHeads === "number" && numHeads % numKvHeads === 0, () =>
      `q is ${printShape(q.type.shape)} but the cache holds ${numKvHeads} heads of ${headDim}; heads must be a multiple, head sizes equal`);
    require(window === null || (isWhole(window) && window > 0), () =>
      `window is ${window}; expected a positive number of tokens or null`);
    if (sinks)
      require(sinks.type.shape.length === 1 && sinks.type.shape[0] === numHeads, () =>
        `sinks are ${printShape(sinks.type.shape)}; expected one score a head, (${numHeads})`);
    requirePaging(positions, seqIds, blockTables);
    return f32(q.type.shape);
  },
  gather_rows: ([x, rows]) => {
    require(rows.type.dtype === "i32" && rows.type.shape.length === 1, () => `rows are ${printType(rows.type)}; expected i32(S)`);
    require(x.type.shape.length >= 1, () => "x is a scalar; expected rows");
    return { dtype: x.type.dtype, shape: [rows.type.shape[0]!, ...x.type.shape.slice(1)] };
  },
};

const f32 = (shape: readonly Dim[]): TensorType => ({ dtype: "f32", shape });

const isWhole = (n: number): boolean => Number.isInteger(n) && n >= 0;

const isFloat = (dtype: DType): boolean => dtype === "f32" || dtype === "f16" || dtype === "bf16" || dtype === "fp8_e4m3";

/** Whether two shapes have the same extents in the same order. */
export const sameShape = (a: readonly Dim[], b: readonly Dim[]): boolean =>
  a.length === b.length && a.every((d, i) => sameDim(d, b[i]!));

function requireFloat(name: string, node: Node): void {
  require(isFloat(node.type.dtype), () => `${name} is ${printType(node.type)}; expected a float dtype`);
}

/** The type of an elementwise or rowwise result. */
function sameInF32(x: Node): TensorType {
  requireFloat("x", x);
  return f32(x.type.shape);
}

function requireLastVector(name: string, vector: Node, x: Node): void {
  requireFloat(name, vector);
  const last = x.type.shape.at(-1);
  require(last !== undefined && vector.type.shape.length === 1 && sameDim(vector.type.shape[0]!, last), () =>
    `x is ${printShape(x.type.shape)} but ${name} is ${printShape(vector.type.shape)}; ${name} must be one vector over x's last extent`);
}

function requireFixedLast(name: string, x: Node): number {
  requireFloat(name, x);
  const last = x.type.shape.at(-1);
  require(typeof last === "number", () => `${name} is ${printShape(x.type.shape)}; expected a last axis of fixed extent`);
  return last;
}

/** Experts chosen for each token. */
function requireIds(ids: Node): [tokens: Dim, k: number] {
  require(ids.op === "top_k", () => `ids are a ${ids.op}; expected the top_k that chose the experts`);
  return ids.type.shape as [Dim, number];
}

/** The `top_k` that the rows of `x` are sorted by; null where none sorts them, or two do. */
export function sortedBy(x: Node): Node | null {
  if (x.op === "dispatch" || x.op === "expert_rows") return x.operands[1];
  if (x.op === "grouped_linear") return x.operands[2];
  const [rows] = x.type.shape;
  if (x.op === "combine" || rows === undefined) return null;
  let ids: Node | null = null;
  for (const operand of x.operands) {
    const [first] = operand.type.shape;
    if (first === undefined || !sameDim(first, rows)) continue; // the same for all rows
    const found = sortedBy(operand);
    if (!found || (ids && found !== ids)) return null;
    ids = found;
  }
  return ids;
}

/** Rows sorted by expert: k a token. */
function requireSorted(x: Node, ids: Node): Dim {
  const [tokens, k] = requireIds(ids);
  const rows = timesDim(tokens, k);
  require(x.type.shape[0] !== undefined && sameDim(x.type.shape[0], rows), () =>
    `x is ${printShape(x.type.shape)} but ids are ${printShape(ids.type.shape)}; expected the ${printDim(rows)} rows of a dispatch`);
  require(sortedBy(x) === ids, () =>
    "x has rows in another order than these ids sort them; expected rows of a dispatch by the same ids");
  return rows;
}

function requireExperts(ids: Node, experts: number, name: string): void {
  const chosenFrom = ids.op === "top_k" ? ids.operands[0].type.shape[1] : undefined;
  require(chosenFrom === experts, () => `ids choose among ${chosenFrom} experts, but ${name} has ${experts}`);
}

/** The longer shape, whose last axes must be the shorter one, or the shorter one with a last extent of 1. */
function broadcast(a: Node, b: Node): readonly Dim[] {
  requireFloat("a", a);
  requireFloat("b", b);
  const [long, short] = a.type.shape.length >= b.type.shape.length ? [a.type.shape, b.type.shape] : [b.type.shape, a.type.shape];
  const isColumn = (x: readonly Dim[], of: readonly Dim[]) =>
    x.length === of.length && x.at(-1) === 1 && sameShape(x.slice(0, -1), of.slice(0, -1));
  if (isColumn(long, short)) return short;
  require(sameShape(long.slice(long.length - short.length), short) || isColumn(short, long), () =>
    `a is ${printShape(a.type.shape)} but b is ${printShape(b.type.shape)}; the shorter shape must be the end of the longer, or have 1 as its last extent`);
  return long;
}

/** The product of the fixed extents, and the symbols in order. */
function extentProduct(shape: readonly Dim[]): [symbols: string, elements: number] {
  let elements = 1;
  const symbols: string[] = [];
  for (const d of shape) {
    elements *= typeof d === "number" ? d : d.times;
    if (typeof d !== "number") symbols.push(d.sym);
  }
  return [symbols.join(), elements];
}

function requireCache(kv: Node): readonly [number, number, number] {
  require(kv.op === "kv_cache" || kv.op === "store_kv", () => `the cache is a ${kv.op}; expected kv_cache or store_kv`);
  return kv.type.shape as [number, number, number];
}

function requirePaging(positions: Node, seqIds: Node, blockTables: Node): void {
  for (const [name, node, rank] of [
    ["positions", positions, 1],
    ["seq_ids", seqIds, 1],
    ["block_tables", blockTables, 2],
  ] as const) {
    require(node.type.dtype === "i32" && node.type.shape.length === rank, () =>
      `${name} is ${printType(node.type)}; expected i32 of rank ${rank}`);
  }
}
