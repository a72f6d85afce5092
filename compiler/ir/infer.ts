/**
 * Type rules: the result type of each op from its operands and attributes.
 *
 * A total table over the op table. A rule that does not hold throws `TypeRuleError` with the shapes it saw; the graph adds where.
 */
import type { Attrs, Node, Operands, OpName } from "./ops.ts";
import { type Dim, type DType, printShape, printType, sameDim, type TensorType } from "./tensor-type.ts";

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
  silu: ([x]) => {
    requireFloat("x", x);
    return f32(x.type.shape);
  },

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
  reshape: ([x], { shape }) => {
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
    requireFloat("x", x);
    requireFloat("gain", gain);
    const last = x.type.shape.at(-1);
    require(last !== undefined && gain.type.shape.length === 1 && sameDim(gain.type.shape[0]!, last), () =>
      `x is ${printShape(x.type.shape)} but gain is ${printShape(gain.type.shape)}; gain must be one vector over x's last extent`);
    return f32(x.type.shape);
  },

  rope_angles: ([positions], { invFreq }) => {
    require(positions.type.dtype === "i32" && positions.type.shape.length === 1, () =>
      `positions are ${printType(positions.type)}; expected i32(T)`);
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
  paged_attention: ([q, kv, positions, seqIds, blockTables], { window }) => {
    const [, numKvHeads, headDim] = requireCache(kv);
    const [, numHeads, qDim] = q.type.shape;
    require(q.type.shape.length === 3 && qDim === headDim && typeof numHeads === "number" && numHeads % numKvHeads === 0, () =>
      `q is ${printShape(q.type.shape)} but the cache holds ${numKvHeads} heads of ${headDim}; heads must be a multiple, head sizes equal`);
    require(window === null || (isWhole(window) && window > 0), () =>
      `window is ${window}; expected a positive number of tokens or null`);
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

/** The longer shape, whose last axes must be the shorter one. */
function broadcast(a: Node, b: Node): readonly Dim[] {
  requireFloat("a", a);
  requireFloat("b", b);
  const [long, short] = a.type.shape.length >= b.type.shape.length ? [a.type.shape, b.type.shape] : [b.type.shape, a.type.shape];
  require(sameShape(long.slice(long.length - short.length), short), () =>
    `a is ${printShape(a.type.shape)} but b is ${printShape(b.type.shape)}; the shorter shape must be the end of the longer`);
  return long;
}

/** The product of the fixed extents, and the symbols in order. */
function extentProduct(shape: readonly Dim[]): [symbols: string, elements: number] {
  let elements = 1;
  const symbols: string[] = [];
  for (const d of shape) {
    if (typeof d === "number") elements *= d;
    else symbols.push(d.sym);
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
