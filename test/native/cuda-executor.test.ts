import { describe, expect, it } from "vitest";
import { calls } from "../support/fake-cuda.ts";
import { ARENA_BYTES, step, testKernels, weightsOf } from "./cuda-library.ts";
import { appending, cudaSession, input, output, symbols } from "./cuda-session.ts";

const session = cudaSession();
const { create } = session;

describe("a launch", () => {
  it("gets addresses in arena, weights, KV cache and arrays, and of symbols", async () => {
    const executor = create({
      arrays: [input(128), output(128)],
      programs: [
        {
          steps: [step("arrive", [1], ["array", 0], ["weights", 8], ["arena", 256], ["kv", 512], ["symbol", 0], ["array", 1])],
        },
      ],
    });
    const ids = Int32Array.of(7, 8, 9);
    const out = new Float32Array(4).fill(-1);
    const arena = new Uint8Array(ARENA_BYTES);
    for (let run = 1; run <= 3; run++) {
      const ms = await executor.run(0, symbols(3), symbols(3), [ids, out], [{ step: 0, offset: 0, into: arena }]);
      expect(ms).toBeGreaterThanOrEqual(0);
      // weights[2 + i] + ids[i]; KV cache and arena began as zeros; the fourth element is nobody's and stays poison.
      expect([...out.subarray(0, 3)]).toEqual([9000 + run, 11000 + run, 13000 + run]);
      expect(out[3]).toBeNaN();
    }
    const floats = new Float32Array(arena.buffer);
    expect([...floats.subarray(64, 67)]).toEqual([9, 11, 13]);
    expect(floats.filter((x) => x !== 0)).toHaveLength(3);
  });

  it("has the grid of the launch symbols, and its kernel reads the true ones", async () => {
    const grid = ["T", 4, "ceildiv", "B", "mul", "P", "add", "S", "add"];
    const executor = create({
      arrays: [output(20)],
      programs: [{ steps: [step("see", grid, ["symbol", 0], ["symbol", 1], ["symbol", 2], ["symbol", 3], ["array", 0])] }],
    });
    const seen = new Int32Array(5);
    for (const t of [13, 14, 16]) {
      await executor.run(0, symbols(t, 3, 2, 5), symbols(16, 4, 4, 8), [seen], []);
      expect([...seen]).toEqual([4 * 4 + 8 + 4, t, 3, 2, 5]);
    }
    expect(calls(session.log, "cuGraphLaunch")).toHaveLength(2);
  });

  it("of no blocks is left out", async () => {
    const executor = create({
      programs: [{ steps: [step("count_up", ["S"], ["arena", 0]), step("count_up", ["T"], ["arena", 0])] }],
    });
    const arena = new Uint8Array(4);
    await executor.run(0, symbols(1, 1, 0), symbols(1, 1, 0), [], [{ step: 1, offset: 0, into: arena }]);
    expect(new Int32Array(arena.buffer)[0]).toBe(1);
    expect(calls(session.log, "cuLaunchKernelEx")).toHaveLength(1);
  });

  it("may have more shared memory than 48 KB where the device has it", async () => {
    const big = {
      arrays: [output(4)],
      programs: [{ steps: [step("through_shared", [1], ["array", 0])] }],
    };
    const out = new Int32Array(1);
    await create(big, { sm: 80 }).run(0, symbols(1), symbols(1), [out], []);
    expect(out[0]).toBe(25_599);
    expect(calls(session.log, "cuFuncSetAttribute")).toEqual(["cuFuncSetAttribute 8 102400"]);
    expect(() => create(big, { sm: 86 })).toThrow(
      "kernel through_shared needs 102400 bytes of shared memory a block, NVIDIA Fake 86 (sm_86), driver 12.4 has 101376: " +
        "build again with `ingot compile <model> --target cuda:sm_80`",
    );
  });

  it("may have 48 KB beside what it declares itself", async () => {
    const { kernels } = testKernels();
    const asking = kernels.map((kernel) => ({ ...kernel, sharedBytes: Math.max(48 << 10, kernel.sharedBytes) }));
    const executor = create({ kernels: asking, programs: [{ steps: [step("count_up", [1], ["arena", 0])] }] }, { sm: 80 });
    await executor.run(0, symbols(1), symbols(1), [], []);
    expect(calls(session.log, "cuLaunchKernelEx")).toEqual(["cuLaunchKernelEx count_up blocks=1 threads=32 shared=49152"]);
  });

  it.each([
    ["sm_90", { sm: 90 }, "90a", ["", " overlaps", " overlaps"]],
    ["sm_90, unless it is built for sm_80 and has no wait in it", { sm: 90 }, "80", ["", "", ""]],
    ["sm_80, which cannot", { sm: 80 }, "90a", ["", "", ""]],
    ["a driver that cannot capture it", { sm: 90, driver: 12020 }, "90a", ["", "", ""]],
  ] as const)("may overlap the kernel before it on %s", async (_, device, architecture, overlaps) => {
    const count = step("count_up", [1], ["arena", 0]);
    const executor = create({ ...testKernels(architecture), programs: [{ steps: [count, count, count] }] }, device);
    const arena = new Uint8Array(4);
    const launches = () =>
      calls(session.log, "cuLaunchKernelEx").map((line) =>
        line.replace("cuLaunchKernelEx count_up blocks=1 threads=32 shared=0", ""),
      );
    await executor.run(0, symbols(1), symbols(1), [], []);
    expect(launches()).toEqual(overlaps);
    // What is watched step by step is not.
    await executor.run(0, symbols(1), symbols(1), [], [{ step: 2, offset: 0, into: arena }]);
    expect(launches().slice(3)).toEqual(["", "", ""]);
    expect(new Int32Array(arena.buffer)[0]).toBe(6);
  });
});

