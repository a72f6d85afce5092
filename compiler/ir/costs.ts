/**
 * Floating-point operations and bytes moved by nodes, as polynomials in the step's symbols: what the manifest says of each kernel,
 * for rooflines and `explain`.
 *
 * Attention is counted over whole block tables (P blocks a sequence): an upper bound, since a step knows how many blocks a table has
 * room for, not how far each sequence has come, and a window is not looked at.
 */
import type { Rpn } from "../../runtime/manifest.ts";
import type { Node, NodeOf, OpName } from "./ops.ts";
import { type Dim, type DType, dtypeBytes, type SymbolName, type SymDim, type TensorType } from "./tensor-type.ts";

/** min(perToken · tokens, experts): how many experts a step reads at most. */
export interface ActiveExperts {
  readonly tokens: SymbolName;
  readonly perToken: number;
  readonly experts: number;
}

/** Σ coefficient · Π symbols · active experts, where a term has them. */
export type Polynomial = readonly Term[];

interface Term {
  readonly coefficient: number;
  readonly symbols: readonly SymbolName[];
  readonly active?: ActiveExperts;
}

export interface Costs {
  /** A multiply-add counts two. */
  readonly flops: Polynomial;
  readonly bytes: Polynomial;
}

/**
 * What one step of `nodes` costs when they are computed together and only `results` leave: operations of each, every value from
 * outside read once, the results and the cache written once. `blockSize` is the tokens of a KV block.
 */
export function costsOf(nodes: readonly Node[], results: readonly Node[], blockSize: number): Costs {
  const inside = new Set(nodes);
  const flops: Polynomial[] = [];
  const bytes: Polynomial[] = results.flatMap((result) => (result.op === "store_kv" ? [] : [sizeBytes(result.type)]));
  const read = new Set<Node>();
  for (const node of inside) {
    flops.push((flopsOf[node.op] as (n: Node, blockSize: number) => Polynomial)(node, blockSize));
    if (node.op === "store_kv") bytes.push(...node.operands.slice(1, 3).map((x) => storedBytes(x, node.type.dtype)));
    node.operands.forEach((operand, i) => {
      if (inside.has(operand)) return;
      // Slices of one value read different parts of it; everything else reads all of it, once for the whole group.
      if (node.op !== "slice" && read.has(operand)) return;
      read.add(operand);
      bytes.push(readBytes(node, i, blockSize));
    });
  }
  return { flops: addPolynomials(...flops), bytes: addPolynomials(...bytes) };
}

/** The sum, equal products of symbols merged. */
export function addPolynomials(...polynomials: readonly Polynomial[]): Polynomial {
  const terms = new Map<string, Term>();
  for (const { coefficient, symbols, active } of polynomials.flat()) {
    const sorted = [...symbols].sort();
    const key = [...sorted, active ? `${active.perToken}${active.tokens} of ${active.experts}` : ""].join("·");
    terms.set(key, { coefficient: coefficient + (terms.get(key)?.coefficient ?? 0), symbols: sorted, active });
  }
  return [...terms.values()].filter((t) => t.coefficient !== 0);
}

/** The polynomial as the manifest writes it. */
export function polynomialToRpn(polynomial: Polynomial): Rpn {
  if (polynomial.length === 0) return [0];
  return polynomial.flatMap(({ coefficient, symbols, active }, i) => [
    coefficient,
    ...symbols.flatMap((s) => [s, "mul"] as const),
    ...(active ? ([active.tokens, active.perToken, "mul", active.experts, "min", "mul"] as const) : []),
    ...(i > 0 ? (["add"] as const) : []),
  ]);
}

const none = (): Polynomial => [];
const perElement =
  (operations: number) =>
  (n: Node): Polynomial =>
    scale(elements(n.type.shape), operations);

