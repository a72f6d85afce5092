/**
 * Compiles a C++ file into a kernel library for tests, once per content, and fills in executor options.
 *
 * Not the product's toolchain driver: that one lives in compiler/toolchain and has tests of its own.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { STEP_ARRAYS } from "../../runtime/manifest.ts";
import { type ExecutorOptions, loadNative, type NativeAddon } from "../../runtime/native.ts";

const folder = join(tmpdir(), "ingot-test-kernels");

/** The addon under test: the product's, or the instrumented one. */
export const testAddon = (): NativeAddon => loadNative(process.env.INGOT_TEST_ADDON);

/** Path of the shared library built from `source` (C++ text) with `flags`. Throws with the compiler's output. */
export function compileKernels(name: string, source: string, flags: readonly string[] = []): string {
  // .scripts/sanitize.mjs adds instrumentation; the compiler must not find itself preloaded with the sanitizer.
  const { LD_PRELOAD: _, INGOT_TEST_CXXFLAGS: extra = "", ...env } = process.env;
  const args = ["-std=c++17", "-O3", "-fPIC", "-shared", ...flags, ...extra.split(" ").filter(Boolean)];
  const hash = createHash("sha256")
    .update(JSON.stringify([source, args]))
    .digest("hex")
    .slice(0, 16);
  mkdirSync(folder, { recursive: true });
  const library = join(folder, `${name}-${hash}.so`);
  if (existsSync(library)) return library;
  const file = join(folder, `${name}-${hash}-${process.pid}.cpp`);
  writeFileSync(file, source);
  const partial = `${file}.so`;
  const result = spawnSync(process.env.CXX ?? "c++", [...args, "-o", partial, file], { encoding: "utf8", env });
  if (result.status !== 0) throw new Error(`${name} does not compile: ${result.stderr}`);
  renameSync(partial, library);
  return library;
}

export function testKernels(): string {
  return compileKernels("test-kernels", readFileSync(new URL("./test-kernels.cpp", import.meta.url), "utf8"));
}

/** A file of `bytes` bytes for the weights; float32 values 0, 1, 2, … */
export function weightsFile(bytes: number): string {
  const file = join(mkdtempSync(join(tmpdir(), "ingot-weights-")), "weights.bin");
  writeFileSync(file, new Uint8Array(Float32Array.from({ length: bytes / 4 }, (_, i) => i).buffer));
  return file;
}

export function executorOptions(changes: Partial<ExecutorOptions>): ExecutorOptions {
  return {
    library: testKernels(),
    weights: fileURLToPath(new URL("./test-kernels.cpp", import.meta.url)), // any file will do for 0 bytes
    weightsBytes: 0,
    arenaBytes: 4096,
    kvBytes: 0,
    scratchBytes: 4096,
    threads: 2,
    pin: false,
    abi: 1,
    programs: [],
    numArrays: STEP_ARRAYS.length,
    ...changes,
  };
}
