/**
 * What the form of an op may look at: the ONNX values of other nodes, and values that several nodes share.
 *
 * T (and S) tokens are (batch, length) here, so that every row of a batch is a sequence that starts at position 0.
 */
import { UnsupportedError } from "../errors.ts";
import type { Node } from "../ir/ops.ts";
import type { GraphBuilder, Place, Value } from "./builder.ts";
import type { Extent } from "./proto.ts";
import type { Initializers } from "./weights.ts";

/** Keys and values of one layer: (batch, length, numKvHeads, headDim) each, f32. */
export interface KeysAndValues {
  readonly k: Value;
  readonly v: Value;
}

export interface Context {
  readonly onnx: GraphBuilder;
  readonly initializers: Initializers;
  /** The value of a node, in its own dtype. */
  readonly value: (node: Node) => Value;
  /** The same in f32, which all arithmetic is done in. */
  readonly f32: (node: Node) => Value;
  readonly kv: (node: Node) => KeysAndValues;
  /** `make()` for the first who asks for `key`, the same for all after. */
  readonly once: <R>(key: string, make: () => R) => R;
  /** Where a node comes from. */
  readonly place: (node: Node) => Place;
}

/** The graph's input: (batch, length). */
export const INPUT_IDS = "input_ids";

/** Whether the first axis counts tokens, which are two axes in ONNX. */
export const isPerToken = (node: Node): boolean => {
  const [first] = node.type.shape;
  return typeof first === "object" && first.times === 1;
};

/** Where an axis of a node is in ONNX. */
export const axisOf = (node: Node, axis: number): number => (isPerToken(node) ? axis + 1 : axis);

/** Extents in ONNX: (T, 8) is (batch, length, 8), (2·T, 8) is (2·batch·length, 8). */
export function extentsOf(node: Node): Extent[] {
  return node.type.shape.flatMap((d, axis): Extent[] => {
    if (typeof d === "number") return [d];
    if (axis > 0 || (d.sym !== "T" && d.sym !== "S")) {
      throw new UnsupportedError(`${node.op} has an axis of ${d.sym}; in ONNX only the first axis may count tokens`);
    }
    return d.times === 1 ? ["batch", "length"] : [`${d.times}·batch·length`];
  });
}

/** Batch and length as a list of two. */
export const tokensShape = (c: Context): Value =>
  c.once("tokens shape", () => c.onnx.at({ path: "tokens", doc: "batch and length" }, () => c.onnx.op("Shape", [INPUT_IDS])));

/** How long the sequences are, a scalar. */
export const length = (c: Context): Value =>
  c.once("length", () =>
    c.onnx.at({ path: "tokens", doc: "length" }, () => c.onnx.op("Gather", [tokensShape(c), c.onnx.ints(1)], { axis: 0 })),
  );

/** 0, 1, … length − 1. */
export const sequence = (c: Context): Value =>
  c.once("sequence", () =>
    c.onnx.at({ path: "tokens", doc: "positions of one sequence" }, () =>
      c.onnx.op("Range", [c.onnx.ints(0), length(c), c.onnx.ints(1)]),
    ),
  );

/** x with its first axes as tokens, the others as given. */
export function perToken(c: Context, x: Value, rest: readonly number[]): Value {
  const shape = c.onnx.op("Concat", [tokensShape(c), c.onnx.ints(rest)], { axis: 0 });
  return c.onnx.op("Reshape", [x, shape]);
}
