#!/usr/bin/env node
// What `ingot` runs: dist/ingot.js, which a clone builds at first. An installed package has it.
import { existsSync } from "node:fs";

const cli = new URL("../dist/ingot.js", import.meta.url);
if (!existsSync(cli)) {
  const { ensureDependencies } = await import("./dependencies.mjs");
  ensureDependencies({ dev: false });
  const { buildAll } = await import("./build.mjs");
  await buildAll();
}
await import(cli.href);
