// Builds dist/: the bundles (esbuild), the native addon (the system's C++ compiler) and, where typescript, a development tool, is
// installed, the declarations. Does nothing when nothing changed. --types insists on the declarations, which a packed package carries.
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { ensureDependencies, root } from "./dependencies.mjs";

const tsc = join(root, "node_modules", ".bin", "tsc");
const typesFolder = join(root, "dist", "types");

/** Bundles the command line and the library entries. Packages stay external; they are dependencies. */
async function bundle() {
  const stampFile = join(root, "dist", "bundle.stamp");
  const stamp = sourceStamp(["compiler", "runtime", "models", "templates", ".scripts", "package.json"]);
  const isTyped = !existsSync(tsc) || existsSync(typesFolder);
  if (isTyped && existsSync(stampFile) && readFileSync(stampFile, "utf8") === stamp) return;
  const { build } = await import("esbuild");
  const { metafile } = await build({
    absWorkingDir: root,
    entryPoints: {
      ingot: "compiler/cli/main.ts",
      index: "compiler/cli/library.ts",
      compiler: "compiler/cli/compiler-library.ts",
      models: "models/library.ts",
    },
    outdir: "dist",
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    target: "node20.19",
    packages: "external",
    define: { __INGOT_BUILD__: JSON.stringify(contentHash(["compiler", "models", "templates"])) },
    sourcemap: true, // origins of an engine's kernels are lines of the sources, see compiler/ir/source-line.ts
    sourcesContent: false,
    metafile: true,
    logLevel: "warning",
  });
  await types();
  const made = new Set(Object.keys(metafile.outputs).map((path) => path.slice("dist/".length)));
  for (const file of readdirSync(join(root, "dist"))) {
    if (/\.js(\.map)?$/.test(file) && !made.has(file)) rmSync(join(root, "dist", file));
  }
  chmodSync(join(root, "dist", "ingot.js"), 0o755);
  writeFileSync(stampFile, stamp);
}

/** A hash over what shapes an engine: a changed compiler compiles anew. */
function contentHash(places) {
  const hash = createHash("sha256");
  const visit = (path) => {
    for (const entry of readdirSync(path, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
      if (entry.isDirectory()) visit(join(path, entry.name));
      else if (/\.(ts|njk|h)$/.test(entry.name)) hash.update(`${entry.name}\n`).update(readFileSync(join(path, entry.name)));
    }
  };
  for (const place of places) visit(join(root, place));
  return hash.digest("hex").slice(0, 12);
}

/** A hash over names, sizes and times of the sources: cheap, and changes whenever an editor or a checkout touches one. */
function sourceStamp(places) {
  const hash = createHash("sha256");
  const visit = (path) => {
    const stat = statSync(path);
    if (!stat.isDirectory()) return void hash.update(`${path.slice(root.length)} ${stat.size} ${stat.mtimeMs}\n`);
    for (const name of readdirSync(path).sort()) if (name !== "pebble") visit(join(path, name));
  };
  for (const place of places) visit(join(root, place));
  return hash.digest("hex");
}

/** Builds the addon; without a C++ compiler this process ends with 3, as the command line does. */
async function native() {
  const status = await ended(spawn(process.execPath, [join(root, ".scripts", "build-native.mjs")], { stdio: "inherit" }));
  if (status !== 0) process.exit(status ?? 1);
}

/** Writes the declarations of the package's entries, and of what they lead to. Without typescript there are none rather than old ones. */
async function types() {
  rmSync(typesFolder, { recursive: true, force: true });
  if (!existsSync(tsc)) return;
  const entries = ["compiler/cli/library.ts", "compiler/cli/compiler-library.ts", "models/library.ts"];
  const config = join(root, "dist", "tsconfig.types.json");
  const compilerOptions = { noEmit: false, declaration: true, emitDeclarationOnly: true, rootDir: "..", outDir: "types" };
  writeFileSync(
    config,
    JSON.stringify({ extends: "../tsconfig.json", compilerOptions, include: [], files: entries.map((file) => `../${file}`) }),
  );
  const status = await ended(spawn(tsc, ["-p", config], { stdio: "inherit" }));
  rmSync(config);
  if (status !== 0) process.exit(1);
}

const ended = (child) => new Promise((resolve) => child.on("close", resolve));

export async function buildAll() {
  mkdirSync(join(root, "dist"), { recursive: true });
  await Promise.all([bundle(), native()]);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  ensureDependencies({ dev: process.argv.includes("--types") });
  await buildAll();
}
