/**
 * What the packer folds: an expression over checkpoint tensors as rows that are read straight from the checkpoint.
 *
 * A tensor (…, K) is a list of segments, together its rows of K elements in row-major order of the leading axes; a vector (N) is N
 * rows of one element. A segment is evenly spaced in one checkpoint tensor, so joining, cutting, transposing and reshaping are
 * arithmetic on offsets and strides, whatever the number of elements. What is not evenly spaced is declined with the reason.
 */
import type { Node, NodeOf, OpName } from "../ir/ops.ts";
import { elementsOf } from "./source.ts";

/** A checkpoint tensor as the model declares it. */
export interface SourceTensor {
  readonly name: string;
  readonly shape: readonly number[];
}

/** Rows of K elements: element c of row r is element `offset + r · rowStride + c · elementStride` of `source`. */
export interface RowSegment {
  readonly source: SourceTensor;
  readonly offset: number;
  readonly rows: number;
  readonly rowStride: number;
  readonly elementStride: number;
  /** Added to every element in f32. */
  readonly plus: number | null;
}

/** A tensor in terms of the checkpoint. */
export interface WeightRows {
  readonly shape: readonly number[];
  readonly segments: readonly RowSegment[];
}

/** An expression that the packer does not fold; `node` is the part of it that is at fault. */
export class WeightRowsError extends Error {
  override readonly name = "WeightRowsError";

  constructor(
    readonly node: Node,
    message: string,
  ) {
    super(message);
  }
}

/** K: elements of a row. */
export const rowLength = (shape: readonly number[]): number => (shape.length < 2 ? 1 : (shape.at(-1) as number));

/** Whether rows and their elements follow each other without gaps. */
export const isContiguous = (s: RowSegment, k: number): boolean => s.elementStride === 1 && s.rowStride === k;

/** The rows of an expression over checkpoint tensors. Throws `WeightRowsError` for what the packer does not fold. */
export function weightRows(node: Node): WeightRows {
  const fold = folds[node.op] as ((node: Node) => readonly RowSegment[]) | undefined;
  if (!fold) {
    const known = Object.keys(folds).join(", ");
    throw new WeightRowsError(node, `${node.op} of checkpoint tensors alone is not folded; expected one of ${known}`);
  }
  return { shape: fixedShape(node), segments: fold(node) };
}

const folds: { readonly [K in OpName]?: (node: NodeOf<K>) => readonly RowSegment[] } = {
  weight(node) {
    const shape = fixedShape(node);
    const k = rowLength(shape);
    const source = { name: node.attrs.name, shape };
    return [{ source, offset: 0, rows: elementsOf(shape) / k, rowStride: k, elementStride: 1, plus: null }];
  },
  concat(node) {
    const shape = fixedShape(node);
    const { axis } = node.attrs;
    if (axis > 0 && axis === shape.length - 1)
      throw new WeightRowsError(
        node,
        `(${shape.join(", ")}) is joined along the last axis; only rows of the checkpoint are joined`,
      );
    const k = rowLength(shape);
    const parts = node.operands.map((operand) => {
      const x = weightRows(operand);
      return { rows: elementsOf(x.shape.slice(axis)) / k, segments: new Segments(k, x.segments) };
    });
    const out = new Segments(k);
    for (let outer = 0; outer < elementsOf(shape.slice(0, axis)); outer++)
      for (const { rows, segments } of parts) out.add(segments.take(outer * rows, rows));
    return out.list;
  },
  slice({ operands: [operand], attrs: { axis, start, size }, type }) {
    const x = weightRows(operand);
    const k = rowLength(type.shape as readonly number[]);
    const out = new Segments(k);
    if (axis > 0 && axis === x.shape.length - 1) {
      out.add(x.segments.map((s) => ({ ...s, offset: s.offset + start * s.elementStride })));
      return out.list;
    }
    const segments = new Segments(k, x.segments);
    const whole = elementsOf(x.shape.slice(axis)) / k; // rows below one index of the axes before
    const inner = whole / (x.shape[axis] as number);
    for (let outer = 0; outer < elementsOf(x.shape.slice(0, axis)); outer++)
      out.add(segments.take(outer * whole + start * inner, size * inner));
    return out.list;
  },
  transpose(node) {
    const x = weightRows(node.operands[0]);
    const [rows, k] = x.shape.slice(-2) as [number, number];
    const segments = new Segments(k, x.segments);
    const out = new Segments(rows);
    for (let outer = 0; outer < elementsOf(x.shape.slice(0, -2)); outer++) {
      const [matrix, ...others] = segments.take(outer * rows, rows);
      if (!matrix || others.length > 0)
        throw new WeightRowsError(node, "the rows of a transposed matrix lie apart in the checkpoint");
      out.add([{ ...matrix, rows: k, rowStride: matrix.elementStride, elementStride: matrix.rowStride }]);
    }
    return out.list;
  },
  reshape(node) {
    const x = weightRows(node.operands[0]);
    const [before, k] = [rowLength(x.shape), rowLength(fixedShape(node))];
    if (before === k) return x.segments;
    const out = new Segments(k);
    for (const s of x.segments.flatMap((segment) => runs(segment, before))) {
      const elements = s.rows * before;
      if (elements % k !== 0)
        throw new WeightRowsError(node, `rows of ${k} elements are put together from parts that lie apart in the checkpoint`);
      out.add([{ ...s, rows: elements / k, rowStride: k * s.elementStride }]);
    }
    return out.list;
  },
  add(node) {
    const [a, b] = node.operands;
    const [x, constant] = a.op === "constant" ? [b, a] : [a, b];
    if (constant.op !== "constant") throw new WeightRowsError(node, "two checkpoint tensors are added; only a constant is");
    if (x.type.dtype !== "f32")
      throw new WeightRowsError(node, `a constant is added to a ${x.type.dtype} weight; declare it as f32`);
    return weightRows(x).segments.map((s) => {
      if (s.plus !== null) throw new WeightRowsError(node, "two constants are added one after the other; add their sum");
      return { ...s, plus: Math.fround(constant.attrs.value) };
    });
  },
};

