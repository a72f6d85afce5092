/**
 * Architectures of a user's own: a TypeScript file that is type-checked, bundled and run as part of this program.
 *
 * What it imports of `ingot/…` is what this program runs, so that classes are the same; everything else is bundled with it.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, realpathSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, sep } from "node:path";
import { compileFunction } from "node:vm";
import type { BuildFailure, Plugin } from "esbuild";
import { type Architecture, printThrown } from "../architecture.ts";
import { CompileError } from "../errors.ts";
import { addSourceMap, authorsLine, printSourceLine } from "../ir/source-line.ts";
import { compilerBuild } from "./build-id.ts";
import { interruptible, UsageError } from "./exit.ts";
import { PACKAGE_ENTRIES } from "./package-entries.ts";
import { checkedFiles, shortPath } from "./places.ts";

/**
 * The architectures that `path` exports, at least one. Throws `UsageError` when there is no such file, `CompileError` naming the line
 * for what is wrong in it.
 */
export async function loadArchitectures(path: string): Promise<readonly Architecture[]> {
  if (!existsSync(path) || !statSync(path).isFile()) {
    throw new UsageError(
      `--arch ${path} is not a file; expected TypeScript that exports an architecture made with defineArchitecture`,
    );
  }
  const file = realpathSync(path); // what a link's target imports lies beside the target
  const bundle = await bundled(file);
  await typeCheckOnce(file, bundle.hash);
  return architecturesOf(await evaluate(file, bundle), file);
}

interface Bundle {
  readonly code: string;
  readonly map: string;
  /** What is not in it and has to be handed over. */
  readonly imports: readonly string[];
  /** Names the content of every file that went into it. */
  readonly hash: string;
}

async function bundled(file: string): Promise<Bundle> {
  const { build } = await import("esbuild");
  const folder = dirname(file);
  try {
    const { outputFiles, metafile } = await build({
      absWorkingDir: folder,
      entryPoints: [file],
      outfile: runAs(file),
      bundle: true,
      write: false,
      metafile: true,
      format: "cjs",
      platform: "node",
      target: "node20.19",
      sourcemap: "external",
      sourcesContent: false,
      external: Object.keys(PACKAGE_ENTRIES),
      plugins: [sharedZod],
      logLevel: "silent",
      logOverride: { "empty-import-meta": "error" },
    });
    const text = (end: string) => outputFiles.find((f) => f.path.endsWith(end))?.text ?? "";
    const hash = createHash("sha256");
    for (const input of Object.keys(metafile.inputs).sort()) hash.update(`${input}\n`).update(readFileSync(join(folder, input)));
    const imports = Object.values(metafile.outputs).flatMap((output) => output.imports.map((i) => i.path));
    return { code: text(".js"), map: text(".map"), imports, hash: hash.digest("hex") };
  } catch (error) {
    if (!isBuildFailure(error)) throw error;
    const lines = error.errors.map(({ text, location }) =>
      location
        ? `${shortPath(join(folder, location.file))}:${location.line}:${location.column + 1}: ${text}`
        : `${shortPath(file)}: ${text}`,
    );
    throw new CompileError(lines.join("\n"));
  }
}

const isBuildFailure = (error: unknown): error is BuildFailure => error instanceof Error && "errors" in error;

/** The name that stack frames of the bundle have; nothing is written there. */
const runAs = (file: string): string => `${file}.bundle.js`;

/** The zod of the file's own project; without one, or where it is the same, this program's. */
const sharedZod: Plugin = {
  name: "shared-zod",
  setup(build) {
    const ours = dirname(createRequire(import.meta.url).resolve("zod/package.json")) + sep;
    build.onResolve({ filter: /^zod(\/|$)/ }, async ({ path, pluginData, kind, importer, resolveDir }) => {
      if (pluginData === sharedZod) return undefined; // the question asked below
      const found = await build.resolve(path, { kind, importer, resolveDir, pluginData: sharedZod });
      return found.errors.length > 0 || found.path.startsWith(ours) ? { path, external: true } : found;
    });
  },
};

/** Checks types, unless this very content was checked before; a note says which files that was, as those of types alone are in no bundle. */
async function typeCheckOnce(file: string, hash: string): Promise<void> {
  const note = join(checkedFiles(), sha256(`${compilerBuild()} ${file} ${hash}`));
  if (existsSync(note) && readFileSync(note, "utf8").split("\n").every(isAsNoted)) return;
  const { typeCheck } = await import("./type-check.ts");
  const files = await typeCheck(file);
  mkdirSync(dirname(note), { recursive: true });
  writeFileSync(note, files.map((path) => `${sha256(readFileSync(path))} ${path}`).join("\n"));
}

/** Whether a file still has the content that a line, `<hash> <path>`, says. */
function isAsNoted(line: string): boolean {
  const [, hash, path = ""] = /^(\w{64}) (.+)$/.exec(line) ?? [];
  return existsSync(path) && sha256(readFileSync(path)) === hash;
}

const sha256 = (content: string | Buffer): string => createHash("sha256").update(content).digest("hex");

/** Runs a bundle; what it exports. */
async function evaluate(file: string, { code, map, imports }: Bundle): Promise<Readonly<Record<string, unknown>>> {
  const modules = new Map<string, unknown>();
  for (const name of imports) {
    const entry = PACKAGE_ENTRIES[name];
    if (entry) modules.set(name, await entry.load());
    else if (/^zod(\/|$)/.test(name)) modules.set(name, await import(name));
  }
  const fromFile = createRequire(file);
  const require = (name: string): unknown => modules.get(name) ?? fromFile(name);
  addSourceMap(runAs(file), map);
  const module: { exports: Record<string, unknown> } = { exports: {} };
  try {
    const run = compileFunction(code, ["module", "exports", "require"], { filename: runAs(file) });
    interruptible(() => run(module, module.exports, require));
  } catch (error) {
    if (error instanceof CompileError) throw error;
    const line = error instanceof Error ? authorsLine(error.stack ?? "") : undefined;
    throw new CompileError(
      `${line ? printSourceLine(line) : shortPath(file)}: threw when it was imported: ${printThrown(error)}`,
      {
        cause: error,
      },
    );
  }
  return module.exports;
}

function architecturesOf(exports: Readonly<Record<string, unknown>>, file: string): readonly Architecture[] {
  const found = [...new Set(Object.values(exports).filter(isArchitecture))];
  const names = found.map((a) => a.name);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice)
    throw new CompileError(`${shortPath(file)} exports two architectures called ${twice}; every one needs a name of its own`);
  if (found.length > 0) return found;
  const others = Object.keys(exports).filter((name) => name !== "__esModule");
  throw new CompileError(
    `${shortPath(file)} exports ${others.length > 0 ? `${others.join(", ")}, but ` : ""}no architecture; expected ` +
      `export const ${basename(file).replace(/\W.*/, "") || "own"} = defineArchitecture({ name, readConfig, build })`,
  );
}

const isArchitecture = (value: unknown): value is Architecture =>
  typeof value === "object" &&
  value !== null &&
  "name" in value &&
  ["readConfig", "build", "weights"].every((member) => typeof (value as Record<string, unknown>)[member] === "function");
