/**
 * Where packed tensors lie in weights.bin: pure arithmetic over shapes, before a byte of a weight is read.
 *
 * The file is the tensors in the order asked for, each on a page of its own; zeros between them.
 */
import { PAGE_BYTES, type TensorEntry } from "../../runtime/manifest.ts";
import { CompileError, invariant } from "../errors.ts";
import { dtypeBytes } from "../ir/tensor-type.ts";
import { panel16Bytes } from "./panel.ts";
import type { SourceTensor, WeightRows } from "./rows.ts";
import { elementsOf, type WeightDType } from "./source.ts";

/** One tensor to write: `rows` of the checkpoint, converted to `dtype`. */
export interface PackRequest {
  readonly name: string;
  readonly rows: WeightRows;
  readonly dtype: WeightDType;
  /** `panel16` is for a matrix (ways · n, K) and for a stack of them, (E, ways · n, K), one after another. */
  readonly layout: TensorEntry["layout"];
  /** Equal parts of a matrix's rows whose panels alternate (2 for gate and up); 1 for `rows`. */
  readonly ways: 1 | 2;
  /** The part of it that a step of one token reads: a row of an embedding, the active experts of a stack. */
  readonly readShare: number;
}

/** A request with its place. */
export interface PlannedTensor {
  readonly request: PackRequest;
  readonly entry: TensorEntry;
}

/** The whole file. */
export interface WeightsPlan {
  readonly tensors: readonly PlannedTensor[];
  readonly bytes: number;
}

/** Places the tensors one after another, in the order of `requests`. */
export function planWeights(requests: readonly PackRequest[]): WeightsPlan {
  let offset = 0;
  const tensors = requests.map((request): PlannedTensor => {
    const { name, rows, dtype, layout, ways } = request;
    const { shape } = rows;
    let bytes = elementsOf(shape) * dtypeBytes[dtype];
    if (layout === "panel16") {
      const { count, n, k } = panelMatrices(request);
      bytes = count * panel16Bytes(dtype, ways, n, k);
    } else {
      invariant(ways === 1, `${name} is stored in rows, which have one way`);
    }
    const sources = printNames(sourcesOf(rows).map((s) => s.name));
    const entry: TensorEntry = { name, dtype, shape, layout, ways, offset, bytes, sources };
    offset = Math.ceil((offset + bytes) / PAGE_BYTES) * PAGE_BYTES;
    return { request, entry };
  });
  return { tensors, bytes: offset };
}

/** The matrices of a `panel16` tensor: how many, and n output columns a way of K elements in each. */
export function panelMatrices({ name, rows: { shape }, ways }: PackRequest): { count: number; n: number; k: number } {
  const [k, total, count = 1] = shape.toReversed();
  invariant(
    k !== undefined && total !== undefined && shape.length <= 3,
    `panel16 of ${name} needs a matrix or a stack of them, got (${shape.join(", ")})`,
  );
  if (total % ways !== 0) throw new CompileError(`${name} has ${total} rows, which do not split into ${ways} equal parts`);
  return { count, n: total / ways, k };
}

/** The checkpoint tensors of some rows, each once, in the order of first use. */
export const sourcesOf = ({ segments }: WeightRows): SourceTensor[] => [
  ...new Map(segments.map(({ source }) => [source.name, source])).values(),
];

/** Names that differ only in their last number, which counts up by one, as one: `experts.{0..127}.up_proj.weight`. */
export function printNames(names: readonly string[]): string[] {
  const ranges: { last: number; readonly print: () => string }[] = [];
  const open = new Map<string, (typeof ranges)[number]>();
  for (const name of names) {
    const [, before = name, digits = "", after = ""] = /^(.*?)(0|[1-9]\d*)(\D*)$/.exec(name) ?? [];
    const first = Number(digits);
    const key = `${before}{}${after}`;
    const range = open.get(key);
    if (range?.last === first - 1) {
      range.last = first;
      continue;
    }
    const fresh = { last: first, print: () => (fresh.last === first ? name : `${before}{${first}..${fresh.last}}${after}`) };
    open.set(key, fresh);
    ranges.push(fresh);
  }
  return ranges.map((range) => range.print());
}
