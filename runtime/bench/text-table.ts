/**
 * Text tables for a terminal: columns as wide as their widest cell, two blanks apart; columns of numbers stand at the right.
 */

/** `rows` under `header`. A column is one of numbers when each of its cells starts like one; empty cells have no say. */
export function formatTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((title, c) => Math.max(title.length, ...rows.map((row) => row[c]?.length ?? 0)));
  const atRight = header.map((_, c) => isNumeric(rows.map((row) => row[c] ?? "")));
  const line = (cells: readonly string[]) =>
    widths
      .map((width, c) => (atRight[c] ? (cells[c] ?? "").padStart(width) : (cells[c] ?? "").padEnd(width)))
      .join("  ")
      .trimEnd();
  return [line(header), line(widths.map((width) => "─".repeat(width))), ...rows.map(line)].join("\n");
}

function isNumeric(cells: readonly string[]): boolean {
  const filled = cells.filter((cell) => cell !== "");
  return filled.length > 0 && filled.every((cell) => /^[-+]?(\d|NaN|Infinity)/.test(cell));
}
