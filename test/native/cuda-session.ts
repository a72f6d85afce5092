/**
 * Executors over the fake driver for the tests of one file: each test begins with a log of its own, and is one of leaks as well.
 */
import { join } from "node:path";
import { afterEach, beforeAll, beforeEach, expect } from "vitest";
import type { CudaExecutorOptions, NativeCudaExecutor } from "../../runtime/native.ts";
import { calls, type FakeDevice, setFakeDevice } from "../support/fake-cuda.ts";
import { cudaOptions, step, temporary } from "./cuda-library.ts";
import { testAddon } from "./kernel-library.ts";

export interface CudaSession {
  /** File of the driver's calls in this test. */
  readonly log: string;
  /** Begins another log. */
  begin(): void;
  /** An executor of the test kernels on a device, closed when the test ends. */
  create(changes: Partial<CudaExecutorOptions>, device?: FakeDevice): NativeCudaExecutor;
}

/** Registers the file's hooks. */
export function cudaSession(): CudaSession {
  const native = testAddon();
  const executors: NativeCudaExecutor[] = [];
  const session = {
    log: "",
    begin() {
      session.log = join(temporary(), "driver.log");
    },
    create(changes: Partial<CudaExecutorOptions>, device: FakeDevice = {}) {
      setFakeDevice({ log: session.log, ...device });
      const executor = native.createCudaExecutor(cudaOptions(changes));
      executors.push(executor);
      return executor;
    },
  };
  beforeAll(() => void cudaOptions({})); // builds driver and kernels, which takes longer than a test may
  beforeEach(session.begin);
  afterEach(async () => {
    await Promise.all(executors.splice(0).map((executor) => executor.close()));
    expect(calls(session.log, "leak")).toEqual([]);
    expect(calls(session.log, "cuDevicePrimaryCtxRetain").length).toBe(calls(session.log, "cuDevicePrimaryCtxRelease").length);
  });
  return session;
}

export const symbols = (t: number, b = 1, s = 1, p = 1): Int32Array => Int32Array.of(t, b, s, p);
export const input = (bytes: number) => ({ bytes, isOutput: false });
export const output = (bytes: number) => ({ bytes, isOutput: true });

/** A program that appends its input to what the run before left in its output. */
export const appending: Partial<CudaExecutorOptions> = {
  arrays: [input(4), output(4)],
  programs: [
    { steps: [step("append", ["T"], ["array", 0], ["array", 1])] },
    { steps: [step("set_to", [1], ["array", 0], ["array", 1])] },
  ],
};
