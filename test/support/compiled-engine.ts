/**
 * Engines for tests, made by the product's own compiler.
 *
 * Built kernels are kept from run to run by the hash of their text (`node_modules/.cache/ingot-test`); engine folders belong to one
 * test file and go with it, so that test files and whole test runs never meet in a folder.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, vi } from "vitest";
import { compileModel } from "../../compiler/cli/compile-model.ts";
import { modelSource } from "../../compiler/cli/model-source.ts";
import { type CompileFlags, defaultCompileFlags } from "../../compiler/cli/options.ts";
import { bestTarget, knownTargets, missingFeatures, parseTarget } from "../../compiler/schedule/target.ts";
import { loadNative } from "../../runtime/native.ts";

const root = join(import.meta.dirname, "../..");

/** Whether the long sweeps are asked for. */
export const isFullRun = process.env.INGOT_TEST_FULL === "1";

/** Where built kernels are kept; whoever runs the command line in a test gives it this cache. */
export const testCache = join(root, "node_modules", ".cache", "ingot-test");

// Compilers start here, on machines that are busy with other tests; the portable level is slow by nature.
vi.setConfig({ testTimeout: isFullRun ? 600_000 : 180_000, hookTimeout: 300_000 });

/** A folder for this test file, removed when its tests are done. */
export function scratchFolder(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), `ingot-${name}-`));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** CPU targets that this machine can run, least demanding first. */
export const runnableTargets: readonly string[] = knownTargets.filter((text) => {
  const target = parseTarget(text);
  return target.family === "cpu" && missingFeatures(target.isa, loadNative().cpuFacts().features).length === 0;
});

/** What `--target native` chooses here. */
export const nativeTarget: string = bestTarget(loadNative().cpuFacts());

/** Compiles a model folder for one target into `folder`, as `ingot compile` does. Flags not given are the command line's defaults. */
export async function compileForTest(
  model: string,
  folder: string,
  flags: Partial<CompileFlags> = {},
  cache = testCache,
): Promise<void> {
  process.env.INGOT_CACHE = cache;
  const source = modelSource(model, flags.weights ?? "checkpoint");
  if (source.kind === "engine") throw new Error(`${model} is an engine already`);
  await compileModel(
    source,
    { ...defaultCompileFlags(), target: nativeTarget, ...flags },
    { build: true, out: folder, say: () => {} },
  );
}
