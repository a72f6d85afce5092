import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { NativeCudaExecutor } from "../../runtime/native.ts";
import { calls } from "../support/fake-cuda.ts";
import { cudaOptions, libraryOf, step, testKernelImage } from "./cuda-library.ts";
import { appending, cudaSession, output, symbols } from "./cuda-session.ts";

const session = cudaSession();
const { create } = session;

describe("a call of the driver that fails", () => {
  it("in the middle of a run rejects it, and the next run has its own inputs", async () => {
    const steps = [step("append", [1], ["array", 0], ["array", 1]), step("count_up", [1], ["arena", 0])];
    const [set] = appending.programs!.slice(1);
    const executor = create({ ...appending, programs: [{ steps }, set!] }, { fail: "cuLaunchKernelEx 3" });
    const total = new Int32Array(1);
    const run = (program: number, x: number) => executor.run(program, symbols(1), symbols(1), [Int32Array.of(x), total], []);
    await run(1, 0);
    const failed = expect(run(0, 1)).rejects.toThrow("kernel count_up cannot be launched: CUDA_ERROR_INVALID_VALUE");
    await run(0, 2);
    await failed;
    expect(total[0]).toBe(12);
  });

  it("to make room for a larger array rejects that run, and smaller ones go on", async () => {
    const executor = create(appending, { fail: "cuMemAlloc_v2 5" });
    const total = new Int32Array(1);
    const run = (program: number, ...x: number[]) =>
      executor.run(program, symbols(1), symbols(1), [Int32Array.from(x), total], []);
    await run(1, 0);
    await run(0, 1);
    await run(0, 2);
    await expect(run(0, 3, 0)).rejects.toThrow("cuMemAlloc_v2 failed");
    await run(0, 4);
    await run(0, 5, 0);
    expect(total[0]).toBe(1245);
  });

  it("to make the context current gives the context back", () => {
    expect(() => create({}, { fail: "cuCtxSetCurrent 1" })).toThrow("cuCtxSetCurrent failed: CUDA_ERROR_INVALID_VALUE");
    expect(calls(session.log, "cuDevicePrimaryCtxRelease")).toHaveLength(1);
  });

  it("anywhere is told, leaves nothing behind and hangs nothing", async () => {
    const outcomes = { loading: 0, running: 0 };
    let happened = true;
    for (let n = 1; happened; n++) {
      session.begin();
      let executor: NativeCudaExecutor | undefined;
      try {
        executor = create({ ...appending, kvBytes: 0 }, { fail: `* ${n}` });
      } catch (error) {
        expect((error as Error).message).toMatch(/failed on purpose/);
        outcomes.loading++;
        expect(calls(session.log, "leak")).toEqual([]);
        continue;
      }
      const run = (into: Uint8Array[] = []) => {
        const taps = into.map((each) => ({ step: 0, offset: 0, into: each }));
        return executor!.run(0, symbols(1), symbols(1), [new Int32Array(1), new Int32Array(1)], taps);
      };
      const first = await Promise.allSettled([run(), run()]);
      executor.profile(true);
      const last = await Promise.allSettled([run([new Uint8Array(4)]), run()]);
      await executor.close();
      happened = calls(session.log).some((line) => line.includes("failed on purpose"));
      const rejected = [...first, ...last].filter(({ status }) => status === "rejected");
      expect([n, rejected.length > 0, calls(session.log).filter((line) => line.includes("failed on purpose"))]).toEqual([
        n,
        happened,
        happened ? [expect.anything()] : [],
      ]);
      if (happened) outcomes.running++;
      expect(calls(session.log, "leak")).toEqual([]);
      expect(calls(session.log, "cuDevicePrimaryCtxRetain").length).toBe(calls(session.log, "cuDevicePrimaryCtxRelease").length);
    }
    expect(outcomes.loading).toBeGreaterThan(30);
    expect(outcomes.running).toBeGreaterThan(30);
  });
});

describe("a kernel that fails on the device", () => {
  it("is named with the line that was wrong when it was compiled for the checker", async () => {
    const image = readFileSync(testKernelImage(true));
    const kernels = cudaOptions({}).kernels.map((kernel) => ({ ...kernel, bytes: image.length }));
    const steps = [step("count_up", [4], ["arena", 0])]; // every block adds to the same number
    const executor = create({ library: libraryOf(image), kernels, programs: [{ steps }] });
    await executor.run(0, symbols(1), symbols(1), [], []).then(
      () => expect.unreachable(),
      (error: Error) =>
        expect(error.message).toMatch(/count_up: race .* on global memory of 4096 bytes \+ 0: .* at kernel\.cu:\d+/),
    );
  });

  it("is found out where it overlaps the one before and never waits", async () => {
    const [count, hurry] = [step("count_up", [1], ["arena", 0]), step("hurry", [1], ["arena", 64])];
    const executor = create({ programs: [{ steps: [hurry, count] }, { steps: [count, hurry] }] }, { sm: 90 });
    await executor.run(0, symbols(1), symbols(1), [], []); // the first of a program overlaps nothing
    const error = await executor.run(1, symbols(1), symbols(1), [], []).then(String, String);
    expect(error).toContain("hurry: overlaps the kernel before, and no thread called wait_for_inputs");
  });

  it("rejects its run and later ones with what happened, and the executor closes", async () => {
    const executor = create({
      arrays: [output(4)],
      programs: [{ steps: [step("overrun", [1], ["arena", 0])] }],
    });
    const run = () => executor.run(0, symbols(1), symbols(1), [new Int32Array(1)], []);
    const both = await Promise.allSettled([run(), run()]);
    expect(both.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    expect(String((both[0] as PromiseRejectedResult).reason)).toMatch(
      /the device stopped: CUDA_ERROR_LAUNCH_FAILED .*overrun: out of bounds.*: this process can use the GPU no more; start it again/,
    );
    await expect(run()).rejects.toThrow("CUDA_ERROR_LAUNCH_FAILED");
    await executor.close();
  });
});
