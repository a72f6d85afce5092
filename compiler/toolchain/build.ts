/**
 * Builds a folder of kernel sources into one library, compiling only what the cache has not seen. How a kernel is compiled and what a
 * library is says a toolchain (`cxx.ts`, `nvcc.ts`).
 *
 * The cache is a folder of objects and libraries named by the hash of everything that went into them, each with a file that says
 * its own hash; entries are written whole (temporary file, rename), so that processes may share it and a killed build leaves
 * nothing half done. An entry that a disk lost or changed is made anew.
 */
import { spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { ToolchainError } from "../errors.ts";

/** Makes objects of kernel sources, and a library of objects. */
export interface Toolchain {
  /** Program and leading arguments, and its version for messages. */
  readonly command: readonly string[];
  readonly version: string;
  /** Whatever decides the bytes of objects beside sources and headers; and of the library beside objects. */
  readonly identity: unknown;
  readonly linkIdentity: unknown;
  /** Ends of source files: `.cpp`. */
  readonly suffix: string;
  /** Arguments that make the object `out` of the source `file`. */
  compileArguments(file: string, out: string): readonly string[];
  /** Makes the library `out` of objects by kernel; `run` starts the command with arguments. */
  link(objects: readonly KernelObject[], out: string, run: (args: readonly string[]) => Promise<void>): Promise<void>;
}

export interface KernelObject {
  readonly kernel: string;
  readonly file: string;
}

export interface BuildOptions {
  /** Folder with one source file a kernel and the `.h` files they include. */
  readonly sources: string;
  /** Path of the library to write; its folder is made. */
  readonly library: string;
  readonly toolchain: Toolchain;
  /** Cache folder, shared by all builds of this user. */
  readonly cache: string;
  /** Compilers running at once; default: one a processor. */
  readonly jobs?: number;
  /** Called after each kernel is there, compiled or found. */
  readonly onProgress?: (done: number, total: number, kernel: string) => void;
  /** Where in the model a kernel comes from, for the message about one that does not compile. */
  readonly originsOf?: (kernel: string) => readonly string[];
}

export interface BuildResult {
  readonly sha256: string;
  /** Kernels compiled now, and found compiled before. */
  readonly compiled: number;
  readonly reused: number;
}

/**
 * Builds the library. Throws `ToolchainError` when the compiler fails: the message names the kernel, where it comes from, and the file
 * that keeps the compiler's whole output.
 */
export async function buildKernels(options: BuildOptions): Promise<BuildResult> {
  const { sources, library, toolchain, cache, jobs = availableParallelism() } = options;
  const files = (await readdir(sources)).sort();
  const headers = await Promise.all(
    files.filter((f) => f.endsWith(".h")).map(async (f) => [f, await readFile(join(sources, f), "utf8")]),
  );
  const kernels = files.filter((f) => f.endsWith(toolchain.suffix));
  if (kernels.length === 0)
    throw new ToolchainError(`${sources} holds no kernel sources (*${toolchain.suffix}); compile the model again`);
  await Promise.all([mkdir(join(cache, "objects"), { recursive: true }), mkdir(dirname(library), { recursive: true })]);

  const base = [toolchain.version, toolchain.identity, headers];
  let done = 0;
  let compiled = 0;
  const objects = await mapConcurrently(kernels, jobs, async (file): Promise<KernelObject> => {
    const kernel = basename(file, toolchain.suffix);
    const object = join(cache, "objects", `${hash([base, file, await readFile(join(sources, file), "utf8")])}.o`);
    if (!(await isWhole(object))) {
      const origins = options.originsOf?.(kernel) ?? [];
      const what = {
        name: `kernel ${kernel}`,
        where: origins.length > 0 ? `, which computes ${origins.slice(0, 3).join(", ")},` : "",
      };
      await publish(object, (partial) =>
        run(toolchain, toolchain.compileArguments(file, partial), resolve(sources), what, cache),
      );
      compiled += 1;
    }
    options.onProgress?.(++done, kernels.length, kernel);
    return { kernel, file: object };
  });

  const names = objects.map(({ kernel, file }) => [kernel, basename(file)]);
  const cached = join(cache, "objects", `${hash([base, toolchain.linkIdentity, names])}.library`);
  if (!(await isWhole(cached))) {
    const what = { name: "the kernel library", where: "" };
    await publish(cached, (partial) => toolchain.link(objects, partial, (args) => run(toolchain, args, cache, what, cache)));
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

async function run(
  { command, version }: Toolchain,
  args: readonly string[],
  cwd: string,
  what: { readonly name: string; readonly where: string },
  cache: string,
): Promise<void> {
  const [program = "", ...leading] = command;
  const { code, output } = await new Promise<{ code: number | null; output: string }>((settle, fail) => {
    // Messages in English, and no variables that add flags behind our back.
    const { CPATH, CPLUS_INCLUDE_PATH, NVCC_APPEND_FLAGS, NVCC_PREPEND_FLAGS, ...env } = process.env;
    const child = spawn(program, [...leading, ...args], { cwd, env: { ...env, LC_ALL: "C", SOURCE_DATE_EPOCH: "0" } });
    let output = "";
    child.stdout.on("data", (d) => (output += d));
    child.stderr.on("data", (d) => (output += d));
    child.on("error", fail);
    child.on("close", (code) => settle({ code, output }));
  }).catch((cause: Error) => {
    throw new ToolchainError(`${what.name}: ${program} cannot be started: ${cause.message}`, { cause });
  });
  if (code === 0) return;
  const log = join(cache, `${what.name.replaceAll(" ", "-")}.log`);
  await writeFile(log, `${[...command, ...args].join(" ")}\n${version}\n\n${output}`).catch(() => undefined);
  const first = output.split("\n").find((line) => /\b(error|fatal)\s*:|No space left/i.test(line)) ?? output.split("\n")[0] ?? "";
  throw new ToolchainError(`${what.name}${what.where} does not compile with ${version}: ${first.trim()} (whole output: ${log})`);
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
