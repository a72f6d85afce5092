import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { cpus, tmpdir, totalmem } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { testAddon } from "./kernel-library.ts";

const native = testAddon();

describe("the addon knows its machine", () => {
  it("counts the threads and cores this process may use", () => {
    const { threads, cores, model } = native.cpuFacts();
    expect(threads).toBeGreaterThanOrEqual(1);
    expect(threads).toBeLessThanOrEqual(cpus().length);
    expect(cores).toBeLessThanOrEqual(threads);
    expect(model.length).toBeGreaterThan(0);
  });

  it("names features in families: what needs wider registers comes with the narrower", () => {
    const { arch, features } = native.cpuFacts();
    if (features.includes("avx512f")) expect(features).toContain("avx2");
    if (features.includes("fast_avx512_bf16")) expect(features).toContain("avx512_bf16");
    if (features.includes("amx_bf16")) expect(features).toContain("amx_tile");
    if (arch === "arm64") expect(features).toContain("neon");
    expect(new Set(features).size).toBe(features.length);
    expect(native.cpuFacts()).toEqual(native.cpuFacts());
  });

  it.skipIf(process.platform !== "linux")("agrees with an affinity mask", () => {
    const addon = fileURLToPath(new URL("../../dist/ingot.node", import.meta.url));
    const script = `console.log(require(${JSON.stringify(addon)}).cpuFacts().threads)`;
    const { stdout } = spawnSync("taskset", ["-c", "0", process.execPath, "-e", script], { encoding: "utf8" });
    expect(stdout.trim()).toBe("1");
  });

  it("never promises more memory than there is", () => {
    const { totalBytes, availableBytes } = native.memoryFacts();
    expect(totalBytes).toBeLessThanOrEqual(totalmem());
    expect(availableBytes).toBeLessThanOrEqual(totalBytes);
    expect(availableBytes).toBeGreaterThan(2 ** 20);
  });

  it("measures a read bandwidth that a memory can have", () => {
    const rate = native.readBandwidth(1, 2 ** 25, 3);
    expect(rate).toBeGreaterThan(0.2);
    expect(rate).toBeLessThan(2000);
    expect(() => native.readBandwidth(0, 2 ** 25, 3)).toThrow(/threads must be a whole number/);
    expect(() => native.readBandwidth(1, 2 ** 52, 3)).toThrow(/bytes must be a whole number/);
    expect(() => native.readBandwidth(1, 2 ** 25, 0)).toThrow(/rounds must be a whole number/);
  });
});

describe.skipIf(process.platform !== "linux")("limits of a control group", () => {
  const source = (path: string) => fileURLToPath(new URL(`../../native/${path}`, import.meta.url));
  const folder = mkdtempSync(join(tmpdir(), "ingot-cgroup-"));
  const program = join(folder, "limits");

  beforeAll(() => {
    writeFileSync(
      `${program}.cpp`,
      `#include <cstdio>
#include "${source("machine.h")}"
int main(int, char** argv) {
  const ingot::CgroupLimits l = ingot::cgroup_limits(argv[1]);
  std::printf("[%lld, %lld, %g]", (long long)l.memory_limit_bytes, (long long)l.memory_headroom_bytes, l.cpus);
}`,
    );
    const result = spawnSync("c++", ["-std=c++20", "-o", program, `${program}.cpp`, source("machine.cpp"), "-pthread"], {
      encoding: "utf8",
    });
    expect(result.stderr).toBe("");
  });

  function limits(files: Record<string, string>): number[] {
    const root = mkdtempSync(join(folder, "root-"));
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(join(root, path)), { recursive: true });
      writeFileSync(join(root, path), text);
    }
    return JSON.parse(spawnSync(program, [root], { encoding: "utf8" }).stdout) as number[];
  }
  const NONE = Number("9223372036854775807");

  it("are absent without files or with the word max", () => {
    expect(limits({})).toEqual([NONE, NONE, 0]);
    const max = { "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/cpu.max": "max 100000\n" };
    expect(limits(max)).toEqual([NONE, NONE, 0]);
  });

  it("of version 2 bind wherever they stand on the way up, and page cache counts as free", () => {
    const files = {
      "proc/self/cgroup": "0::/pod/app\n",
      "sys/fs/cgroup/pod/memory.max": "1000000\n",
      "sys/fs/cgroup/pod/memory.current": "700000\n",
      "sys/fs/cgroup/pod/memory.stat": "anon 300000\ninactive_file 400000\n",
      "sys/fs/cgroup/pod/app/memory.max": "max\n",
      "sys/fs/cgroup/pod/app/cpu.max": "250000 100000\n",
      "sys/fs/cgroup/cpu.max": "800000 100000\n",
    };
    expect(limits(files)).toEqual([1_000_000, 700_000, 2.5]);
  });

  it("of version 1 are read from the controllers' own trees", () => {
    const files = {
      "proc/self/cgroup": "9:memory:/job\n3:cpu,cpuacct:/job\n1:name=systemd:/job\n",
      "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "5000\n",
      "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "6000\n",
      "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
      "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "-1\n",
      "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
      "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    };
    expect(limits(files)).toEqual([5000, 0, 0.5]);
  });

  it("hold in a container, whose path is the host's and whose root is the mount", () => {
    const files = {
      "proc/self/cgroup": "0::/system.slice/docker-1.scope\n",
      "sys/fs/cgroup/memory.max": "2048\n",
      "sys/fs/cgroup/memory.current": "48\n",
    };
    expect(limits(files)).toEqual([2048, 2000, 0]);
  });

  it("survive files that make no sense", () => {
    const files = {
      "proc/self/cgroup": "::\nx\n0::/../../etc\n0::/\n",
      "sys/fs/cgroup/memory.max": "lots\n",
      "sys/fs/cgroup/cpu.max": "1 0\n",
    };
    expect(limits(files)).toEqual([NONE, NONE, 0]);
  });
});
