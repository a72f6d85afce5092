/**
 * Where a node came from: the model path it was built under and the TypeScript line that built it.
 *
 * Origins live in a side table of the `Graph`, outside structural equality, and survive every rewrite.
 */
import { authorsLine, printSourceLine, sourceLines } from "./source-line.ts";

export interface Origin {
  /** Dotted model path, `layers.3.mlp.gate_proj`; empty at the top of a model. */
  readonly path: string;
  /** File and line, `models/layers.ts:42`; null when unknown. */
  readonly source: string | null;
}

/**
 * The origin of a node made at `path`: its source line is the author's who called a layer of this package, else the first frame
 * outside `Graph`. The frame is read when it is asked for, since formatting a stack costs more than building the node.
 */
export function originHere(path: string): Origin {
  const holder: { stack?: string } = {};
  Error.captureStackTrace(holder, originHere);
  return {
    path,
    get source() {
      const stack = holder.stack ?? "";
      const caller = authorsLine(stack) ?? sourceLines(stack).find(({ file }) => !/[\\/]ir[\\/]graph\.ts$/.test(file));
      return caller ? printSourceLine(caller) : null;
    },
  };
}

/** `layers.3.mlp.gate_proj (models/layers.ts:42)`; several origins are joined with ` + `. */
export function printOrigins(origins: readonly Origin[]): string {
  if (origins.length === 0) return "an unknown place";
  const sources = [...new Set(origins.map((o) => o.source).filter((s) => s !== null))];
  const paths = [...new Set(origins.map((o) => o.path || "the top of the model"))];
  return `${paths.join(" + ")}${sources.length > 0 ? ` (${sources.join(", ")})` : ""}`;
}

/** All of these origins, each once, in order. */
export const mergeOrigins = (lists: readonly (readonly Origin[])[]): readonly Origin[] => [...new Set(lists.flat())];