describe("a run", () => {
  it("brings all inputs by one copy, as far as they are used, and all outputs by another", async () => {
    const executor = create({
      arrays: [output(512), input(8192), input(64), output(4)],
      programs: [{ steps: [step("append", [1], ["array", 2], ["array", 3])] }],
    });
    const before = calls(session.log).length;
    const arrays = [new Int32Array(100), new Int32Array(10), Int32Array.of(4), new Int32Array(1)];
    await executor.run(0, symbols(1), symbols(1), arrays, []);
    const copies = calls(session.log)
      .slice(before)
      .filter((line) => line.startsWith("cuMemcpy"));
    // Symbols, 64 bytes and 40 of 8,192, each at a multiple of 256; then 4 bytes and 400 of 512.
    expect(copies).toEqual([`cuMemcpyHtoDAsync_v2 bytes=${512 + 40}`, `cuMemcpyDtoHAsync_v2 bytes=${256 + 400}`]);
  });

  it("is captured as a graph when its launch symbols come again, and replayed from then on", async () => {
    const executor = create(appending);
    const graphs = () => [calls(session.log, "cuStreamBeginCapture").length, calls(session.log, "cuGraphLaunch").length];
    const total = new Int32Array(1);
    const run = (x: number, t: number, program = 0) =>
      executor.run(program, symbols(t), symbols(8 * Math.ceil(t / 8)), [Int32Array.of(x), total], []);
    await run(0, 1, 1);
    await run(1, 5);
    expect(graphs()).toEqual([0, 0]);
    await run(2, 6);
    expect(graphs()).toEqual([1, 1]);
    await run(3, 8);
    await run(4, 1);
    expect(graphs()).toEqual([1, 3]);
    await run(5, 9);
    expect(graphs()).toEqual([1, 3]);
    await run(6, 16);
    expect(graphs()).toEqual([2, 4]);
    expect(total[0]).toBe(123456);
    expect(calls(session.log, "cuLaunchKernelEx append").map((line) => /blocks=\d+/.exec(line)![0])).toEqual([
      "blocks=8",
      "blocks=8",
      "blocks=16",
      "blocks=16",
    ]);
  });

  it("of the least recently used launch symbols gives up its graph when there are 64", async () => {
    const executor = create(appending);
    const total = new Int32Array(1);
    const run = (t: number) => executor.run(0, symbols(1), symbols(t), [Int32Array.of(0), total], []);
    for (let t = 1; t <= 66; t++) {
      await run(t);
      await run(t);
    }
    expect(calls(session.log, "cuGraphExecDestroy")).toHaveLength(2);
    const captured = calls(session.log, "cuStreamBeginCapture").length;
    await run(3);
    expect(calls(session.log, "cuStreamBeginCapture")).toHaveLength(captured);
    await run(2);
    await run(2);
    expect(calls(session.log, "cuStreamBeginCapture")).toHaveLength(captured + 1);
    // 4 went for 2: 3, captured before it, was used since.
    const replayed = calls(session.log, "cuGraphLaunch").length;
    await run(3);
    expect(calls(session.log, "cuGraphLaunch")).toHaveLength(replayed + 1);
  });

  it("with an array beyond its room moves the arrays, captures again and keeps outputs", async () => {
    const executor = create({
      arrays: [input(16), output(4), output(4)],
      programs: [
        {
          steps: [
            step("take_last", [1], ["array", 0], ["symbol", 0], ["array", 1]),
            step("append", [1], ["array", 1], ["array", 2]),
          ],
        },
        { steps: [step("set_to", [1], ["array", 0], ["array", 2])] },
      ],
    });
    const [last, total, earlier] = [new Int32Array(1), new Int32Array(1), new Int32Array(1)];
    const runInto = (into: Int32Array, program: number, ...numbers: number[]) =>
      executor.run(program, symbols(numbers.length), symbols(64), [Int32Array.from(numbers), last, into], []);
    const run = (program: number, ...numbers: number[]) => runInto(total, program, ...numbers);
    await run(1, 0);
    await run(0, 1);
    await run(0, 2);
    await run(0, 3);
    expect(calls(session.log, "cuGraphLaunch")).toHaveLength(2);
    const allocations = calls(session.log, "cuMemAlloc").length;
    const before = runInto(earlier, 0, 4);
    const grown = run(0, 0, 0, 0, 0, 5); // 20 bytes, while another run is in flight
    await before;
    expect(earlier[0]).toBe(1234);
    await grown;
    expect([last[0], total[0]]).toEqual([5, 12345]);
    expect(calls(session.log, "cuMemAlloc")).toHaveLength(allocations + 1);
    expect(calls(session.log, "cuGraphExecDestroy")).toHaveLength(1);
    await run(0, 0, 0, 0, 0, 0, 6); // fits what was made room for
    expect(calls(session.log, "cuMemAlloc")).toHaveLength(allocations + 1);
    expect(total[0]).toBe(123456);
    expect(calls(session.log, "cuStreamBeginCapture")).toHaveLength(2);
  });
});

