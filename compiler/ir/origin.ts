/**
 * Where a node came from: the model path it was built under and the TypeScript line that built it.
 *
 * Origins live in a side table of the `Graph`, outside structural equality, and survive every rewrite.
 */

export interface Origin {
  /** Dotted model path, `layers.3.mlp.gate_proj`; empty at the top of a model. */
  readonly path: string;
  /** File and line, `models/layers.ts:42`: the last two segments of the path, the same on every machine. Null when unknown. */
  readonly source: string | null;
}

/**
 * The origin of a node made at `path`: its source line is the first frame outside `below` and the methods of `Graph`.
 * The frame is read when it is asked for, since formatting a stack costs more than building the node. A bundled file needs source
 * maps enabled to name the original line.
 */
export function originHere(path: string, below: (...args: never[]) => unknown): Origin {
  const holder: { stack?: string } = {};
  Error.captureStackTrace(holder, below);
  return {
    path,
    get source() {
      return callerLine(holder.stack ?? "");
    },
  };
}

function callerLine(stack: string): string | null {
  const frame = stack
    .split("\n")
    .slice(1)
    .find((line) => !/^\s*at (Graph\.|new Graph )/.test(line));
  const place = frame && /\(?([^()\s]+):(\d+):\d+\)?$/.exec(frame);
  if (!place) return null;
  const file = place[1]!.replace(/\?.*$/, "").split(/[\\/]/).slice(-2).join("/");
  return `${file}:${place[2]}`;
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
