/**
 * Compiles one generated kernel with the product's flags into a small program (kernel-runner.cpp) and feeds it jobs, outside any
 * engine. NEON programs run under qemu's user mode.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type CpuDialect, cpuDialects, type Isa } from "../../compiler/codegen/cpu/dialect.ts";
import { librarySources } from "../../compiler/codegen/cpu/render.ts";
import type { RenderedKernel } from "../../compiler/codegen/rendered.ts";
import { missingFeatures } from "../../compiler/schedule/target.ts";
import { type Compiler, findCompiler } from "../../compiler/toolchain/compiler.ts";
import { compileFlags } from "../../compiler/toolchain/flags.ts";

/** A way to run kernels on this machine. */
export interface Runner {
  readonly name: string;
  readonly isa: Isa;
  readonly dialect: CpuDialect;
  readonly compiler: Compiler;
  /** Program that runs the result, if the processor does not. */
  readonly emulator: readonly string[];
  readonly extraFlags: readonly string[];
}

const folder = join(tmpdir(), "ingot-kernel-runner");

// .scripts/sanitize.mjs adds instrumentation; the compiler must not find itself preloaded with the sanitizer.
const { LD_PRELOAD: _, INGOT_TEST_CXXFLAGS: instrumentation = "", ...environment } = process.env;

/** Whether the long sweeps were asked for. */
export const fullSweep = process.env.INGOT_TEST_FULL === "1";

/** Which twin the short test run takes. */
const drawn = Math.floor(2 * Math.random());

/**
 * What kernels are tested on here: every level this processor runs, and the twins over plain C++. The short test run takes the plainest and
 * the most able level and a twin drawn by chance; the full one (INGOT_TEST_FULL=1) adds NEON under emulation.
 */
export function runners(full = fullSweep): Runner[] {
  const compiler = findCompiler();
  const features = cpuFeatures();
  const native = (Object.keys(cpuDialects) as Isa[])
    .filter((isa) => missingFeatures(isa, features).length === 0 && familyOf(isa, compiler))
    .map((isa): Runner => ({ name: isa, isa, dialect: cpuDialects[isa], compiler, emulator: [], extraFlags: [] }));
  const twins = [
    twin("pair twin", "avx512-bf16", "prelude.cpu.pairs.h", "INGOT_PAIR_TWIN", compiler),
    twin("tile twin", "avx512-amx", "prelude.cpu.tiles.h", "INGOT_TILE_TWIN", compiler),
  ];
  if (!full) return [...new Set([native[0] as Runner, native.at(-1) as Runner, twins[drawn] as Runner])];
  const neon = native.some((r) => r.isa === "neon") ? null : emulatedNeon();
  if (!neon && process.arch !== "arm64")
    console.log("NEON kernels are not run: qemu-user-static or g++-aarch64-linux-gnu is not installed");
  return [...native, ...twins, ...(neon ? [neon] : [])];
}

/** The same without twins, which differ in products alone: for kernels that multiply no matrices. */
export const plainRunners = (): Runner[] => runners().filter(({ isa, dialect }) => dialect === cpuDialects[isa]);

/** A level's kernels over plain C++ lanes and the twin of its own instructions in `prelude`: any machine. */
function twin(name: string, isa: Isa, prelude: string, define: string, compiler: Compiler): Runner {
  const dialect: CpuDialect = {
    ...cpuDialects[isa],
    prelude: "twin.h",
    preludeFiles: [...cpuDialects.generic.preludeFiles, prelude],
  };
  return { name, isa, dialect, compiler, emulator: [], extraFlags: [`-D${define}`] };
}

function emulatedNeon(): Runner | null {
  const qemu = ["qemu-aarch64-static", "qemu-aarch64"].find((name) => spawnSync(name, ["--version"]).status === 0);
  const cross = spawnSync("aarch64-linux-gnu-g++", ["--version"]).status === 0;
  if (!qemu || !cross) return null;
  const compiler = findCompiler("aarch64-linux-gnu-g++");
  return { name: "neon", isa: "neon", dialect: cpuDialects.neon, compiler, emulator: [qemu], extraFlags: ["-static"] };
}

const familyOf = (isa: Isa, compiler: Compiler): boolean =>
  isa === "generic" || (isa === "neon") === /^(aarch64|arm64)/.test(compiler.machine);

function cpuFeatures(): string[] {
  if (process.arch === "arm64") return ["neon"];
  if (!existsSync("/proc/cpuinfo")) return [];
  return /^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1]?.trim().split(/\s+/) ?? [];
}

