/**
 * Where packed tensors lie in weights.bin: pure arithmetic over shapes, before a byte of a weight is read.
 *
 * The file is the tensors in the order asked for, each on a page of its own; zeros between them.
 */
import type { TensorEntry } from "../../runtime/manifest.ts";
import { CompileError, invariant } from "../errors.ts";
import { dtypeBytes } from "../ir/tensor-type.ts";
import { panel16Bytes } from "./panel.ts";
import { elementsOf, type WeightDType, type WeightSource } from "./source.ts";

/** Tensors and the file itself end on pages, for mapping. */
export const PAGE_BYTES = 4096;

/** One tensor to write: `sources` joined along axis 0, converted to `dtype`. */
export interface PackRequest {
  readonly name: string;
  readonly sources: readonly { readonly name: string; readonly shape: readonly number[] }[];
  readonly dtype: WeightDType;
  readonly layout: TensorEntry["layout"];
  /** Equal parts of axis 0 whose panels alternate (2 for gate and up); 1 for `rows`. */
  readonly ways: 1 | 2;
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

/**
 * Places the tensors one after another, in the order of `requests`.
 * Throws `CompileError` when the sources of one do not join: extents after the first must match.
 */
export function planWeights(requests: readonly PackRequest[]): WeightsPlan {
  let offset = 0;
  const tensors = requests.map((request): PlannedTensor => {
    const shape = joinedShape(request);
    const { name, dtype, layout, ways } = request;
    const [rows, k] = shape;
    let bytes = elementsOf(shape) * dtypeBytes[dtype];
    if (layout === "panel16") {
      invariant(
        shape.length === 2 && rows !== undefined && k !== undefined,
        `panel16 of ${name} needs a matrix, got (${shape.join(", ")})`,
      );
      if (rows % ways !== 0) throw new CompileError(`${name} has ${rows} rows, which do not split into ${ways} equal parts`);
      bytes = panel16Bytes(dtype, ways, rows / ways, k);
    } else {
      invariant(ways === 1, `${name} is stored in rows, which have one way`);
    }
    const entry: TensorEntry = { name, dtype, shape, layout, ways, offset, bytes, sources: request.sources.map((s) => s.name) };
    offset = Math.ceil((offset + bytes) / PAGE_BYTES) * PAGE_BYTES;
    return { request, entry };
  });
  return { tensors, bytes: offset };
}

function joinedShape({ name, sources }: PackRequest): readonly number[] {
  const [first] = sources;
  invariant(first, `${name} has no sources`);
  if (sources.length === 1) return first.shape;
  for (const { name: other, shape } of sources) {
    if (shape.length === 0 || shape.length !== first.shape.length || shape.slice(1).some((n, i) => n !== first.shape[i + 1])) {
      throw new CompileError(
        `${name} joins ${first.name} (${first.shape.join(", ")}) and ${other} (${shape.join(", ")}); all extents but the first must match`,
      );
    }
  }
  return [sources.reduce((sum, s) => sum + (s.shape[0] as number), 0), ...first.shape.slice(1)];
}

/**
 * Throws `CompileError`, naming up to five tensors, when `source` lacks one that the plan reads or has it in another shape.
 * Costs no reading: call it before the first kernel is compiled.
 */
export function checkSources(plan: WeightsPlan, source: WeightSource, where: string): void {
  const problems: string[] = [];
  for (const { name, shape } of plan.tensors.flatMap((t) => t.request.sources)) {
    const found = source.find(name);
    if (!found) problems.push(`there is no tensor ${name} (${shape.join(", ")})`);
    else if (found.shape.join() !== shape.join()) {
      problems.push(`${name} is (${found.shape.join(", ")}), but the model described by config.json needs (${shape.join(", ")})`);
    }
  }
  if (problems.length === 0) return;
  const more = problems.length > 5 ? `; and ${problems.length - 5} more` : "";
  throw new CompileError(
    `${where}: ${problems.slice(0, 5).join("; ")}${more}. Is config.json of this checkpoint, and every shard there?`,
  );
}
