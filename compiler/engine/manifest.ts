/**
 * Assembles and prints a manifest: the parts as the passes made them, and what follows from them.
 *
 * Printing is reproducible (the contract's field order, no times, no paths), and goes through the runtime's own validator, so that
 * the compiler cannot write what the runtime would refuse.
 */
import { MANIFEST_FORMAT, type Manifest, RPN_OPERATORS, type Rpn, type UnusedEntry } from "../../runtime/manifest.ts";
import { parseManifest } from "../../runtime/manifest-validator.ts";
import { InternalError } from "../errors.ts";
import type { WeightsPlan } from "../weights/layout.ts";
import type { PackedWeights } from "../weights/pack.ts";

/** The file name of packed weights in an engine folder. */
export const WEIGHTS_FILE = "weights.bin";
/** Widest line that a list or an object is kept on. */
const LINE = 120;

/** What only the passes know. */
export type ManifestParts = Omit<Manifest, "format" | "weights" | "predicted"> & {
  readonly weightsPlan: WeightsPlan;
  /** Null where weights.bin was left out. */
  readonly packed: PackedWeights | null;
  readonly unused: readonly UnusedEntry[];
};

/** The manifest of an engine made of `parts`. */
export function assembleManifest({ weightsPlan, packed, unused, ...parts }: ManifestParts): Manifest {
  const tensors = weightsPlan.tensors.map((t) => t.entry);
  const { kvCache, arena, kernels, programs } = parts;
  const one = { T: 1, B: 1, S: 1, P: 1 };
  const steps = programs[0]?.steps ?? [];
  return {
    format: MANIFEST_FORMAT,
    ...parts,
    weights: { file: WEIGHTS_FILE, bytes: weightsPlan.bytes, sha256: packed?.sha256 ?? null, tensors, unused },
    predicted: {
      weightBytesPerStep: weightsPlan.tensors.reduce((sum, t) => sum + Math.round(t.entry.bytes * t.request.readShare), 0),
      kvBytesPerToken: Math.ceil((kvCache.bytesPerBlock * kvCache.numLayers) / kvCache.blockSize),
      flopsPerToken: steps.reduce((sum, s) => sum + evaluateRpn(kernels[s.kernel]?.flops ?? [0], one), 0),
      memoryBytes: { weights: weightsPlan.bytes, arena: arena.bytes },
    },
  };
}

/** The value of an expression; the symbols are what a step binds. */
export function evaluateRpn(rpn: Rpn, symbols: { readonly [K in "T" | "B" | "S" | "P"]: number }): number {
  const stack: number[] = [];
  for (const token of rpn) {
    if (typeof token === "number") stack.push(token);
    else if (token === "T" || token === "B" || token === "S" || token === "P") stack.push(symbols[token]);
    else {
      const b = stack.pop() ?? Number.NaN;
      const a = stack.pop() ?? Number.NaN;
      stack.push(RPN_OPERATORS[token](a, b));
    }
  }
  const [result] = stack;
  if (result === undefined || stack.length !== 1 || Number.isNaN(result)) {
    throw new InternalError(`${JSON.stringify(rpn)} is not an expression that leaves one value`);
  }
  return result;
}

/** The text of manifest.json: fields in the contract's order, two blanks a level, short lists on one line, a newline at the end. */
export function printManifest(manifest: Manifest): string {
  const json = JSON.stringify(manifest);
  let checked: Manifest;
  try {
    checked = parseManifest(json, "the manifest just made");
  } catch (error) {
    throw new InternalError((error as Error).message);
  }
  return `${printJson(checked, "")}\n`;
}

/** `text` as a name that a manifest, a file and an npm package can have: other characters become dashes. */
export function engineName(text: string): string {
  const name = text
    .normalize("NFKD")
    .replace(/[^A-Za-z0-9_.-]+/g, "-")
    .replace(/^[^A-Za-z0-9]+|-+$/g, "")
    .slice(0, 128);
  return name || "model";
}

/** JSON of `value` within `indent`: on one line when it fits, else an item a line. */
export function printJson(value: unknown, indent: string): string {
  const flat = JSON.stringify(value);
  if (typeof value !== "object" || value === null) return flat;
  if (indent.length + flat.length <= LINE) return flat;
  const deeper = `${indent}  `;
  if (Array.isArray(value)) return `[\n${value.map((v) => deeper + printJson(v, deeper)).join(",\n")}\n${indent}]`;
  const fields = Object.entries(value).map(([name, v]) => `${deeper}${JSON.stringify(name)}: ${printJson(v, deeper)}`);
  return `{\n${fields.join(",\n")}\n${indent}}`;
}
