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
 * The line that called into the graph: the first frame above `below` that is no method of `Graph`.
 * A bundled file needs source maps enabled to name the original line.
 */
export function callerLine(below: (...args: never[]) => unknown): string | null {
  const holder: { stack?: string } = {};
  Error.captureStackTrace(holder, below);
  const frames = holder.stack?.split("\n").slice(1) ?? [];
  const frame = frames.find((line) => !/^\s*at (Graph\.|new Graph )/.test(line));
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

/** Both lists, each origin once, in order. */
export function mergeOrigins(lists: readonly (readonly Origin[])[]): readonly Origin[] {
  const seen = new Map<string, Origin>();
  for (const origin of lists.flat()) seen.set(`${origin.path}\0${origin.source}`, origin);
  return [...seen.values()];
}
