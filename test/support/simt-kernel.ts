/**
 * Runs generated CUDA text on the SIMT emulator: compiled by test/simt/nvcc, run by test/simt/kernel-runner.cpp in a process of its own.
 * Runner and kernels are built once per content. What a device does is in test/simt/README.md.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** One launch of a kernel whose parameters are all pointers. */
export interface SimtLaunch {
  readonly grid: number;
  readonly threads: number;
  /** Dynamic shared memory. */
  readonly sharedBytes: number;
  /** In calling order; a number is the index of an earlier argument whose memory it shares. Bytes beyond an array's end are out of bounds. */
  readonly args: readonly (Uint8Array | number)[];
}

/** In which order threads and blocks run, and whether under the checker. */
export interface SimtOptions {
  readonly order?: "forward" | "reverse" | "random" | "greedy";
  readonly seed?: number;
  readonly checked?: boolean;
}

/** What a line of kernel text did, over all launches: units are 32-byte sectors of global memory, wavefronts of shared memory. */
export interface SimtAccess {
  readonly line: number;
  readonly kind: "read" | "write";
  readonly space: "global" | "shared";
  /** Instructions, counted once a warp. */
  readonly requests: number;
  readonly perRequest: number;
  /** Units per request if the lanes' bytes lay side by side. */
  readonly ideal: number;
}

export interface SimtResult {
  /** Each launch's arguments as it left them. */
  readonly args: readonly (readonly Uint8Array[])[];
  /** Counted in checked runs only. */
  readonly accesses: readonly SimtAccess[];
}

const simt = fileURLToPath(new URL("../simt/", import.meta.url));
const templates = fileURLToPath(new URL("../../templates/", import.meta.url));
const folder = join(tmpdir(), "ingot-simt");

// A sanitizer that the tests run under must not find its way into compilers and kernels.
const { LD_PRELOAD: _, ...environment } = process.env;

/** Runs launches one after another, each on memory of its own. Throws with the emulator's or the checker's report. */
export function runSimt(
  kernel: { readonly name: string; readonly source: string },
  launches: readonly SimtLaunch[],
  options: SimtOptions = {},
): SimtResult {
  const { order = "forward", seed = 1, checked = false } = options;
  const runner = buildSimtRunner();
  const library = buildSimtKernel(kernel, checked);
  const chunks: Uint8Array[] = [int64(launches.length)];
  for (const { grid, threads, sharedBytes, args } of launches) {
    chunks.push(...[grid, threads, sharedBytes, args.length].map(int64));
    for (const arg of args) chunks.push(...(typeof arg === "number" ? [int64(-1 - arg)] : [int64(arg.length), arg]));
  }
  const work = mkdtempSync(join(tmpdir(), "ingot-job-"));
  try {
    writeFileSync(join(work, "in"), Buffer.concat(chunks));
    const { status, signal, stderr } = spawnSync(
      runner,
      [library, kernel.name, order, String(seed), join(work, "in"), join(work, "out")],
      { encoding: "utf8", env: environment },
    );
    if (status !== 0) {
      const crash = checked ? "" : "; a checked run names the line of a wild access";
      throw new Error(`${kernel.name} (${order}): ${signal ? `ended by ${signal}${crash}` : stderr.trim()}`);
    }
    return readResult(new Uint8Array(readFileSync(join(work, "out"))), launches);
  } finally {
    rmSync(work, { recursive: true });
  }
}

function readResult(bytes: Uint8Array, launches: readonly SimtLaunch[]): SimtResult {
  let at = 0;
  const args = launches.map((launch) =>
    launch.args.map((arg) => {
      const memory = typeof arg === "number" ? (launch.args[arg] as Uint8Array) : arg;
      at += memory.length;
      return bytes.slice(at - memory.length, at);
    }),
  );
  const lines = Buffer.from(bytes.slice(at)).toString().split("\n").filter(Boolean);
  const accesses = lines.map((text): SimtAccess => {
    const [line, kind, space, requests, perRequest, ideal] = text.split(" ");
    return {
      line: Number(line),
      kind: kind as SimtAccess["kind"],
      space: space as SimtAccess["space"],
      requests: Number(requests),
      perRequest: Number(perRequest),
      ideal: Number(ideal),
    };
  });
  return { args, accesses };
}

const int64 = (n: number): Uint8Array => new Uint8Array(BigInt64Array.of(BigInt(n)).buffer);

/** Path of the program that loads a kernel's library and runs launches. */
export function buildSimtRunner(): string {
  const sources = simtSources();
  return makeOnce([readFiles(simt, [...sources, "kernel-runner.cpp"])], (out) => [
    process.env.CXX ?? "g++",
    ...["-std=c++17", "-O1", "-rdynamic", join(simt, "kernel-runner.cpp")],
    ...sources.filter((name) => name.endsWith(".cpp")).map((name) => join(simt, name)),
    ...["-ldl", "-pthread", "-o", out],
  ]);
}

/** Names of the emulator's and checker's files in test/simt, for who builds a library or a program of them. */
export function simtSources(): string[] {
  return readdirSync(simt).filter((name) => /^[a-z0-9_]+\.(cpp|hpp)$/.test(name) && !name.startsWith("fake_"));
}

/** Path of the shared library that a kernel's text is compiled to. */
export function buildSimtKernel(
  kernel: { readonly name: string; readonly source: string },
  checked: boolean,
  architecture = "90a",
): string {
  const headers = readFiles(templates, ["prelude.cuda.h"]) + readFiles(simt, ["simt_prelude.h", "simt_kernel.hpp", "nvcc"]);
  const file = "kernel.cu";
  const variables = { INGOT_SIMT_CHECKED: checked ? "1" : "0" };
  const command = (out: string, work: string) => [
    ...[join(simt, "nvcc"), "-gencode", `arch=compute_${architecture},code=sm_${architecture}`],
    ...["-fatbin", join(work, file), "-o", out],
  ];
  return makeOnce([headers, kernel.source, architecture], command, { [file]: kernel.source }, variables);
}

/** Names and contents of files, as inputs of makeOnce. */
export const readFiles = (from: string, names: readonly string[]): string =>
  names.map((name) => `${name}\n${readFileSync(join(from, name), "utf8")}`).join("\n");

/** Path of what a command makes, run once per content of `inputs` in a folder that holds `files`. */
export function makeOnce(
  inputs: readonly string[],
  command: (out: string, work: string) => readonly string[],
  files: Readonly<Record<string, string>> = {},
  variables: Readonly<Record<string, string>> = {},
): string {
  const content = JSON.stringify([inputs, variables, process.env.CXX ?? "g++", command("out", "")]);
  const place = join(folder, createHash("sha256").update(content).digest("hex").slice(0, 24));
  if (existsSync(join(place, "out"))) return join(place, "out");
  mkdirSync(folder, { recursive: true });
  const work = mkdtempSync(join(folder, "partial-"));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(work, name), text);
  const [program = "", ...args] = command(join(work, "out"), work);
  const { status, stderr, error } = spawnSync(program, args, { encoding: "utf8", env: { ...environment, ...variables } });
  if (status !== 0) throw new Error(`${program} ${args.join(" ")}\n${error?.message ?? stderr}`);
  try {
    renameSync(work, place);
  } catch {
    rmSync(work, { recursive: true }); // another process was faster
  }
  return join(place, "out");
}
