/**
 * Which compiler this is: the version, and the hash of the sources that shape an engine, so that a changed compiler compiles anew.
 */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { packageRoot, packageVersion } from "./package-root.ts";

/** Set by the bundler; absent when run from sources. */
declare const __INGOT_BUILD__: string | undefined;

/** `0.1.0+3fa9c1d2e4b5` */
export function compilerBuild(): string {
  return `${packageVersion()}+${typeof __INGOT_BUILD__ === "string" ? __INGOT_BUILD__ : sourcesHash()}`;
}

function sourcesHash(): string {
  const hash = createHash("sha256");
  const visit = (path: string): void => {
    for (const entry of readdirSync(path, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
      if (entry.isDirectory()) visit(join(path, entry.name));
      else if (/\.(ts|njk|h)$/.test(entry.name)) hash.update(`${entry.name}\n`).update(readFileSync(join(path, entry.name)));
    }
  };
  for (const folder of ["compiler", "models", "templates"]) visit(join(packageRoot(), folder));
  return hash.digest("hex").slice(0, 12);
}
