import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { cpuDialects } from "../../../compiler/codegen/cpu/dialect.ts";
import { librarySources, renderKernel } from "../../../compiler/codegen/cpu/render.ts";
import { ToolchainError } from "../../../compiler/errors.ts";
import { scheduleKernel } from "../../../compiler/schedule/cpu.ts";
import { buildKernels } from "../../../compiler/toolchain/build.ts";
import { findCompiler } from "../../../compiler/toolchain/compiler.ts";
import { cxxToolchain } from "../../../compiler/toolchain/cxx.ts";
import { acc, buffer, input, tensor } from "../../support/kernel-specs.ts";

const root = mkdtempSync(join(tmpdir(), "ingot-toolchain-"));
afterAll(() => rmSync(root, { recursive: true }));
const fresh = (name: string) => mkdtempSync(join(root, `${name}-`));

/** A folder with two small kernels for cpu:generic. */
function sources(): string {
  const folder = fresh("kernels");
  for (const f of librarySources(cpuDialects.generic)) writeFileSync(join(folder, f.name), f.text);
  for (const cols of [16, 20]) {
    const spec = {
      kind: "embedding" as const,
      name: `embedding_${cols}`,
      nodes: [],
      ids: input("token_ids"),
      table: tensor("table", 8, cols),
      epilogue: acc,
      operands: [],
      out: buffer("out", cols),
    };
    writeFileSync(
      join(folder, `${spec.name}.cpp`),
      renderKernel(spec, scheduleKernel(spec, "generic"), cpuDialects.generic).source,
    );
  }
  return folder;
}

const build = (folder: string, cache: string, library = join(folder, "build", "kernels.so")) =>
  buildKernels({ sources: folder, library, toolchain: cxxToolchain("generic"), cache });

describe("building kernels", () => {
  it("compiles once: a second build finds everything, a changed kernel is compiled alone, a changed prelude all", async () => {
    const [folder, cache] = [sources(), fresh("cache")];
    const first = await build(folder, cache);
    expect(first).toMatchObject({ compiled: 3, reused: 0 });
    expect(await build(folder, cache)).toEqual({ ...first, compiled: 0, reused: 3 });
    const kernel = join(folder, "embedding_16.cpp");
    writeFileSync(kernel, readFileSync(kernel, "utf8").replace("out[row, col", "OUT[row, col"));
    expect(await build(folder, cache)).toMatchObject({ compiled: 1, reused: 2 });
    writeFileSync(join(folder, "prelude.cpu.h"), `${readFileSync(join(folder, "prelude.cpu.h"), "utf8")}\n// changed\n`);
    expect(await build(folder, cache)).toMatchObject({ compiled: 3, reused: 0 });
  });

  it("makes the same bytes in another folder with another cache", async () => {
    const folder = sources();
    const copy = fresh("elsewhere");
    cpSync(folder, copy, { recursive: true });
    const [a, b] = [await build(folder, fresh("cache")), await build(copy, fresh("cache"))];
    expect(a.sha256).toBe(b.sha256);
    expect(readFileSync(join(folder, "build", "kernels.so")).includes(root)).toBe(false);
  });

  it("shares a cache between builds running at once, and leaves no partial files", async () => {
    const [folder, cache] = [sources(), fresh("cache")];
    const results = await Promise.all([1, 2, 3].map((i) => build(folder, cache, join(root, `at-once-${i}.so`))));
    expect(new Set(results.map((r) => r.sha256)).size).toBe(1);
    expect(readdirSync(join(cache, "objects")).filter((f) => f.startsWith("partial"))).toEqual([]);
  });

  it("makes a damaged entry of the cache anew", async () => {
    const [folder, cache] = [sources(), fresh("cache")];
    const first = await build(folder, cache);
    for (const file of readdirSync(join(cache, "objects")).filter((f) => !f.endsWith(".sha256"))) {
      truncateSync(join(cache, "objects", file), 100);
    }
    expect(await build(folder, cache)).toEqual({ ...first, compiled: 3, reused: 0 });
  });

  it("names the kernel that does not compile and keeps the compiler's output", async () => {
    const [folder, cache] = [sources(), fresh("cache")];
    writeFileSync(join(folder, "linear_broken.cpp"), "int f( {\n");
    const failure = await build(folder, cache).catch((e: Error) => e);
    expect(failure).toBeInstanceOf(ToolchainError);
    const { message } = failure as Error;
    expect(message).toMatch(/^kernel linear_broken does not compile with .*: linear_broken.cpp:1:.* error: /);
    const log = /\(whole output: (.*)\)$/.exec(message)?.[1] as string;
    expect(readFileSync(log, "utf8")).toContain("linear_broken.cpp:1:");
    expect(existsSync(join(folder, "build", "kernels.so"))).toBe(false);
  });

  it("says so when a folder has no kernels", async () => {
    await expect(build(fresh("empty"), fresh("cache"))).rejects.toThrow("holds no kernel sources");
  });

  it("refuses a compiler of another processor family before compiling", () => {
    const arm = { ...findCompiler(), machine: "aarch64-linux-gnu" };
    expect(() => cxxToolchain("avx2", arm)).toThrow("cpu:avx2 needs a compiler for x86-64");
    const intel = { ...findCompiler(), machine: "x86_64-linux-gnu" };
    expect(() => cxxToolchain("neon", intel)).toThrow("cpu:neon needs a compiler for 64-bit ARM");
  });
});

describe("finding a compiler", () => {
  it("takes CXX with its arguments, and says when it does not run", () => {
    const found = findCompiler("c++ -pipe");
    expect(found.command).toEqual(["c++", "-pipe"]);
    expect(found.machine).toMatch(/^\w+-/);
    expect(() => findCompiler("no-such-compiler")).toThrow('CXX is "no-such-compiler", which does not run');
  });

  it("says what to install on each system when there is none", () => {
    const path = process.env.PATH;
    process.env.PATH = fresh("nothing");
    try {
      expect(() => findCompiler("")).toThrow(ToolchainError);
      expect(() => findCompiler("")).toThrow(/apt install g\+\+.*dnf install gcc-c\+\+.*xcode-select --install/);
    } finally {
      process.env.PATH = path;
    }
  });
});
