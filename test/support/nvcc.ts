/**
 * The real nvcc in tests: kernels to machine code and PTX, and what ptxas says of registers, shared memory, stack and spills. Results are
 * kept by content; two compilers run at once.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { CudaArch } from "../../compiler/codegen/cuda/dialect.ts";
import { templatesFolder } from "../../compiler/codegen/template.ts";
import { nvccToolchain } from "../../compiler/toolchain/nvcc.ts";
import { SIMT_NVCC } from "./cuda-engine.ts";
import { readFiles } from "./simt-kernel.ts";

export interface Nvcc {
  readonly command: readonly string[];
  /** `nvcc release 13.0, V13.0.88`. */
  readonly version: string;
}

/** `$NVCC`, or the one that this machine has; null where there is none but the emulator's. */
export function realNvcc(): Nvcc | null {
  try {
    const { command, version } = nvccToolchain("sm_80", process.env.NVCC ?? "");
    return command[0] === SIMT_NVCC ? null : { command, version };
  } catch {
    return null;
  }
}

/** What ptxas says of one kernel. */
export interface Resources {
  readonly registers: number;
  /** Declared; what a launch asks for comes on top. */
  readonly sharedBytes: number;
  readonly stackBytes: number;
  readonly spillBytes: number;
}

/** A text and the architectures it is for; where sm_80 is among them, PTX of compute_80 is made too. */
export interface NvccJob {
  readonly name: string;
  readonly source: string;
  readonly archs: readonly CudaArch[];
}

/** By architecture, or the compiler's words. */
export type NvccResult = Readonly<Partial<Record<CudaArch, Resources>>> | { readonly error: string };

const CODE: { readonly [K in CudaArch]: string } = {
  sm_80: "arch=compute_80,code=[sm_80,compute_80]",
  sm_90a: "arch=compute_90a,code=sm_90a",
};
const folder = join(tmpdir(), "ingot-nvcc");

const flagsOf = (archs: readonly CudaArch[]): string[] => ["-std=c++17", ...archs.flatMap((arch) => ["-gencode", CODE[arch]])];

/** The result of `job` where it was compiled before. */
export function knownResult(nvcc: Nvcc, job: NvccJob): NvccResult | undefined {
  try {
    return JSON.parse(readFileSync(placeOf(nvcc, job), "utf8")) as NvccResult;
  } catch {
    return undefined;
  }
}

function placeOf({ version }: Nvcc, { source, archs }: NvccJob): string {
  const headers = readFiles(templatesFolder(), ["prelude.cuda.h", "prelude.cuda.device.h"]);
  const content = JSON.stringify([version, flagsOf(archs), headers, source]);
  return join(folder, `${createHash("sha256").update(content).digest("hex").slice(0, 24)}.json`);
}

/** Compiles one text. */
export async function compileWithNvcc(nvcc: Nvcc, job: NvccJob): Promise<NvccResult> {
  mkdirSync(folder, { recursive: true });
  const work = mkdtempSync(join(folder, "job-"));
  try {
    writeFileSync(join(work, `${job.name}.cu`), job.source);
    const [program = "", ...leading] = nvcc.command;
    const output = ["-Xptxas", "-v", "-I", templatesFolder(), "-fatbin", `${job.name}.cu`, "-o", "out"];
    const { code, text } = await new Promise<{ code: number | null; text: string }>((settle, fail) => {
      const child = spawn(program, [...leading, ...flagsOf(job.archs), ...output], { cwd: work });
      let text = "";
      child.stdout.on("data", (piece) => (text += piece));
      child.stderr.on("data", (piece) => (text += piece));
      child.on("error", fail);
      child.on("close", (code) => settle({ code, text }));
    });
    const result = code === 0 ? resourcesOf(job.name, text) : { error: text };
    writeFileSync(join(work, "result"), JSON.stringify(result));
    renameSync(join(work, "result"), placeOf(nvcc, job));
    return result;
  } finally {
    rmSync(work, { recursive: true });
  }
}

/** Reads what `-Xptxas -v` prints of a kernel, an architecture after the other. */
export function resourcesOf(kernel: string, text: string): Readonly<Partial<Record<CudaArch, Resources>>> {
  const [, ...parts] = text.split("Compiling entry function ");
  const found = parts.map((part) => {
    const arch = part.match(/^'(\w+)' for '(\w+)'/);
    const frame = part.match(/(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/);
    const registers = part.match(/Used (\d+) registers/);
    if (arch?.[1] !== kernel || !frame || !registers) throw new Error(`ptxas says nothing known of ${kernel}: ${text}`);
    const resources: Resources = {
      registers: Number(registers[1]),
      sharedBytes: Number(part.match(/(\d+) bytes smem/)?.[1] ?? 0),
      stackBytes: Number(frame[1]),
      spillBytes: Number(frame[2]) + Number(frame[3]),
    };
    return [arch[2], resources] as const;
  });
  return Object.fromEntries(found);
}

/**
 * Compiles jobs in their order, two at once, until `budgetMs` are over; those compiled before take no time. Jobs that were not reached are
 * missing in the result.
 */
export async function compileWithin(nvcc: Nvcc, jobs: readonly NvccJob[], budgetMs: number): Promise<Map<NvccJob, NvccResult>> {
  const results = new Map<NvccJob, NvccResult>();
  const left: NvccJob[] = [];
  for (const job of jobs) {
    const known = knownResult(nvcc, job);
    if (known) results.set(job, known);
    else left.push(job);
  }
  const end = performance.now() + budgetMs;
  const worker = async () => {
    for (let job = left.shift(); job && performance.now() < end; job = left.shift()) {
      results.set(job, await compileWithNvcc(nvcc, job));
    }
  };
  await Promise.all([worker(), worker()]);
  return results;
}
