/**
 * `ingot doctor`: compilers, processor, memory and caches, in one page.
 */
import { existsSync } from "node:fs";
import { release } from "node:os";
import { Command } from "commander";
import { formatTable } from "../../../runtime/bench/text-table.ts";
import { type CpuFacts, loadNative, type MemoryFacts } from "../../../runtime/native.ts";
import { bestTarget } from "../../schedule/target.ts";
import { findCompiler } from "../../toolchain/compiler.ts";
import { findNvcc } from "../../toolchain/nvcc.ts";
import { EXIT } from "../exit.ts";
import { examineGpu, type ReadyGpu } from "../gpu.ts";
import { ensureAddon } from "../native-addon.ts";
import { addJsonFlag } from "../options.ts";
import { packageVersion } from "../package-root.ts";
import { engineCache, kernelCache } from "../places.ts";
import { formatBytes } from "../progress.ts";

interface Findings {
  readonly version: string;
  readonly node: string;
  readonly os: string;
  readonly compiler: string | null;
  /** null where there is none, which only who compiles for a GPU misses; what is there and unusable is a problem. So of a GPU. */
  readonly nvcc: string | null;
  readonly gpu: ReadyGpu | null;
  readonly cpu: CpuFacts | null;
  readonly memory: MemoryFacts | null;
  readonly target: string | null;
  readonly readBandwidthGBs: number | null;
  readonly caches: { readonly engines: string; readonly kernels: string };
  readonly problems: readonly string[];
}

export function doctorCommand(): Command {
  const command = new Command("doctor")
    .description("say what this machine has and what is missing")
    .action((flags: { json?: boolean }) => {
      const findings = examine();
      console.log(flags.json ? JSON.stringify(findings, null, 2) : report(findings));
      if (findings.problems.length > 0) process.exitCode = findings.compiler === null ? EXIT.toolchain : EXIT.failure;
    });
  return addJsonFlag(command);
}

function examine(): Findings {
  const problems: string[] = [];
  const attempt = <T>(work: () => T): T | null => {
    try {
      return work();
    } catch (error) {
      problems.push((error as Error).message);
      return null;
    }
  };
  const native = attempt(() => {
    ensureAddon();
    return loadNative();
  });
  const cpu = native && attempt(() => native.cpuFacts());
  const { gpu, problem } = native ? examineGpu() : { gpu: null, problem: null };
  if (problem !== null) problems.push(problem);
  return {
    version: packageVersion(),
    node: process.version,
    os: `${process.platform} ${release()} ${process.arch}`,
    compiler: attempt(() => findCompiler().version),
    nvcc: attempt(() => findNvcc()?.version ?? null),
    gpu,
    cpu,
    memory: native && attempt(() => native.memoryFacts()),
    target: cpu && bestTarget(cpu),
    readBandwidthGBs: native && cpu && attempt(() => native.readBandwidth(cpu.threads, 256 * 2 ** 20, 3)),
    caches: { engines: engineCache(), kernels: kernelCache() },
    problems,
  };
}

function gpuText({ name, computeCapability, driverVersion, freeBytes, totalBytes, target }: ReadyGpu): string {
  const suits = target ?? "too old for every target";
  return `${name} (sm_${computeCapability.join("")}, ${suits}), ${formatBytes(freeBytes)} free of ${formatBytes(totalBytes)}, driver ${driverVersion}`;
}

function report(f: Findings): string {
  const place = (path: string) => `${path}${existsSync(path) ? "" : " (empty)"}`;
  const rows: [string, string][] = [
    ["node", `${f.node} on ${f.os}`],
    ["C++ compiler", f.compiler ?? "none"],
    ["processor", f.cpu ? `${f.cpu.model}, ${f.cpu.threads} threads` : "unknown"],
    ["features", f.cpu?.features.join(" ") ?? ""],
    ["native target", f.target ?? "unknown"],
    ["memory", f.memory ? `${formatBytes(f.memory.availableBytes)} free of ${formatBytes(f.memory.totalBytes)}` : "unknown"],
    ["read bandwidth", f.readBandwidthGBs ? `${f.readBandwidthGBs.toFixed(1)} GB/s (probed)` : "not probed"],
    ["GPU", f.gpu ? gpuText(f.gpu) : "none that can be used"],
    ["CUDA compiler", f.nvcc ?? "none that can be used: --target cuda:… needs nvcc"],
    ["engines", place(f.caches.engines)],
    ["kernels", place(f.caches.kernels)],
  ];
  const problems = f.problems.length === 0 ? "no problems found" : `problems:\n${f.problems.map((p) => `- ${p}`).join("\n")}`;
  return `${formatTable(["ingot", f.version], rows)}\n\n${problems}`;
}
