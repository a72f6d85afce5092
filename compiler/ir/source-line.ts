/**
 * Which source line a stack frame stands for: the original's where the file was bundled with a source map beside it.
 *
 * Read here and not by the engine's own source maps, so that a line is the same whatever flags the process runs with.
 */
import { readFileSync } from "node:fs";
import { SourceMap } from "node:module";
import { dirname, join, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";

/** Absolute file and line, from 1. */
export interface SourceLine {
  readonly file: string;
  readonly line: number;
}

/** `models/layers.ts:42`: the last two segments of the path, the same on every machine. */
export const printSourceLine = ({ file, line }: SourceLine): string => `${file.split(/[\\/]/).slice(-2).join("/")}:${line}`;

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

/**
 * The innermost line of a stack that an architecture's author wrote: outside this package and every other one. Whoever calls the
 * compiler is no author; frames end where `compiler/architecture.ts` calls a model. Undefined when there is none.
 */
export function authorsLine(stack: string): SourceLine | undefined {
  for (const place of sourceLines(stack)) {
    if (place.file === join(PACKAGE, "compiler", "architecture.ts")) return undefined;
    if (authored.has(place.file) || !isOfPackage(place.file)) return place;
  }
  return undefined;
}

const isOfPackage = (file: string): boolean =>
  file.startsWith("node:") || file.startsWith(PACKAGE + sep) || /[\\/]node_modules[\\/]/.test(file);

/** Takes the source map of code that is run as `file` without being written there; its sources are an author's, wherever they lie. */
export function addSourceMap(file: string, json: string): void {
  const map = new SourceMap(JSON.parse(json));
  sourceMaps.set(file, map);
  for (const source of map.payload.sources) {
    const path = resolve(dirname(file), source);
    if (!/[\\/]node_modules[\\/]/.test(path)) authored.add(path);
  }
}

function original(file: string, line: number, column: number): SourceLine {
  const entry = sourceMapOf(file)?.findEntry(line - 1, column - 1);
  if (!entry || !("originalSource" in entry)) return { file, line };
  return { file: resolve(dirname(file), entry.originalSource), line: entry.originalLine + 1 };
}

const sourceMaps = new Map<string, SourceMap | null>(); // read once: a program's files stay as they are

const authored = new Set<string>();

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

/** The folder of this package's sources as stack frames name it, there or not. */
const PACKAGE = join(dirname(sourceLines(new Error().stack ?? "")[0]?.file ?? ""), "..", "..");
