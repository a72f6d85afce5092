/** A bug planted into kernel text, and where the report must point. */

/** 1-based number of the only line of `source` that holds `text`. */
export function lineOf(source: string, text: string): number {
  const lines = source.split("\n").flatMap((line, i) => (line.includes(text) ? [i + 1] : []));
  if (lines.length !== 1) throw new Error(`${lines.length} lines hold ${JSON.stringify(text)}, expected one`);
  return lines[0]!;
}

/** The text with `from`, which stands there once, replaced on its line. */
export function plant(source: string, from: string, to: string): string {
  const parts = source.split(from);
  if (parts.length !== 2) throw new Error(`${parts.length - 1} places hold ${JSON.stringify(from)}, expected one`);
  if (from.split("\n").length !== to.split("\n").length) throw new Error("a planted bug keeps the numbers of lines");
  return parts.join(to);
}
