/** Right kernels come out right under every schedule and clean under the checker, which counts what their lines do to memory. */
import { describe, expect, it } from "vitest";
import { runSimt, type SimtAccess, type SimtOptions } from "../support/simt-kernel.ts";
import { bytesOf, floatsOf, integersOf, kernelCases, unwritten } from "./kernel-cases.ts";
import { lineOf } from "./planted-bug.ts";

const orders = ["forward", "reverse", "random", "greedy"] as const;

describe.each(Object.entries(kernelCases))("%s", (_, { kernel, launch, expectRight }) => {
  it.each(orders)("is right in %s order", (order) => {
    for (const args of runSimt(kernel, [launch, launch], { order, seed: 7 }).args) expectRight(args);
  });

  it.each(orders)("is right and clean under the checker in %s order", (order) => {
    for (const args of runSimt(kernel, [launch], { order, seed: 3, checked: true }).args) expectRight(args);
  });
});

const kernel = (name: string, text: string) => ({
  name,
  source: `#include "prelude.cuda.h"\nnamespace ingot {\n${text}\n}\n`,
});

describe("the emulator", () => {
  it("leaves memory that no launch writes as it was given, and gives each launch its own", () => {
    const increment = kernel("increment", "INGOT_KERNEL(32, 1) increment(int* x) { wait_for_inputs(); x[thread_id()] += 1; }");
    const x = Int32Array.from({ length: 40 }, (_, i) => i);
    const launch = { grid: 1, threads: 32, sharedBytes: 0, args: [bytesOf(x)] };
    const { args } = runSimt(increment, [launch, launch]);
    for (const [bytes] of args) expect([...integersOf(bytes)]).toEqual([...x].map((v) => (v < 32 ? v + 1 : v)));
  });

  it("gives arguments that share memory the same memory", () => {
    const copy = kernel(
      "copy",
      "INGOT_KERNEL(32, 1) copy(const int* x, int* y) { wait_for_inputs(); y[thread_id()] = x[thread_id()] + 1; }",
    );
    const x = Int32Array.from({ length: 32 }, (_, i) => i);
    const { args } = runSimt(copy, [{ grid: 1, threads: 32, sharedBytes: 0, args: [bytesOf(x), 0] }]);
    expect(args[0]![0]).toEqual(args[0]![1]);
    expect(integersOf(args[0]![0])[31]).toBe(32);
  });

  it("fills shared memory with NaN again for every block", () => {
    const stale = kernel(
      "stale",
      `INGOT_KERNEL(32, 1) stale(float* y) {
        INGOT_SHARED(float, s, 32);
        wait_for_inputs();
        y[block_id() * 32 + thread_id()] = s[thread_id()];
        s[thread_id()] = 1.0f;
      }`,
    );
    const { args } = runSimt(stale, [{ grid: 2, threads: 32, sharedBytes: 0, args: [unwritten(256).fill(0)] }]);
    expect([...floatsOf(args[0]![0])].every(Number.isNaN)).toBe(true);
  });

  it("runs the blocks of a random order differently for each seed", () => {
    const last = kernel(
      "last",
      `INGOT_KERNEL(32, 1) last(int* counter, int* block) {
        wait_for_inputs();
        if (is_last_to_come(counter, num_blocks()) && thread_id() == 0) block[0] = block_id();
      }`,
    );
    const launch = { grid: 64, threads: 32, sharedBytes: 0, args: [bytesOf(new Int32Array(1)), unwritten(4)] };
    const lastOf = (options: SimtOptions) => integersOf(runSimt(last, [launch], options).args[0]![1])[0];
    expect(lastOf({ order: "forward" })).toBe(63);
    expect(lastOf({ order: "reverse" })).toBe(0);
    const lasts = [1, 2, 3, 4].map((seed) => lastOf({ order: "random", seed }));
    expect(new Set(lasts).size).toBeGreaterThan(2);
    expect(lastOf({ order: "random", seed: 2 })).toBe(lasts[1]);
  });

  it("hands back a kernel's text that does not compile with the compiler's words", () => {
    expect(() => runSimt(kernel("wrong", "INGOT_KERNEL(32, 1) wrong(float* y) { threadIdx.x; }"), [])).toThrow(/threadIdx/);
  });
});

describe("access counts", () => {
  const transpose = kernel(
    "transpose",
    `INGOT_KERNEL(32, 1) transpose(const float* x, float* y) {
  INGOT_SHARED(float, narrow, 1024);
  INGOT_SHARED(float, padded, 1056);
  wait_for_inputs();
  const int t = thread_id();
  for (int i = 0; i < 32; ++i) {
    const float v = x[i * 32 + t];
    narrow[t * 32 + i] = v;
    padded[t * 33 + i] = v;
    y[t * 32 + i] = v;
  }
  sync_block();
  const Bytes16 b = load16(x + 4 * t);
  store16_shared(padded + 4 * t, b);
  const Bytes16 c = load16_shared(narrow + 32 * t);
  store16(y + 32 * t, c);
}`,
  );
  const memory = Float32Array.from({ length: 1024 }, (_, i) => i);
  const launch = { grid: 1, threads: 32, sharedBytes: 0, args: [bytesOf(memory), unwritten(4096)] };
  const { accesses } = runSimt(transpose, [launch], { checked: true });
  const at = (text: string): SimtAccess[] => accesses.filter(({ line }) => line === lineOf(transpose.source, text));

  it("a row read by neighbouring lanes takes its 4 sectors", () => {
    const line = lineOf(transpose.source, "x[i * 32");
    expect(at("x[i * 32")).toEqual([{ line, kind: "read", space: "global", requests: 32, perRequest: 4, ideal: 4 }]);
  });
  it("a column written by neighbouring lanes takes 32 sectors in place of 4", () => {
    expect(at("y[t * 32")).toMatchObject([{ kind: "write", requests: 32, perRequest: 32, ideal: 4 }]);
  });
  it("a column of 32 words a row meets in one bank, one of 33 does not", () => {
    expect(at("narrow[t")).toMatchObject([{ kind: "write", space: "shared", requests: 32, perRequest: 32, ideal: 1 }]);
    expect(at("padded[t")).toMatchObject([{ kind: "write", space: "shared", requests: 32, perRequest: 1, ideal: 1 }]);
  });
  it("16-byte accesses are one request of a warp each: 16 sectors, 4 wavefronts", () => {
    expect(at("load16(x")).toMatchObject([{ kind: "read", space: "global", requests: 1, perRequest: 16, ideal: 16 }]);
    expect(at("store16_shared(")).toMatchObject([{ kind: "write", space: "shared", requests: 1, perRequest: 4, ideal: 4 }]);
  });
  it("16 bytes of each row of 128 bytes meet in 4 banks: 32 wavefronts in place of 4", () => {
    expect(at("load16_shared(narrow")).toMatchObject([{ requests: 1, perRequest: 32, ideal: 4 }]);
    expect(at("store16(y")).toMatchObject([{ requests: 1, perRequest: 32, ideal: 16 }]);
  });
  it("an unchecked run counts nothing", () => {
    expect(runSimt(transpose, [launch]).accesses).toEqual([]);
  });
});
