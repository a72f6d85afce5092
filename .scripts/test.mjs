// `npm test`: installs, builds, checks types and style, and runs the tests; `--full` adds the long sweeps.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ensureDependencies, root } from "./dependencies.mjs";

const full = process.argv.includes("--full");
const rest = process.argv.slice(2).filter((a) => a !== "--full");

ensureDependencies({ dev: true });
const { buildAll } = await import("./build.mjs");
await buildAll();

const failed = [];
const step = (name, command, args, env = {}) => {
  const start = performance.now();
  const { status } = spawnSync(command, args, { cwd: root, stdio: "inherit", env: { ...process.env, ...env } });
  console.log(`${status === 0 ? "✓" : "✗"} ${name} (${((performance.now() - start) / 1000).toFixed(1)} s)`);
  if (status !== 0) failed.push(name);
};
const bin = (name) => join(root, "node_modules", ".bin", name);

const report = mkdtempSync(join(tmpdir(), "ingot-test-"));
if (rest.length === 0) {
  step("types", bin("tsc"), ["--noEmit"]);
  step("style and import arrows", bin("biome"), ["check", "."]);
}
step(
  "tests",
  bin("vitest"),
  [
    "run",
    "--config",
    "test/vitest.config.ts",
    "--reporter=default",
    "--reporter=json",
    `--outputFile.json=${join(report, "report.json")}`,
    ...rest,
  ],
  full ? { INGOT_TEST_FULL: "1" } : {},
);
const { numPassedTests = 0, numFailedTests = 0, numPendingTests = 0 } = readReport(join(report, "report.json"));
rmSync(report, { recursive: true });
console.log(`${numPassedTests} passed, ${numFailedTests} failed, ${numPendingTests} skipped`);
if (failed.length > 0) {
  console.error(`failed: ${failed.join(", ")}`);
  process.exit(1);
}

function readReport(file) {
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch {
    return {};
  }
}
