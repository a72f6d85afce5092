// `npm test`: installs, builds, checks types and style, runs the tests, and the native ones again under sanitizers.
// `--full` adds the long sweeps; names of test files run only these.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
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
  console.log(`${status === 0 ? "✓" : "✗"} ${name} (${((performance.now() - start) / 1000).toFixed(1)} s)\n`);
  if (status !== 0) failed.push(name);
};
const bin = (name) => join(root, "node_modules", ".bin", name);

const folder = mkdtempSync(join(tmpdir(), "ingot-test-"));
const reports = [];
/** Arguments that make vitest report to the terminal and to a file. */
const reporting = () => {
  reports.push(join(folder, `${reports.length}.json`));
  return ["--reporter=default", "--reporter=json", `--outputFile.json=${reports.at(-1)}`];
};

const all = rest.length === 0;
if (all) {
  step("types", bin("tsc"), ["--noEmit"]);
  step("style and import arrows", bin("biome"), ["check", "."]);
}
const vitest = ["run", "--config", "test/vitest.config.ts"];
step("tests", bin("vitest"), [...vitest, ...reporting(), ...rest], full ? { INGOT_TEST_FULL: "1" } : {});
const sanitize = [join(root, ".scripts", "sanitize.mjs"), ...(full ? ["--full"] : [])];
if (all) step("native code under sanitizers", process.execPath, [...sanitize, ...reporting()]);

const [tests, sanitized] = reports.map((file) => (existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : {}));
rmSync(folder, { recursive: true });
if (failed.length > 0) console.error(`failed: ${failed.join(", ")}`);
// What ran twice counts once, unless it failed; a step that failed counts as well.
const { numPassedTests = 0, numFailedTests = 0, numPendingTests = 0 } = tests;
const numFailed = Math.max(numFailedTests + (sanitized?.numFailedTests ?? 0), failed.length);
console.log(`${numPassedTests} passed, ${numFailed} failed, ${numPendingTests} skipped`);
process.exitCode = failed.length > 0 ? 1 : 0;
