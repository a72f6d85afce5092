// Installs what package.json asks for when it is not there yet: what running needs, or everything for tests.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("..", import.meta.url));

/**
 * Runs `npm ci` unless every wanted package stands in node_modules in its pinned version. Development tools that are there stay.
 */
export function ensureDependencies({ dev }) {
  const { dependencies, devDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const wanted = { ...dependencies, ...(dev ? devDependencies : {}) };
  const missing = Object.entries(wanted).filter(([name, version]) => installedVersion(name) !== version);
  if (missing.length === 0) return;
  console.error(`installing ${missing.length} packages …`);
  const withDev = dev || Object.keys(devDependencies).some((name) => installedVersion(name) !== null);
  const flags = ["--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error"];
  const { status } = spawnSync("npm", ["ci", ...flags, ...(withDev ? [] : ["--omit=dev"])], {
    cwd: root,
    stdio: ["ignore", "ignore", "inherit"],
  });
  if (status === 0) return;
  console.error("npm ci failed (see above): check the network and the npm registry, then run the command again");
  process.exit(1);
}

function installedVersion(name) {
  const file = join(root, "node_modules", name, "package.json");
  return existsSync(file) ? JSON.parse(readFileSync(file, "utf8")).version : null;
}
