import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { CudaExecutorOptions, NativeArg, NativeCudaExecutor, NativeTap, StepTypedArray } from "../../runtime/native.ts";
import { buildFakeCuda, fakeDeviceEnvironment, setFakeDevice } from "../support/fake-cuda.ts";
import { cudaOptions, step, temporary, testKernelImage } from "./cuda-library.ts";
import { testAddon } from "./kernel-library.ts";

const native = testAddon();
const DRIVER = "libcuda.so.1";
const nvcc = process.env.NVCC ?? "nvcc";
const hasNvcc = spawnSync(nvcc, ["--version"]).status === 0;

function hasDevice(): boolean {
  try {
    return native.cudaFacts(DRIVER, 0).computeCapability[0] >= 8;
  } catch {
    return false;
  }
}

/** Path of the test kernels as a fat binary for devices. */
function deviceKernels(): string {
  const out = join(temporary(), "kernels.fatbin");
  const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url));
  const architectures = ["arch=compute_80,code=sm_80", "arch=compute_90a,code=sm_90a", "arch=compute_80,code=compute_80"];
  const flags = ["-std=c++17", "-O3", ...architectures.flatMap((each) => ["-gencode", each]), "-I", path("../../templates")];
  const { status, stderr } = spawnSync(nvcc, [...flags, "-fatbin", path("./cuda-kernels.cu"), "-o", out], { encoding: "utf8" });
  if (status !== 0) throw new Error(stderr);
  return out;
}

it.skipIf(!hasNvcc)("the test kernels compile for devices, where nvcc is", () => {
  expect(existsSync(deviceKernels())).toBe(true);
});

it("the executor runs without JavaScript, for machines that have none", () => {
  const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url));
  const program = join(temporary(), "smoke");
  const cuda = readdirSync(path("../../native/cuda")).filter((name) => name.endsWith(".cpp"));
  const parts = [...cuda.map((name) => `cuda/${name}`), "grid.cpp", "memory.cpp"].map((name) => path(`../../native/${name}`));
  const { LD_PRELOAD: _, ...environment } = process.env;
  const run = (command: string, args: string[], more: Record<string, string> = {}) =>
    spawnSync(command, args, { encoding: "utf8", env: { ...environment, ...more } });
  const flags = ["-std=c++17", "-Wall", "-Wextra", path("./cuda-smoke.cpp"), ...parts, "-o", program, "-ldl", "-pthread"];
  expect(run(process.env.CXX ?? "c++", flags)).toMatchObject({ status: 0, stderr: "" });
  const ended = run(program, [buildFakeCuda(), testKernelImage()], fakeDeviceEnvironment({ sm: 80 }));
  expect(ended).toMatchObject({ status: 0, stderr: "" });
  expect(ended.stdout).toMatch(/^NVIDIA Fake 80 \(sm_80\), driver 12\.4\n150 kernels, launched one by one: .* ms\n.*\nok\n$/);
});

const numbers = (...values: number[]): Int32Array => Int32Array.from(values);
const input = { bytes: 64, isOutput: false };
const output = { bytes: 64, isOutput: true };