/** One launch. An argument is its memory, or the index of an earlier argument whose memory it shares. */
export interface KernelJob {
  readonly dims: readonly [T: number, B: number, S: number, P: number];
  readonly ranges: readonly (readonly [begin: number, end: number])[];
  readonly args: readonly (Uint8Array | number)[];
}

/** Runs jobs in one process; the result is every argument's memory afterwards. */
export function runJobs(runner: Runner, kernel: RenderedKernel, jobs: readonly KernelJob[]): Uint8Array[][] {
  const program = buildProgram(runner, kernel.name, kernel.source);
  const chunks: Uint8Array[] = [int64(jobs.length)];
  for (const { dims, ranges, args } of jobs) {
    chunks.push(new Uint8Array(Int32Array.from(dims).buffer), int64(kernel.scratchBytes));
    chunks.push(int64(ranges.length), ...ranges.flat().map(int64), int64(args.length));
    for (const arg of args) chunks.push(...(typeof arg === "number" ? [int64(-1 - arg)] : [int64(arg.length), arg]));
  }
  const work = mkdtempSync(join(tmpdir(), "ingot-job-"));
  try {
    writeFileSync(join(work, "in"), Buffer.concat(chunks));
    const [command = "", ...rest] = [...runner.emulator, program, join(work, "in"), join(work, "out")];
    const { status, signal, stderr } = spawnSync(command, rest, { encoding: "utf8", env: environment });
    if (status !== 0) throw new Error(`${kernel.name} on ${runner.name} ended with ${signal ?? status}: ${stderr}`);
    const result = new Uint8Array(readFileSync(join(work, "out")));
    let at = 0;
    return jobs.map(({ args }) =>
      args.map((arg) => {
        const bytes = typeof arg === "number" ? (args[arg] as Uint8Array).length : arg.length;
        at += bytes;
        return result.slice(at - bytes, at);
      }),
    );
  } finally {
    rmSync(work, { recursive: true });
  }
}

const int64 = (n: number): Uint8Array => new Uint8Array(BigInt64Array.of(BigInt(n)).buffer);

/** Compiles a kernel into a runnable program, once per content. */
export function buildProgram(runner: Runner, name: string, source: string): string {
  const main = readFileSync(new URL("./kernel-runner.cpp", import.meta.url), "utf8");
  const extra = instrumentation.split(" ").filter(Boolean);
  const flags = [...compileFlags(runner.compiler, runner.dialect.isa), ...runner.extraFlags, ...extra];
  const files = [
    ...librarySources(runner.dialect).filter((f) => f.name.endsWith(".h")),
    { name: "twin.h", text: `#include "${cpuDialects.generic.prelude}"\n#include "${runner.dialect.preludeFiles.at(-1)}"\n` },
    { name: "kernel.cpp", text: source },
  ];
  const warnings = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function", "-Wno-missing-field-initializers"];
  const driver = compileOnce(runner, { "main.cpp": main }, ["-std=c++17", "-O1", "-c", "main.cpp", "-o", "out"]);
  return compileOnce(runner, Object.fromEntries(files.map((f) => [f.name, f.text])), [
    ...flags,
    ...warnings,
    "kernel.cpp",
    driver,
    `-Wl,--defsym,kernel_under_test=${name}`,
    "-o",
    "out",
  ]);
}

/** Path of what a compiler call makes of `files`, made once per content. */
function compileOnce(runner: Runner, files: Readonly<Record<string, string>>, args: readonly string[]): string {
  const key = createHash("sha256")
    .update(JSON.stringify([runner.compiler, args, files]))
    .digest("hex")
    .slice(0, 24);
  const place = join(folder, key);
  if (existsSync(join(place, "out"))) return join(place, "out");
  mkdirSync(folder, { recursive: true });
  const work = mkdtempSync(join(folder, "partial-"));
  for (const [file, text] of Object.entries(files)) writeFileSync(join(work, file), text);
  const [cxx = "", ...leading] = runner.compiler.command;
  const { status, stderr } = spawnSync(cxx, [...leading, ...args], { encoding: "utf8", cwd: work, env: environment });
  if (status !== 0) throw new Error(`${runner.name} does not compile ${Object.keys(files).at(-1)} in ${work}: ${stderr}`);
  try {
    renameSync(work, place);
  } catch {
    rmSync(work, { recursive: true }); // another process was faster
  }
  return join(place, "out");
}
