/** The nvcc of this folder takes the command lines that the toolchain gives the real one, and makes libraries that export each kernel. */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const nvcc = fileURLToPath(new URL("nvcc", import.meta.url));
let work = "";
beforeAll(() => {
  work = mkdtempSync(join(tmpdir(), "ingot-nvcc-"));
  mkdirSync(join(work, "a folder"));
  writeFileSync(join(work, "a folder", "beside.h"), "constexpr int kThreads = 32;\n");
});
afterAll(() => rmSync(work, { recursive: true }));

const run = (args: readonly string[], variables = {}) =>
  spawnSync(nvcc, args, { encoding: "utf8", cwd: work, env: { ...process.env, ...variables } });

const source = `#include "prelude.cuda.h"
#include "beside.h"
namespace ingot {
INGOT_KERNEL(32, 1) first(float* x) { wait_for_inputs(); x[thread_id()] = INGOT_TEST_VALUE; }
INGOT_KERNEL(
    kThreads + max_of(32, 64), 2)
second(float* x, const int* n) { wait_for_inputs(); if (thread_id() < *n) x[thread_id()] = 2.0f; }
}
`;
const flags = [
  "-std=c++17",
  "-O3",
  "-gencode",
  "arch=compute_90a,code=sm_90a",
  "-Xptxas",
  "-v",
  "-lineinfo",
  "-I",
  "a folder",
  "-DINGOT_TEST_VALUE=1.0f",
];

describe("nvcc", () => {
  it("says what it is where a release is asked for", () => {
    const { status, stdout } = run(["--version"]);
    expect(status).toBe(0);
    expect(stdout).toMatch(/ingot simt nvcc[\s\S]*release 13\.0/);
  });

  it.each(["0", "1"])("makes a library with an entry for each kernel (INGOT_SIMT_CHECKED=%s)", (checked) => {
    writeFileSync(join(work, "two.cu"), source);
    const { status, stderr } = run([...flags, "-fatbin", "two.cu", "-o", "two.fatbin"], { INGOT_SIMT_CHECKED: checked });
    expect([status, stderr]).toEqual([0, ""]);
    const library = readFileSync(join(work, "two.fatbin"));
    expect([...library.subarray(0, 4)]).toEqual([0x7f, 0x45, 0x4c, 0x46]);
    for (const symbol of ["first__simt", "second__simt"]) expect(library.includes(symbol)).toBe(true);
    expect(library.includes("__tsan_write4")).toBe(checked === "1");
  });

  it("names what it does not understand", () => {
    expect(run(["-frobnicate"]).stderr).toContain("unknown option '-frobnicate'");
    expect(run(["-fatbin", "missing.cu", "-o", "x"]).stderr).toContain("Could not open input file 'missing.cu'");
    expect(run(["-fatbin", "two.cu"]).stderr).toContain("expected -fatbin FILE.cu -o OUT");
  });

  it("fails with the compiler's words and the text's lines", () => {
    writeFileSync(join(work, "wrong.cu"), source.replace("thread_id()", "threadIdx.x"));
    const { status, stderr } = run([...flags, "-fatbin", "wrong.cu", "-o", "wrong.fatbin"]);
    expect(status).not.toBe(0);
    expect(stderr).toMatch(/wrong\.cu:4:\d+: error: .*threadIdx/);
  });
});