describe("two runs in flight", () => {
  it("come back in order, the second on the stream before the first is done and after it on the device", async () => {
    const executor = create(appending);
    const order: string[] = [];
    const [first, second] = [new Int32Array(1), new Int32Array(1)];
    await executor.run(1, symbols(1), symbols(1), [Int32Array.of(0), first], []);
    const before = calls(session.log).length;
    const runs = [
      executor.run(0, symbols(20_000), symbols(20_000), [Int32Array.of(1), first], []).then(() => order.push("first")),
      executor.run(0, symbols(1), symbols(1), [Int32Array.of(2), second], []).then(() => order.push("second")),
    ];
    await expect(executor.run(0, symbols(1), symbols(1), [Int32Array.of(3), second], [])).rejects.toThrow(
      "two programs are still running",
    );
    expect(() => executor.profile(true)).toThrow("still running");
    await Promise.all(runs);
    expect(order).toEqual(["first", "second"]);
    expect([first[0], second[0]]).toEqual([1, 12]);
    const lines = calls(session.log).slice(before);
    const launched = lines.findIndex((line) => line.includes("append blocks=1 "));
    const done = lines.indexOf("cuEventQuery"); // the first that does not say "not ready"
    expect(launched).toBeGreaterThan(0);
    expect(launched).toBeLessThan(done);
  });

  it("400 in a row give what one after the other gives", async () => {
    const executor = create(appending, { order: "random", seed: 7 });
    const totals = Array.from({ length: 400 }, () => new Int32Array(1));
    await executor.run(1, symbols(1), symbols(1), [Int32Array.of(0), new Int32Array(1)], []);
    let previous: Promise<number> = Promise.resolve(0);
    let expected = 0;
    for (const [i, total] of totals.entries()) {
      const t = 1 + (i % 5);
      const run = executor.run(0, symbols(t), symbols(t), [Int32Array.of(i % 10), total], []);
      await previous;
      previous = run;
    }
    await previous;
    for (const [i, total] of totals.entries()) {
      expected = (Math.imul(expected, 10) + (i % 10)) | 0;
      expect(total[0]).toBe(expected);
    }
  });
});