const flopsOf: { readonly [K in OpName]: (node: NodeOf<K>, blockSize: number) => Polynomial } = {
  input: none,
  weight: none,
  kv_cache: none,
  constant: none,
  cast: none,
  add: perElement(1),
  mul: perElement(1),
  min: perElement(1),
  max: perElement(1),
  sigmoid: perElement(4), // negate, exp, add, divide
  silu: perElement(4),
  gelu_tanh: perElement(12), // a sigmoid of a cubic
  tanh: perElement(5),
  slice: none,
  transpose: none,
  concat: none,
  reshape: none,
  embedding: none,
  linear: (n) => scale(elements([...n.type.shape, n.operands[1].type.shape[1] as Dim]), 2),
  rms_norm: perElement(4), // square, add, scale, gain
  layer_norm: perElement(6), // mean, distance, square, add, scale, gain
  softmax: perElement(4), // maximum, exp, add, divide
  group_limit: (n) => scale(elements(n.operands[0].type.shape), 2),
  top_k: (n) => scale(elements(n.operands[0].type.shape), n.attrs.k),
  gather_cols: none,
  renormalize: perElement(2),
  dispatch: none,
  grouped_linear: (n) => scale(elements([...n.type.shape, n.operands[1].type.shape[2] as Dim]), 2),
  expert_rows: none,
  combine: (n) => scale(elements(n.operands[0].type.shape), 2),
  rope_angles: perElement(2),
  rope: perElement(3),
  store_kv: none,
  // q·k and weights·v over the context of each token.
  paged_attention: (n, blockSize) => scale(elements([...n.operands[0].type.shape, blocksOf(n)]), 4 * blockSize),
  gather_rows: none,
};

/** Blocks of one block table: the context of an attention, as far as a step knows it. */
const blocksOf = (attention: NodeOf<"paged_attention">): Dim => attention.operands[4].type.shape[1] as Dim;

/** What `node` reads of its operand `index`: all of it, but for lookups, slices and the cache. */
function readBytes(node: Node, index: number, blockSize: number): Polynomial {
  const operand = node.operands[index] as Node;
  const picked = () => scale(elements(node.type.shape), dtypeBytes[operand.type.dtype]);
  switch (node.op) {
    case "slice":
      return picked();
    case "embedding":
      return index === 1 ? picked() : sizeBytes(operand.type);
    case "grouped_linear": {
      if (index !== 1) return sizeBytes(operand.type);
      const [experts, n, k] = operand.type.shape as [number, number, number];
      const [tokens, perToken] = node.operands[2].type.shape as [SymDim, number];
      return [
        { coefficient: n * k * dtypeBytes[operand.type.dtype], symbols: [], active: { tokens: tokens.sym, perToken, experts } },
      ];
    }
    case "gather_rows":
      return index === 0 ? picked() : sizeBytes(operand.type);
    case "store_kv":
      return index === 0 ? [] : sizeBytes(operand.type);
    case "paged_attention": {
      if (index !== 1) return sizeBytes(operand.type);
      const sequences = node.operands[4].type.shape[0] as Dim;
      return scale(elements([sequences, blocksOf(node), ...operand.type.shape]), blockSize * dtypeBytes[operand.type.dtype]);
    }
    default:
      return sizeBytes(operand.type);
  }
}

/** Bytes of keys or values written to a cache of `dtype`. */
const storedBytes = (x: Node, dtype: DType): Polynomial => scale(elements(x.type.shape), dtypeBytes[dtype]);

const scale = (polynomial: Polynomial, by: number): Polynomial =>
  polynomial.map((term) => ({ ...term, coefficient: term.coefficient * by }));

/** The product of the extents. */
function elements(shape: readonly Dim[]): Polynomial {
  let coefficient = 1;
  const symbols: SymbolName[] = [];
  for (const d of shape) {
    coefficient *= typeof d === "number" ? d : d.times;
    if (typeof d !== "number") symbols.push(d.sym);
  }
  return addPolynomials([{ coefficient, symbols }]);
}

const sizeBytes = (type: TensorType): Polynomial => scale(elements(type.shape), dtypeBytes[type.dtype]);
