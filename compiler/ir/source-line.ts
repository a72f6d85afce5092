/**
 * Which source line a stack frame stands for: the original's where the file was bundled with a source map beside it.
 *
 * Read here and not by the engine's own source maps, so that a line is the same whatever flags the process runs with.
 */
import { readFileSync } from "node:fs";
import { SourceMap } from "node:module";
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";

/** Absolute file and line, from 1. */
export interface SourceLine {
  readonly file: string;
  readonly line: number;
}

/** The lines of a stack's frames, innermost first; frames without a place are left out. */
export function sourceLines(stack: string): SourceLine[] {
  return stack.split("\n").flatMap((frame) => {
    const place = /^\s*at .* \((.+):(\d+):(\d+)\)$/.exec(frame) ?? /^\s*at (?:async )?(.+):(\d+):(\d+)$/.exec(frame);
    if (!place) return [];
    const [, path = "", line, column] = place;
    const file = (path.startsWith("file:") ? fileURLToPath(path) : path).replace(/\?.*$/, "");
    return [original(file, Number(line), Number(column))];
  });
}

function original(file: string, line: number, column: number): SourceLine {
  const entry = sourceMapOf(file)?.findEntry(line - 1, column - 1);
  if (!entry || !("originalSource" in entry)) return { file, line };
  return { file: resolve(dirname(file), entry.originalSource), line: entry.originalLine + 1 };
}

const sourceMaps = new Map<string, SourceMap | null>(); // read once: a program's files stay as they are

function sourceMapOf(file: string): SourceMap | null {
  let map = sourceMaps.get(file);
  if (map === undefined) {
    map = readSourceMap(`${file}.map`);
    sourceMaps.set(file, map);
  }
  return map;
}

function readSourceMap(path: string): SourceMap | null {
  try {
    return new SourceMap(JSON.parse(readFileSync(path, "utf8")));
  } catch {
    return null; // none, or not one: the frame's own line is all there is
  }
}