describe("watching a run", () => {
  it("taps show the arena between two steps", async () => {
    const count = step("count_up", [1], ["arena", 4]);
    const executor = create({ programs: [{ steps: [count, count, count] }] });
    const into = [0, 1, 2].map(() => new Uint8Array(8));
    const taps = [2, 0, 1].map((at, i) => ({ step: at, offset: 0, into: into[i]! }));
    await executor.run(0, symbols(1), symbols(1), [], taps);
    expect(into.map((bytes) => [...new Int32Array(bytes.buffer)])).toEqual([
      [0, 3],
      [0, 1],
      [0, 2],
    ]);
  });

  it("profiling gives the milliseconds of each step, and of no graph", async () => {
    const slow = step("append", ["T"], ["array", 0], ["array", 1]);
    const fast = step("count_up", [1], ["arena", 0]);
    const executor = create({ arrays: [input(4), output(4)], programs: [{ steps: [fast, slow, fast] }] });
    const run = () => executor.run(0, symbols(40_000), symbols(40_000), [new Int32Array(1), new Int32Array(1)], []);
    await run();
    await run();
    const graphs = calls(session.log, "cuGraphLaunch").length;
    expect(executor.profile(true)).toHaveLength(0);
    const total = await run();
    const ms = executor.profile(false);
    expect(ms).toHaveLength(3);
    expect(ms[1]).toBeGreaterThan(ms[0]! + ms[2]!);
    expect(ms[0]! + ms[1]! + ms[2]!).toBeLessThanOrEqual(total * 1.001 + 0.001);
    expect(calls(session.log, "cuGraphLaunch")).toHaveLength(graphs);
    await run();
    expect(calls(session.log, "cuGraphLaunch")).toHaveLength(graphs + 1);
    expect(executor.profile(false)).toEqual(ms);
  });
});

describe("loading", () => {
  const MIB = 2 ** 20;

  it("uploads weights by pieces and tells how far it is", async () => {
    const seen: [number, number][] = [];
    const executor = create({
      weights: weightsOf(65 * MIB + 64),
      weightsBytes: 65 * MIB + 64,
      arrays: [input(4), output(4)],
      programs: [{ steps: [step("set_to", [1], ["weights", 4], ["array", 1])] }],
      onProgress: (done, total) => seen.push([done, total]),
    });
    const total = 65 * MIB + 64;
    expect(seen).toEqual([32 * MIB, 64 * MIB, total].map((done) => [done, total]));
    const out = new Int32Array(1);
    await executor.run(0, symbols(1), symbols(1), [Int32Array.of(0), out], []);
    expect(new Float32Array(out.buffer)[0]).toBe(1);
  });

  it("ends with what onProgress throws, and leaves nothing behind", () => {
    const stop = (): never => {
      throw new Error("enough");
    };
    const weights = { weights: weightsOf(65 * MIB), weightsBytes: 65 * MIB };
    expect(() => create({ ...weights, onProgress: stop })).toThrow("enough");
  });
});

describe("closing", () => {
  it("lets runs in flight finish, and is idempotent", async () => {
    const executor = create(appending);
    const total = new Int32Array(1);
    const run = (program: number, x: number, t: number) =>
      executor.run(program, symbols(t), symbols(t), [Int32Array.of(x), total], []);
    const order: string[] = [];
    const runs = [run(1, 5, 1).then(() => order.push("set")), run(0, 6, 2000).then(() => order.push("appended"))];
    const closed = executor.close().then(() => order.push("closed"));
    expect(executor.close()).toBe(executor.close());
    await expect(run(0, 7, 1)).rejects.toThrow("the executor is closed");
    await Promise.all([...runs, closed]);
    expect(order).toEqual(["set", "appended", "closed"]);
    expect(total[0]).toBe(56);
    expect(() => executor.profile(true)).toThrow("closed");
  });

  it("races with runs 100 times without losing a promise", async () => {
    for (let n = 0; n < 100; n++) {
      const executor = create(appending);
      const run = () => executor.run(0, symbols(1), symbols(1), [new Int32Array(1), new Int32Array(1)], []);
      const runs = Array.from({ length: n % 3 }, run);
      if (n % 4 === 0) await runs[0];
      const closings = [executor.close(), executor.close()];
      const settled = await Promise.allSettled([...runs, ...closings]);
      expect(settled.every(({ status }) => status === "fulfilled")).toBe(true);
    }
  });
});