// What programs compute, the same on both; how the driver is called is in cuda-executor.test.ts.
describe.each([
  { on: "the fake driver", isThere: true, isReal: false },
  { on: "a GPU, where there is one", isThere: hasNvcc && hasDevice(), isReal: true },
])("on $on", ({ isThere, isReal }) => {
  let executor: NativeCudaExecutor;
  const seeing: NativeArg[] = [0, 1, 2, 3].map((index) => ["symbol", index]);
  const programs: CudaExecutorOptions["programs"] = [
    { steps: [step("arrive", [1], ["array", 0], ["weights", 8], ["arena", 256], ["kv", 512], ["symbol", 0], ["array", 1])] },
    { steps: [step("see", ["T", "B", "mul"], ...seeing, ["array", 2])] },
    { steps: [step("append", ["T"], ["array", 0], ["array", 3])] },
    { steps: [step("set_to", [1], ["array", 0], ["array", 3])] },
    { steps: [step("through_shared", [1], ["array", 3])] },
    { steps: Array.from({ length: 3 }, () => step("count_up", [1], ["arena", 1024])) },
    { steps: [step("take_last", [1], ["array", 0], ["symbol", 0], ["array", 3])] },
  ];
  const out = { floats: new Float32Array(4), seen: new Int32Array(5), total: new Int32Array(1) };
  const run = (
    program: number,
    symbols: Int32Array,
    ids: Int32Array,
    more: { readonly launch?: Int32Array; readonly taps?: NativeTap[]; readonly total?: Int32Array } = {},
  ): Promise<number> => {
    const arrays: StepTypedArray[] = [ids, out.floats, out.seen, more.total ?? out.total];
    return executor.run(program, symbols, more.launch ?? symbols, arrays, more.taps ?? []);
  };

  beforeAll(() => {
    if (!isThere) return;
    setFakeDevice({});
    const base = cudaOptions({ arrays: [input, output, output, output], programs });
    if (!isReal) {
      executor = native.createCudaExecutor(base);
      return;
    }
    const library = deviceKernels();
    const bytes = readFileSync(library).length;
    const kernels = base.kernels.map((kernel) => ({ ...kernel, offset: 0, bytes }));
    executor = native.createCudaExecutor({ ...base, driver: DRIVER, library, kernels });
  });
  afterAll(() => executor?.close());

  it.skipIf(!isThere)("arguments of every kind arrive, launched directly, captured and replayed", async () => {
    for (let n = 1; n <= 4; n++) {
      await run(0, numbers(3, 1, 1, 1), numbers(7, 8, 9));
      expect([...out.floats.subarray(0, 3)]).toEqual([9000 + n, 11000 + n, 13000 + n]);
    }
  });

  it.skipIf(!isThere)("kernels see true symbols under the grid of the launch symbols", async () => {
    for (const t of [5, 6, 7]) {
      await run(1, numbers(t, 2, 3, 4), numbers(), { launch: numbers(8, 4, 4, 8) });
      expect([...out.seen]).toEqual([32, t, 2, 3, 4]);
    }
  });

  it.skipIf(!isThere)("1,000 runs, two in flight, each read what the one before left", async () => {
    await run(3, numbers(1, 1, 1, 1), numbers(0));
    const totals = Array.from({ length: 1000 }, () => new Int32Array(1));
    let previous: Promise<number> = Promise.resolve(0);
    for (const [i, total] of totals.entries()) {
      const current = run(2, numbers(1 + (i % 3), 1, 1, 1), numbers(i % 10), { total });
      await previous;
      previous = current;
    }
    await previous;
    let expected = 0;
    for (const [i, total] of totals.entries()) {
      expected = (Math.imul(expected, 10) + (i % 10)) | 0;
      expect(total[0]).toBe(expected);
    }
  });

  it.skipIf(!isThere)("100 KB of shared memory, taps between steps, and their milliseconds", async () => {
    await run(4, numbers(1, 1, 1, 1), numbers());
    expect(out.total[0]).toBe(25_599);
    const into = [0, 1, 2].map(() => new Uint8Array(4));
    executor.profile(true);
    const total = await run(5, numbers(1, 1, 1, 1), numbers(), {
      taps: into.map((each, i) => ({ step: i, offset: 1024, into: each })),
    });
    const ms = executor.profile(false);
    expect(into.map((bytes) => bytes[0])).toEqual([1, 2, 3]);
    expect(ms).toHaveLength(3);
    expect(Math.min(...ms)).toBeGreaterThan(0);
    expect(ms.reduce((a, b) => a + b)).toBeLessThanOrEqual(total * 1.001 + 0.001);
  });

  it.skipIf(!isThere)("an array that grows takes its outputs' contents along", async () => {
    await run(3, numbers(1, 1, 1, 1), numbers(4));
    const before = run(2, numbers(1, 1, 1, 1), numbers(2), { total: new Int32Array(1) });
    await run(
      2,
      numbers(1, 1, 1, 1),
      Int32Array.from({ length: 500 }, (_, i) => 7 + i),
    );
    await before;
    expect(out.total[0]).toBe(427);
    await run(
      6,
      numbers(500, 1, 1, 1),
      Int32Array.from({ length: 500 }, (_, i) => i),
    );
    expect(out.total[0]).toBe(499);
  });
});
