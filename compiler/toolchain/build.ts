/**
 * Builds a folder of kernel sources into one shared library, compiling only what the cache has not seen.
 *
 * The cache is a folder of objects and libraries named by the hash of everything that went into them, each with a file that says
 * its own hash; entries are written whole (temporary file, rename), so that processes may share it and a killed build leaves
 * nothing half done. An entry that a disk lost or changed is made anew.
 */
import { spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { dirname, join, resolve } from "node:path";
import type { Isa } from "../codegen/cpu.ts";
import { ToolchainError } from "../errors.ts";
import { type Compiler, findCompiler } from "./compiler.ts";
import { compileFlags, linkFlags } from "./flags.ts";

export interface BuildOptions {
  /** Folder with one `.cpp` a kernel and the `.h` files they include. */
  readonly sources: string;
  /** Path of the library to write; its folder is made. */
  readonly library: string;
  readonly isa: Isa;
  /** Cache folder, shared by all builds of this user. */
  readonly cache: string;
  readonly compiler?: Compiler;
  /** Compilers running at once; default: one a processor. */
  readonly jobs?: number;
  /** Called after each kernel is there, compiled or found. */
  readonly onProgress?: (done: number, total: number, kernel: string) => void;
}

export interface BuildResult {
  readonly sha256: string;
  /** Kernels compiled now, and found compiled before. */
  readonly compiled: number;
  readonly reused: number;
}

/**
 * Builds the library. Throws `ToolchainError` when there is no compiler or it fails: the message names the kernel and the file
 * that keeps the compiler's whole output.
 */
export async function buildKernels(options: BuildOptions): Promise<BuildResult> {
  const compiler = options.compiler ?? findCompiler();
  const { sources, library, cache, jobs = availableParallelism() } = options;
  const flags = compileFlags(compiler, options.isa);
  const files = (await readdir(sources)).sort();
  const headers = await Promise.all(
    files.filter((f) => f.endsWith(".h")).map(async (f) => [f, await readFile(join(sources, f), "utf8")]),
  );
  const kernels = files.filter((f) => f.endsWith(".cpp"));
  if (kernels.length === 0) throw new ToolchainError(`${sources} holds no kernel sources (*.cpp); compile the model again`);
  await Promise.all([mkdir(join(cache, "objects"), { recursive: true }), mkdir(dirname(library), { recursive: true })]);

  const base = [compiler.version, compiler.machine, flags, headers];
  let done = 0;
  let compiled = 0;
  const objects = await mapConcurrently(kernels, jobs, async (file) => {
    const object = join(cache, "objects", `${hash([base, file, await readFile(join(sources, file), "utf8")])}.o`);
    if (!(await isWhole(object))) {
      await publish(object, (partial) =>
        run(compiler, [...flags, "-c", file, "-o", partial], resolve(sources), `kernel ${file.replace(/\.cpp$/, "")}`, cache),
      );
      compiled += 1;
    }
    options.onProgress?.(++done, kernels.length, file.replace(/\.cpp$/, ""));
    return object;
  });

  const linked = linkFlags(compiler);
  const cached = join(cache, "objects", `${hash([base, linked, objects.map((o) => o.slice(-66))])}.so`);
  if (!(await isWhole(cached))) {
    await publish(cached, (partial) =>
      run(compiler, [...linked, "-o", partial, ...objects, "-lm"], cache, "the kernel library", cache),
    );
  }
  const partial = `${library}.${randomBytes(6).toString("hex")}`;
  await copyFile(cached, partial);
  await rename(partial, library);
  return { sha256: hashBytes(await readFile(library)), compiled, reused: kernels.length - compiled };
}

/** Lets `write` fill a temporary file, which then takes the name `path` at once. */
async function publish(path: string, write: (partial: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(dirname(path), "partial-"));
  try {
    const partial = join(folder, "out");
    await write(partial);
    await writeFile(`${partial}.sha256`, hashBytes(await readFile(partial)));
    await rename(`${partial}.sha256`, `${path}.sha256`);
    await rename(partial, path);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function run(compiler: Compiler, args: readonly string[], cwd: string, what: string, cache: string): Promise<void> {
  const [program = "", ...leading] = compiler.command;
  const { code, output } = await new Promise<{ code: number | null; output: string }>((settle, fail) => {
    // Messages in English, and no variables that add flags behind our back.
    const { CPATH, CPLUS_INCLUDE_PATH, ...env } = process.env;
    const child = spawn(program, [...leading, ...args], { cwd, env: { ...env, LC_ALL: "C", SOURCE_DATE_EPOCH: "0" } });
    let output = "";
    child.stdout.on("data", (d) => (output += d));
    child.stderr.on("data", (d) => (output += d));
    child.on("error", fail);
    child.on("close", (code) => settle({ code, output }));
  }).catch((cause: Error) => {
    throw new ToolchainError(`${what}: ${program} cannot be started: ${cause.message}`, { cause });
  });
  if (code === 0) return;
  const log = join(cache, `${what.replaceAll(" ", "-")}.log`);
  await writeFile(log, `${[...compiler.command, ...args].join(" ")}\n${compiler.version}\n\n${output}`).catch(() => undefined);
  const first = output.split("\n").find((line) => /error|No space left/i.test(line)) ?? output.split("\n")[0] ?? "";
  throw new ToolchainError(`${what} does not compile with ${compiler.version}: ${first.trim()} (whole output: ${log})`);
}

async function mapConcurrently<T, R>(items: readonly T[], jobs: number, work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  let next = 0;
  let failed = false;
  const worker = async () => {
    while (!failed && next < items.length) {
      const index = next++;
      try {
        results[index] = await work(items[index] as T);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const settled = await Promise.allSettled(Array.from({ length: Math.max(1, jobs) }, worker));
  const failure = settled.find((s) => s.status === "rejected");
  if (failure) throw failure.reason;
  return results;
}

/** Whether a cache entry is there as it was written. */
async function isWhole(path: string): Promise<boolean> {
  try {
    return hashBytes(await readFile(path)) === (await readFile(`${path}.sha256`, "utf8"));
  } catch {
    return false;
  }
}

const hash = (value: unknown): string => hashBytes(JSON.stringify(value));
const hashBytes = (bytes: string | Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