/** Parts of a segment of rows of `k` elements that are evenly spaced from the first element to the last. */
function runs(s: RowSegment, k: number): RowSegment[] {
  if (s.rowStride === k * s.elementStride) return [s];
  return Array.from({ length: s.rows }, (_, r) => ({ ...s, offset: s.offset + r * s.rowStride, rows: 1 }));
}

const fixedShape = (node: Node) => node.type.shape as readonly number[];

/** Segments of rows of `k` elements, in order. */
export class Segments {
  readonly list: RowSegment[] = [];
  /** The first row of each segment, and the number of rows. */
  private readonly starts: number[] = [0];

  constructor(
    private readonly k: number,
    segments: readonly RowSegment[] = [],
  ) {
    this.add(segments);
  }

  /** Appends segments; one that goes on where the last ends becomes part of it. */
  add(segments: readonly RowSegment[]): void {
    for (const given of segments) {
      const s = this.spaced(given);
      const last = this.list.at(-1);
      if (last && this.goesOn(last, s)) this.list[this.list.length - 1] = { ...last, rows: last.rows + s.rows };
      else {
        this.list.push(s);
        this.starts.push(this.starts.at(-1) as number);
      }
      this.starts[this.starts.length - 1]! += s.rows;
    }
  }

  /** Rows `begin … begin + count − 1`. */
  take(begin: number, count: number): RowSegment[] {
    const taken: RowSegment[] = [];
    for (let i = this.segmentOf(begin), at = begin; at < begin + count; i++) {
      const s = this.list[i] as RowSegment;
      const skipped = at - (this.starts[i] as number);
      const rows = Math.min(s.rows - skipped, begin + count - at);
      taken.push(this.spaced({ ...s, offset: s.offset + skipped * s.rowStride, rows }));
      at += rows;
    }
    return taken;
  }

  /** The segment that holds a row. */
  private segmentOf(row: number): number {
    let [low, high] = [0, this.list.length];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if ((this.starts[middle] as number) <= row) low = middle;
      else high = middle;
    }
    return low;
  }

  /** The same rows, with the stride of which there is only one the way a run has it. */
  private spaced(s: RowSegment): RowSegment {
    if (this.k === 1) return { ...s, elementStride: s.rows === 1 ? 1 : s.rowStride, rowStride: s.rows === 1 ? 1 : s.rowStride };
    return s.rows === 1 ? { ...s, rowStride: this.k * s.elementStride } : s;
  }

  private goesOn(last: RowSegment, s: RowSegment): boolean {
    return (
      last.source.name === s.source.name &&
      last.plus === s.plus &&
      last.rowStride === s.rowStride &&
      last.elementStride === s.elementStride &&
      s.offset === last.offset + last.rows * last.rowStride
    );
  }
}
