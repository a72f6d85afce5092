/**
 * Floating-point operations and bytes moved by a node, as polynomials in the step's symbols: for rooflines and `explain`.
 *
 * Bytes count every operand read once and the result written once. Attention is counted over whole block tables (P blocks a
 * sequence): an upper bound, since a step knows how many blocks a table has room for, not how far each sequence has come.
 */
import type { Rpn } from "../../runtime/manifest.ts";
import type { Node, NodeOf, OpName } from "./ops.ts";
import { type Dim, dtypeBytes, type SymbolName, type TensorType } from "./tensor-type.ts";

/** Σ coefficient · Π symbols */
export type Polynomial = readonly { readonly coefficient: number; readonly symbols: readonly SymbolName[] }[];

export interface Costs {
  /** A multiply-add counts two. */
  readonly flops: Polynomial;
  readonly bytes: Polynomial;
}

/** What one step of `node` costs. `blockSize` is the tokens of a KV block. */
export function nodeCosts(node: Node, blockSize: number): Costs {
  return (costs[node.op] as (n: Node, blockSize: number) => Costs)(node, blockSize);
}

/** The sum, equal products of symbols merged. */
export function addPolynomials(...polynomials: readonly Polynomial[]): Polynomial {
  const terms = new Map<string, { coefficient: number; symbols: readonly SymbolName[] }>();
  for (const { coefficient, symbols } of polynomials.flat()) {
    const sorted = [...symbols].sort();
    const key = sorted.join("·");
    terms.set(key, { coefficient: coefficient + (terms.get(key)?.coefficient ?? 0), symbols: sorted });
  }
  return [...terms.values()].filter((t) => t.coefficient !== 0);
}

/** The value of a polynomial when the symbols have these values. */
export function evaluatePolynomial(polynomial: Polynomial, binding: Readonly<Record<SymbolName, number>>): number {
  return polynomial.reduce((sum, { coefficient, symbols }) => sum + symbols.reduce((p, s) => p * binding[s], coefficient), 0);
}

/** The polynomial as the manifest writes it. */
export function polynomialToRpn(polynomial: Polynomial): Rpn {
  if (polynomial.length === 0) return [0];
  return polynomial.flatMap(({ coefficient, symbols }, i) => [
    coefficient,
    ...symbols.flatMap((s) => [s, "mul"] as const),
    ...(i > 0 ? (["add"] as const) : []),
  ]);
}

const free: Costs = { flops: [], bytes: [] };

const costs: { readonly [K in OpName]: (node: NodeOf<K>, blockSize: number) => Costs } = {
  input: () => free,
  weight: () => free,
  kv_cache: () => free,
  constant: () => free,
  cast: (n) => pointwise(n, 0),
  add: (n) => pointwise(n, 1),
  mul: (n) => pointwise(n, 1),
  silu: (n) => pointwise(n, 4), // negate, exp, add, divide
  slice: (n) => ({ flops: [], bytes: scale(sizeBytes(n.type), 2) }),
  concat: (n) => pointwise(n, 0),
  reshape: () => free,
  // Reads the rows it picks, not the table.
  embedding: (n) => ({
    flops: [],
    bytes: addPolynomials(sizeBytes(n.type), scale(elements(n.type.shape), dtypeBytes[n.operands[1].type.dtype])),
  }),
  linear: (n) => ({ flops: scale(elements([...n.type.shape, n.operands[1].type.shape[1] as Dim]), 2), bytes: moved(n) }),
  rms_norm: (n) => pointwise(n, 4), // square, add, scale, gain
  rope_angles: (n) => pointwise(n, 2),
  rope: (n) => pointwise(n, 3),
  store_kv: (n) => {
    const [, k, v] = n.operands;
    const stored = addPolynomials(elements(k.type.shape), elements(v.type.shape));
    return {
      flops: [],
      bytes: addPolynomials(sizeBytes(k.type), sizeBytes(v.type), scale(stored, dtypeBytes[n.type.dtype])),
    };
  },
  // q·k and weights·v over the context of each token, and one read of each sequence's cache.
  paged_attention: (n, blockSize) => {
    const [q, kv, , , tables] = n.operands;
    const [rows, perSequence] = tables.type.shape as [Dim, Dim];
    const cached = scale(elements([rows, perSequence, ...kv.type.shape]), blockSize * dtypeBytes[kv.type.dtype]);
    return {
      flops: scale(elements([...q.type.shape, perSequence]), 4 * blockSize),
      bytes: addPolynomials(sizeBytes(q.type), sizeBytes(n.type), cached),
    };
  },
  gather_rows: (n) => ({ flops: [], bytes: scale(sizeBytes(n.type), 2) }),
};

const scale = (polynomial: Polynomial, by: number): Polynomial =>
  polynomial.map(({ coefficient, symbols }) => ({ coefficient: coefficient * by, symbols }));

/** The product of the extents. */
function elements(shape: readonly Dim[]): Polynomial {
  let coefficient = 1;
  const symbols: SymbolName[] = [];
  for (const d of shape) {
    if (typeof d === "number") coefficient *= d;
    else symbols.push(d.sym);
  }
  return addPolynomials([{ coefficient, symbols }]);
}

const sizeBytes = (type: TensorType): Polynomial => scale(elements(type.shape), dtypeBytes[type.dtype]);

const moved = (node: Node): Polynomial => addPolynomials(sizeBytes(node.type), ...node.operands.map((o) => sizeBytes(o.type)));

const pointwise = (node: Node, flopsPerElement: number): Costs => ({
  flops: scale(elements(node.type.shape), flopsPerElement).filter((t) => t.coefficient !== 0),
  bytes: moved(node),
});
