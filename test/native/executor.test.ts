import { afterEach, describe, expect, it } from "vitest";
import type { NativeArg, NativeExecutor, NativeStep, StepTypedArray } from "../../runtime/native.ts";
import { compileKernels, executorOptions, testAddon, testKernels, weightsFile } from "./kernel-library.ts";

const native = testAddon();
const executors: NativeExecutor[] = [];

function create(changes: Parameters<typeof executorOptions>[0]): NativeExecutor {
  const executor = native.createExecutor(executorOptions(changes));
  executors.push(executor);
  return executor;
}

afterEach(async () => {
  await Promise.all(executors.splice(0).map((executor) => executor.close()));
});

const symbols = (t: number, b = 1, s = 1, p = 1): Int32Array => Int32Array.of(t, b, s, p);
const step = (
  kernel: string,
  grid: NativeStep["grid"],
  args: readonly NativeArg[],
  more: Partial<NativeStep> = {},
): NativeStep => ({
  kernel,
  grid,
  args,
  chunk: 1,
  serialUnits: 0,
  ...more,
});

/** A small deterministic generator, so that a failing program can be found again. */
function randomInts(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

describe("the executor runs every unit", () => {
  it.each([1, 2, 3, 4])("exactly once, in ranges that start at multiples of the chunk, with %i threads", async (threads) => {
    for (const [units, chunk] of [
      [1, 1],
      [5, 4],
      [64, 4],
      [1000, 1],
      [1003, 8],
      [40_000, 4],
    ] as const) {
      const arrays = [new Int32Array(units), new Int32Array(units), new Int32Array(units)];
      const executor = create({
        threads,
        numArrays: 3,
        programs: [
          {
            steps: [
              step(
                "trace",
                ["T"],
                [
                  ["array", 0],
                  ["array", 1],
                  ["array", 2],
                ],
                { chunk },
              ),
            ],
          },
        ],
      });
      await executor.run(0, symbols(units), arrays, []);
      const [counts, begins, ends] = arrays as [Int32Array, Int32Array, Int32Array];
      expect(counts.every((count) => count === 1)).toBe(true);
      expect(begins.every((begin, i) => begin % chunk === 0 && begin <= i)).toBe(true);
      expect(ends.every((end, i) => (end % chunk === 0 || end === units) && end > i)).toBe(true);
    }
  });

  it("on a grid computed from the symbols", async () => {
    const counts = new Int32Array(100);
    const [begins, ends] = [new Int32Array(100), new Int32Array(100)];
    const args: NativeArg[] = [
      ["array", 0],
      ["array", 1],
      ["array", 2],
    ];
    const executor = create({
      numArrays: 3,
      programs: [{ steps: [step("trace", ["T", 16, "ceildiv", "P", "mul", "B", "add"], args)] }],
    });
    await executor.run(0, symbols(33, 7, 1, 5), [counts, begins, ends], []);
    expect(counts.reduce((a, b) => a + b)).toBe(3 * 5 + 7);
    await executor.run(0, symbols(0, 0, 0, 0), [counts, begins, ends], []);
    expect(counts.reduce((a, b) => a + b)).toBe(3 * 5 + 7);
  });

  it("with weights mapped from the file and scratch of its own", async () => {
    const sums = new Float32Array(512);
    const executor = create({
      weights: weightsFile(512 * 64 * 4),
      weightsBytes: 512 * 64 * 4,
      threads: 3,
      numArrays: 1,
      programs: [
        {
          steps: [
            step(
              "sum",
              ["T"],
              [
                ["weights", 0],
                ["array", 0],
              ],
              { chunk: 2 },
            ),
          ],
        },
      ],
    });
    await executor.run(0, symbols(512), [sums], []);
    expect(sums[0]).toBe((63 * 64) / 2);
    expect([...sums]).toEqual(Array.from({ length: 512 }, (_, i) => i * 4096 + 2016));
  });
});

const BUFFERS = 4;
const WIDTH = 256;

interface MixStep {
  readonly source: number;
  readonly target: number;
  readonly units: number;
  readonly chunk: number;
  readonly serialUnits: number;
}

/** What the steps mean: one after the other on one thread. */
function interpret(arena: Uint32Array, steps: readonly MixStep[], t: number): void {
  for (const { source, target, units } of steps) {
    const [from, to] = [source * WIDTH, target * WIDTH];
    for (let i = 0; i < units; i++) {
      const value = Math.imul(arena[from + ((i * 37 + t) & 255)]!, 2654435761 | 0) ^ i;
      const old = arena[to + i]!;
      arena[to + i] = ((old << 5) | (old >>> 27)) + value;
    }
  }
}

describe("barriers order the steps", () => {
  it.each([1, 2, 3, 4])("in 2,500 random programs, with %i threads", async (threads) => {
    const random = randomInts(threads);
    const programs = Array.from({ length: 500 }, () =>
      Array.from({ length: 1 + random(12) }, (): MixStep => {
        const source = random(BUFFERS);
        const target = (source + 1 + random(BUFFERS - 1)) % BUFFERS;
        const serialUnits = random(3) === 0 ? 40 : 0;
        return { source, target, units: random(4) === 0 ? random(8) : random(WIDTH + 1), chunk: 1 + random(9), serialUnits };
      }),
    );
    const executor = create({
      threads,
      arenaBytes: BUFFERS * WIDTH * 4,
      numArrays: 0,
      programs: programs.map((steps) => ({
        steps: steps.map((s) =>
          step(
            "mix",
            [s.units],
            [
              ["arena", s.source * WIDTH * 4],
              ["arena", s.target * WIDTH * 4],
            ],
            { chunk: s.chunk, serialUnits: s.serialUnits },
          ),
        ),
      })),
    });
    const expected = new Uint32Array(BUFFERS * WIDTH);
    const found = new Uint32Array(BUFFERS * WIDTH);
    for (let n = 0; n < 2500; n++) {
      const p = random(programs.length);
      const t = random(1000);
      const steps = programs[p]!;
      interpret(expected, steps, t);
      await executor.run(p, symbols(t), [], [{ step: steps.length - 1, offset: 0, into: new Uint8Array(found.buffer) }]);
      if (Buffer.compare(Buffer.from(found.buffer), Buffer.from(expected.buffer)) !== 0)
        expect({ n, p, steps }).toBe("as interpreted");
    }
    expect(found.some((word) => word !== 0)).toBe(true);
  });

  it("and a tap sees the arena between two steps, not after the last", async () => {
    const steps = [0, 1, 2, 3].map(
      (k): MixStep => ({ source: k, target: (k + 1) % 4, units: WIDTH, chunk: 3, serialUnits: k === 1 ? 999 : 0 }),
    );
    const executor = create({
      threads: 4,
      numArrays: 0,
      programs: [
        {
          steps: steps.map((s) =>
            step(
              "mix",
              [s.units],
              [
                ["arena", s.source * 1024],
                ["arena", s.target * 1024],
              ],
              s,
            ),
          ),
        },
      ],
    });
    const taps = steps.map((_, k) => ({ step: 3 - k, offset: 0, into: new Uint8Array(4096) }));
    const expected = new Uint32Array(BUFFERS * WIDTH);
    await executor.run(0, symbols(5), [], taps);
    steps.forEach((s, k) => {
      interpret(expected, [s], 5);
      expect(new Uint32Array(taps[3 - k]!.into.buffer)).toEqual(expected);
    });
  });
});

describe("a run", () => {
  const axpy: NativeStep = step(
    "axpy",
    ["T", 8, "mul"],
    [
      ["array", 0],
      ["array", 1],
    ],
  );

  it("works 10,000 times in a row", async () => {
    const [x, y] = [new Float32Array(16).fill(1), new Float32Array(16)];
    const executor = create({ numArrays: 2, programs: [{ steps: [axpy, axpy] }] });
    for (let n = 0; n < 10_000; n++) await executor.run(0, symbols(2), [x, y], []);
    expect(y.every((value) => value === 40_000)).toBe(true);
  });

  it("does not block the event loop", async () => {
    const executor = create({ numArrays: 0, programs: [{ steps: [step("wait_ms", [2], [])] }] });
    let ticks = 0;
    const timer = setInterval(() => ticks++, 10);
    const ms = await executor.run(0, symbols(300), [], []);
    clearInterval(timer);
    expect(ms).toBeGreaterThanOrEqual(299);
    expect(ticks).toBeGreaterThan(8);
  });

  it("rejects while another is running, and the first one still completes", async () => {
    const executor = create({ numArrays: 0, programs: [{ steps: [step("wait_ms", [2], [])] }] });
    const first = executor.run(0, symbols(50), [], []);
    await expect(executor.run(0, symbols(50), [], [])).rejects.toThrow("still running");
    expect(() => executor.profile(true)).toThrow("still running");
    await first;
    await executor.run(0, symbols(1), [], []);
  });

  it("keeps its arrays alive through garbage collection", async () => {
    const executor = create({ numArrays: 2, programs: [{ steps: [step("wait_ms", [1], []), axpy] }] });
    for (let n = 0; n < 20; n++) {
      const arrays: StepTypedArray[] = [new Float32Array(400).fill(1), new Float32Array(400)];
      const y = new WeakRef(arrays[1]!);
      const running = executor.run(0, symbols(5), arrays, []);
      arrays.length = 0;
      let garbage = 0;
      for (let k = 0; k < 200; k++) garbage += new Float32Array(10_000).length;
      await running;
      expect(garbage).toBe(2_000_000);
      expect(y.deref()?.[0] ?? 5).toBe(5);
    }
  });

  it("reports the milliseconds of each step when asked", async () => {
    const executor = create({
      numArrays: 0,
      programs: [{ steps: [step("wait_ms", [1], []), step("nothing", [100], []), step("wait_ms", [2], [])] }],
    });
    expect(executor.profile(true)).toHaveLength(0);
    const total = await executor.run(0, symbols(100), [], []);
    const ms = executor.profile(false);
    expect(ms).toHaveLength(3);
    expect(ms[0]).toBeGreaterThanOrEqual(99);
    expect(ms[1]).toBeLessThan(90); // its 100 units are far from a hundred waits
    expect(ms[2]).toBeGreaterThanOrEqual(99);
    expect(ms[0]! + ms[1]! + ms[2]!).toBeLessThanOrEqual(total + 1);
  });

  it("rejects a grid that overflows or divides by zero, and the next run works", async () => {
    const executor = create({
      numArrays: 0,
      programs: [
        { steps: [step("nothing", ["T", 2 ** 40, "mul", 2 ** 8, "mul"], [])] },
        { steps: [step("nothing", [8, "T", "ceildiv"], [])] },
        { steps: [step("nothing", ["T"], [])] },
      ],
    }).run;
    await expect(executor(0, symbols(2), [], [])).rejects.toThrow(/step 0 \(nothing\): grid exceeds/);
    await expect(executor(1, symbols(0), [], [])).rejects.toThrow(/step 0 \(nothing\): grid divides by 0/);
    await executor(2, symbols(3), [], []);
  });
});

describe("closing", () => {
  it("is idempotent and lets a running program finish", async () => {
    const executor = create({ numArrays: 0, programs: [{ steps: [step("wait_ms", [2], []), step("wait_ms", [2], [])] }] });
    const order: string[] = [];
    const running = executor.run(0, symbols(40), [], []).then(() => order.push("ran"));
    const closed = executor.close().then(() => order.push("closed"));
    expect(executor.close()).toBe(executor.close());
    await expect(executor.run(0, symbols(1), [], [])).rejects.toThrow("the executor is closed");
    await Promise.all([running, closed]);
    expect(order).toEqual(["ran", "closed"]);
    await executor.close();
    expect(() => executor.profile(true)).toThrow("closed");
  });

  it("races with runs 300 times without losing a promise", async () => {
    const random = randomInts(7);
    for (let n = 0; n < 300; n++) {
      const executor = native.createExecutor(
        executorOptions({
          threads: 1 + random(4),
          numArrays: 0,
          programs: [{ steps: Array.from({ length: 6 }, () => step("nothing", [64], [])) }],
        }),
      );
      const running = random(4) > 0 ? executor.run(0, symbols(1), [], []) : Promise.resolve(0);
      if (random(2) === 0) await running;
      const again = executor.close();
      expect(await Promise.allSettled([running, again, executor.close()])).toMatchObject([
        { status: "fulfilled" },
        { status: "fulfilled" },
        { status: "fulfilled" },
      ]);
    }
  });
});

describe("the boundary refuses", () => {
  const good: NativeStep = step("nothing", ["T"], [["arena", 0]]);
  const program = (changes: Record<string, unknown>) => ({ programs: [{ steps: [{ ...good, ...changes }] }] });
  const wrongAbi = compileKernels("wrong-abi", 'extern "C" const unsigned ingot_abi; const unsigned ingot_abi = 99;');
  const notKernels = compileKernels("not-kernels", "int nothing_here;");
  const cases: [name: string, changes: Record<string, unknown>, message: RegExp][] = [
    ["a library that is not there", { library: "/no/such/kernels.so" }, /cannot load the kernel library.*kernels\.so/],
    ["a library of another ABI", { library: wrongAbi }, /built for kernel ABI 99, expected 1/],
    ["a library without the ABI", { library: notKernels }, /no symbol ingot_abi/],
    ["a missing symbol", program({ kernel: "gemm" }), /programs\[0\]\.steps\[0\]\.kernel: the library has no symbol gemm/],
    ["weights that are not there", { weights: "/no/such/weights.bin" }, /cannot open \/no\/such\/weights\.bin/],
    [
      "truncated weights",
      { weights: testKernels(), weightsBytes: 1 << 30 },
      /has \d+ bytes, expected a file of at least 1073741824/,
    ],
    ["weights that are a folder", { weights: "/" }, /expected a file/],
    ["an arena beyond the address space", { arenaBytes: 2 ** 52 }, /cannot map 4503599627370496 bytes for the arena/],
    ["an arena offset outside", program({ args: [["arena", 4096]] }), /args\[0\]: arena offset 4096, expected less than 4096/],
    ["a weights offset outside", program({ args: [["weights", 0]] }), /args\[0\]: weights offset 0, expected less than 0/],
    [
      "a kv offset outside",
      program({
        args: [
          ["arena", 0],
          ["kv", 64],
        ],
      }),
      /args\[1\]: kv offset 64/,
    ],
    ["an array outside", program({ args: [["array", 13]] }), /args\[0\]: array 13, expected 0 to 12/],
    ["an unknown space", program({ args: [["stack", 0]] }), /args\[0\]\[0\] must be arena, weights, kv or array/],
    ["a fractional offset", program({ args: [["arena", 0.5]] }), /args\[0\]\[1\] must be a whole number/],
    ["an unknown word in a grid", program({ grid: ["T", 2, "sub"] }), /grid\[2\] must be a number/],
    ["an unbalanced grid", program({ grid: ["T", "mul"] }), /grid: grid takes an operand from an empty stack/],
    ["a grid that leaves two values", program({ grid: ["T", 2] }), /grid leaves 2 values/],
    ["an empty grid", program({ grid: [] }), /grid leaves 0 values/],
    ["a grid deeper than any plan", program({ grid: Array.from({ length: 65 }, () => 1) }), /grid is too deep/],
    ["a chunk of 0", program({ chunk: 0 }), /chunk must be a whole number from 1/],
    ["no threads", { threads: 0 }, /options\.threads must be a whole number from 1 to 1024, found 0/],
    ["NaN threads", { threads: Number.NaN }, /options\.threads must be a whole number/],
    ["a string for a number", { kvBytes: "1 GB" }, /options\.kvBytes must be a number/],
    ["a path with a NUL", { weights: "a\0b" }, /options\.weights must be a string/],
    ["a missing field", { pin: undefined }, /options\.pin must be a boolean/],
    ["programs that are no array", { programs: {} }, /options\.programs must be an array/],
  ];
  it.each(cases)("%s", (_, changes, message) => {
    expect(() => native.createExecutor(executorOptions({ programs: [{ steps: [good] }], ...changes }))).toThrow(message);
  });

  it("bad arguments of a run, naming them, and stays usable", async () => {
    const executor = create({ programs: [{ steps: [good] }], numArrays: 1 });
    const run = executor.run as (...args: unknown[]) => Promise<number>;
    const into = new Uint8Array(64);
    const arrays = [new Int32Array(1)];
    expect(() => run(1, symbols(1), arrays, [])).toThrow(/program must be a whole number from 0 to 0, found 1/);
    expect(() => run(0, new Int32Array(3), arrays, [])).toThrow(/symbols must be an Int32Array of 4/);
    expect(() => run(0, symbols(-1), arrays, [])).toThrow(/symbols\[0\] must not be negative/);
    expect(() => run(0, symbols(1), [], [])).toThrow(/arrays must hold 1 typed arrays, found 0/);
    expect(() => run(0, symbols(1), [new Float64Array(1)], [])).toThrow(/arrays\[0\] must be an Int32Array or a Float32Array/);
    expect(() => run(0, symbols(1), arrays, [{ step: 1, offset: 0, into }])).toThrow(
      /taps\[0\]\.step must be a whole number from 0 to 0/,
    );
    expect(() => run(0, symbols(1), arrays, [{ step: 0, offset: 4033, into }])).toThrow(
      /taps\[0\]\.offset must be a whole number from 0 to 4032/,
    );
    expect(() => run(0, symbols(1), arrays, [{ step: 0, offset: 0, into: new Uint8Array(5000) }])).toThrow(
      /taps\[0\]\.into is larger than the arena/,
    );
    expect(() => run()).toThrow(/program must be a number/);
    expect(await run(0, symbols(1), arrays, [{ step: 0, offset: 4032, into }])).toBeGreaterThanOrEqual(0);
  });
});
