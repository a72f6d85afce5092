// Builds dist/: the bundles (esbuild) and the native addon (the system's C++ compiler). Does nothing when nothing changed.
import { createHash } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { ensureDependencies, root } from "./dependencies.mjs";

/** Bundles the command line and the library entries. Packages stay external; they are dependencies. */
async function bundle() {
  const stampFile = join(root, "dist", "bundle.stamp");
  const stamp = sourceStamp(["compiler", "runtime", "models", ".scripts", "package.json"]);
  if (existsSync(stampFile) && readFileSync(stampFile, "utf8") === stamp) return;
  const { build } = await import("esbuild");
  for (const file of existsSync(join(root, "dist")) ? readdirSync(join(root, "dist")) : []) {
    if (file.endsWith(".js") || file.endsWith(".js.map")) rmSync(join(root, "dist", file));
  }
  await build({
    absWorkingDir: root,
    entryPoints: {
      ingot: "compiler/cli/main.ts",
      index: "compiler/cli/library.ts",
      compiler: "compiler/cli/compiler-library.ts",
      models: "models/registry.ts",
    },
    outdir: "dist",
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    target: "node20.19",
    packages: "external",
    sourcemap: true,
    logLevel: "warning",
  });
  chmodSync(join(root, "dist", "ingot.js"), 0o755);
  writeFileSync(stampFile, stamp);
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

export async function buildAll() {
  mkdirSync(join(root, "dist"), { recursive: true });
  const { buildNative } = await import("./build-native.mjs");
  await Promise.all([bundle(), buildNative()]);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  ensureDependencies({ dev: false });
  await buildAll();
}
