// The machine under a comparison: what it is, whether it is quiet, and what it can read right now.

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import { fileURLToPath } from "node:url";

const PROBE_BYTES = 1 << 30;
const ROOT = fileURLToPath(new URL("../..", import.meta.url));

/** Our addon, for its bandwidth probe and CPU facts. */
export function loadAddon() {
  const path = `${ROOT}dist/ingot.node`;
  if (!existsSync(path)) throw new Error("dist/ingot.node is not built: run `npm run build` in the repository's root");
  return createRequire(import.meta.url)(path);
}

export function describeMachine(addon) {
  const { model, arch, features, threads, cacheBytes } = addon.cpuFacts();
  const hugePages = "/sys/kernel/mm/transparent_hugepage/enabled";
  return {
    cpu: model,
    arch,
    cores: threads,
    features,
    cacheBytes,
    memoryBytes: os.totalmem(),
    kernel: `${os.type()} ${os.release()}`,
    transparentHugePages: existsSync(hugePages) ? (/\[(\w+)\]/.exec(readFileSync(hugePages, "utf8"))?.[1] ?? null) : null,
    node: process.version,
  };
}

export function describeSource() {
  const git = (...args) => execFileSync("git", args, { cwd: ROOT, encoding: "utf8" }).trim();
  return {
    version: JSON.parse(readFileSync(`${ROOT}package.json`, "utf8")).version,
    commit: git("rev-parse", "HEAD"),
    modified: git("status", "--porcelain", "--untracked-files=no") !== "",
  };
}

/** Milliseconds of all CPUs since boot: busy (idle and steal left out), stolen, all. Linux only; null elsewhere. */
export function cpuTimes() {
  if (!existsSync("/proc/stat")) return null;
  const tick = 10; // USER_HZ is 100 on every Linux ABI
  const [user, nice, system, idle, iowait, irq, softirq, steal] = readFileSync("/proc/stat", "utf8")
    .split("\n")[0]
    .split(/\s+/)
    .slice(1)
    .map((n) => Number(n) * tick);
  const busy = user + nice + system + irq + softirq;
  return { busy, steal, all: busy + steal + idle + iowait };
}

/** Shares of all CPU time between two readings; `ownMs` is what the measured process used itself. */
export function loadBetween(before, after, ownMs = 0) {
  if (before === null || after === null) return null;
  const all = Math.max(1, after.all - before.all);
  return { others: Math.max(0, after.busy - before.busy - ownMs) / all, steal: (after.steal - before.steal) / all };
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Others busy under 3 % and steal under 0.5 %, as long as nothing of ours runs. */
export const isQuiet = (load) => load === null || (load.others < 0.03 && load.steal < 0.005);

/** Waits for 2 s of quiet, up to `timeoutS`; returns the last reading and whether it was quiet. */
export async function awaitQuiet(timeoutS) {
  const deadline = performance.now() + timeoutS * 1000;
  for (;;) {
    const before = cpuTimes();
    await sleep(2000);
    const load = loadBetween(before, cpuTimes());
    const quiet = isQuiet(load);
    if (quiet || performance.now() > deadline) return { quiet, load };
  }
}

/**
 * What the machine gives now: read GB/s with 1 and all threads (as many bytes as a small model's weights, so that caches do not
 * answer), and the clock from a chain of dependent 3-cycle multiplications.
 */
export function probe(addon, threads) {
  return {
    readGBs: addon.readBandwidth(threads, PROBE_BYTES, 3),
    readGBs1: addon.readBandwidth(1, PROBE_BYTES, 1),
    clockGHz: clockGHz(),
  };
}

function clockGHz() {
  const n = 20_000_000;
  let best = Number.POSITIVE_INFINITY;
  let x = 3;
  for (let round = 0; round < 3; round++) {
    const start = performance.now();
    for (let i = 0; i < n; i++) x = Math.imul(x, 0x6d2b79f5);
    best = Math.min(best, performance.now() - start);
  }
  if (x === 0) throw new Error("unreachable: an odd factor keeps x odd");
  return (3 * n) / (best * 1e6);
}
