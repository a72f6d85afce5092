// Installs what package.json asks for when it is not there yet: what running needs, or everything for tests.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("..", import.meta.url));

/** Runs `npm ci` unless every wanted package stands in node_modules in its pinned version. */
export function ensureDependencies({ dev }) {
  const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const wanted = { ...manifest.dependencies, ...(dev ? manifest.devDependencies : {}) };
  const missing = Object.entries(wanted).filter(([name, version]) => installedVersion(name) !== version);
  if (missing.length === 0) return;
  console.error(`installing ${missing.length} packages …`);
  const args = ["ci", "--no-audit", "--no-fund", "--ignore-scripts", ...(dev ? [] : ["--omit=dev"])];
  const { status } = spawnSync("npm", args, {
    cwd: root,
    stdio: ["ignore", "ignore", "inherit"],
    shell: process.platform === "win32",
  });
  if (status !== 0) {
    console.error("npm ci failed: check the network and the npm registry, then run the command again");
    process.exit(1);
  }
}

function installedVersion(name) {
  const file = join(root, "node_modules", name, "package.json");
  return existsSync(file) ? JSON.parse(readFileSync(file, "utf8")).version : null;
}
