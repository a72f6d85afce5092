import { join } from "node:path";
import { afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { CudaExecutorOptions } from "../../runtime/native.ts";
import { buildFakeCuda, calls, type FakeDevice, setFakeDevice } from "../support/fake-cuda.ts";
import { cudaOptions, kernelOf, step, temporary } from "./cuda-library.ts";
import { testAddon, testKernels } from "./kernel-library.ts";

const native = testAddon();
let log = "";

const create = (changes: Record<string, unknown>, device: FakeDevice = {}) => {
  setFakeDevice({ log, ...device });
  return native.createCudaExecutor(cudaOptions(changes as Partial<CudaExecutorOptions>));
};

// Builds driver and kernels, which takes longer than a test may.
beforeAll(() => void cudaOptions({}));

beforeEach(() => {
  log = join(temporary(), "driver.log");
});

// Whatever was refused left nothing on the device.
afterEach(() => {
  expect(leaks()).toEqual([]);
});
const leaks = (): string[] => {
  try {
    return calls(log, "leak");
  } catch {
    return []; // the driver was never reached
  }
};

const MIB = 2 ** 20;
const INSTALL = "install NVIDIA's driver (12.0 or later), or compile the model for the CPU with --target native";

/** The first bytes of a cubin, as nvcc 13 writes them. */
function cubin(sm: number): Uint8Array {
  const bytes = new Uint8Array(64);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0x41, 8]);
  const view = new DataView(bytes.buffer);
  view.setUint16(18, 190, true);
  view.setUint32(48, (sm << 8) | 0x6000004, true);
  return bytes;
}

/** A fat binary of entries without payload: kind 1 is PTX, 2 a cubin. */
function fatbin(...entries: readonly { readonly kind: 1 | 2; readonly sm: number; readonly isSpecific?: boolean }[]): Uint8Array {
  const bytes = new Uint8Array(16 + 64 * entries.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 0xba55ed50, true);
  view.setUint16(4, 1, true);
  view.setUint16(6, 16, true);
  for (const [i, { kind, sm, isSpecific }] of entries.entries()) {
    const at = 16 + 64 * i;
    view.setUint16(at, kind, true);
    view.setUint32(at + 4, 64, true);
    view.setUint32(at + 28, sm, true);
    view.setUint32(at + 40, isSpecific ? 0x100011 : 0x11, true);
  }
  return bytes;
}

const ptx = (version: string, target: string): Uint8Array =>
  new TextEncoder().encode(`//\n.version ${version}\n.target ${target}, debug\n.address_size 64\n`);

describe("facts of a device", () => {
  it("are the driver's", () => {
    setFakeDevice({ sm: 86, memory: 64 * MIB, driver: 12060, log });
    expect(native.cudaFacts(buildFakeCuda(), 0)).toEqual({
      name: "NVIDIA Fake 86",
      computeCapability: [8, 6],
      driverVersion: "12.6",
      multiprocessors: 4,
      totalBytes: 64 * MIB,
      sharedBytesPerBlock: 101376,
    });
    expect(calls(log, "cuDevicePrimaryCtxRetain")).toHaveLength(0);
    expect(native.cudaFreeBytes(buildFakeCuda(), 0)).toBe(64 * MIB);
    expect(calls(log, "cuDevicePrimaryCtxRelease")).toHaveLength(1);
  });

  it("are refused with a remedy where there is no driver, no device or none of that number", () => {
    setFakeDevice({ devices: 0, log });
    expect(() => native.cudaFacts(buildFakeCuda(), 0)).toThrow(
      "cuInit failed: CUDA_ERROR_NO_DEVICE (no CUDA-capable device is detected): the driver sees no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES",
    );
    setFakeDevice({ devices: 2, log });
    expect(() => native.cudaFacts(buildFakeCuda(), 2)).toThrow(
      "there is no CUDA device 2: the driver sees 2; choose one of them, see nvidia-smi and CUDA_VISIBLE_DEVICES",
    );
    expect(() => native.cudaFacts("/no/such/libcuda.so.1", 0)).toThrow(
      `no NVIDIA driver: /no/such/libcuda.so.1: cannot open shared object file: No such file or directory: ${INSTALL}`,
    );
    expect(() => native.cudaFacts(testKernels(), 0)).toThrow(
      /has no function cuInit: the NVIDIA driver is too old; install NVIDIA's driver/,
    );
    expect(() => (native.cudaFacts as (...args: unknown[]) => unknown)(1, 0)).toThrow("driver must be a string");
    expect(() => native.cudaFacts(buildFakeCuda(), -1)).toThrow("device must be a whole number from 0");
  });
});

describe("loading says what is wrong and what to do", () => {
  it("when kernels are built for another GPU", () => {
    const text = (built: string, remedy: string, sm = 86) =>
      `it is built for ${built}, this is an NVIDIA Fake ${sm} (sm_${sm}), driver 12.4: build again with \`ingot compile <model> --target cuda:${remedy}\``;
    const load = (image: Uint8Array, sm: 80 | 86 | 90) => () => create(kernelOf(image), { sm });
    expect(load(cubin(90), 86)).toThrow(`kernel gemm does not load: CUDA_ERROR_NO_BINARY_FOR_GPU`);
    expect(load(cubin(90), 86)).toThrow(text("sm_90", "sm_80"));
    expect(load(cubin(80), 90)).toThrow(text("sm_80", "sm_90a", 90));
    const fat = fatbin({ kind: 2, sm: 80 }, { kind: 2, sm: 90, isSpecific: true }, { kind: 1, sm: 80 });
    expect(load(fat, 86)).toThrow(text("sm_80, sm_90a, compute_80", "sm_80"));
    expect(load(ptx("8.0", "sm_90a"), 86)).toThrow(/CUDA_ERROR_INVALID_PTX .*: ptxas fatal {3}: target sm_90a: it is built/);
    expect(load(ptx("8.0", "sm_90a"), 86)).toThrow(text("sm_90a", "sm_80"));
  });

  it("when the driver is older than the compiler that made the kernels", () => {
    const load = () => create(kernelOf(ptx("9.0", "sm_80")), { sm: 90 });
    expect(load).toThrow(
      /kernel gemm does not load: CUDA_ERROR_UNSUPPORTED_PTX_VERSION .*: driver 12\.4 is older than the compiler of the kernels: update the driver, or/,
    );
    // Machine code for this GPU that the driver does not know the format of.
    expect(() => create(kernelOf(cubin(90)), { sm: 90, driver: 11080 })).toThrow(/driver 11\.8 is older than the compiler/);
  });

  it("when an image is damaged", () => {
    expect(() => create(kernelOf(new Uint8Array(64)))).toThrow(
      /kernel gemm does not load: CUDA_ERROR_INVALID_IMAGE .*: the kernel library is damaged: build it again with `ingot build`; or driver 12\.4 is older/,
    );
  });

  it("when a kernel is not in its image, or the library file too short", () => {
    const { kernels } = cudaOptions({});
    expect(() => create({ kernels: [{ ...kernels[0]!, name: "missing" }] })).toThrow(
      /has no kernel missing at offset 512: build it again/,
    );
    expect(() => create({ kernels: [{ ...kernels[0]!, offset: 2 ** 31 }] })).toThrow(
      /kernels\.bin has \d+ bytes, expected a file of at least/,
    );
    expect(() => create({ library: "/no/such/kernels.bin" })).toThrow("cannot open /no/such/kernels.bin");
  });

  it("when the device's memory does not hold it, with the numbers", () => {
    expect(() => create({ kvBytes: 12 * MIB, arenaBytes: 3 * MIB }, { memory: 14 * MIB })).toThrow(
      "not enough memory on NVIDIA Fake 90 (sm_90), driver 12.4: weights take 0.0 MiB, the arena 3.0 MiB, the KV cache 12.0 MiB, " +
        "and 14.0 MiB of 14.0 MiB are free: lower --kv-cache-memory, --max-model-len, --max-num-seqs or --max-num-batched-tokens, " +
        "or end what else uses the GPU",
    );
  });

  it("when weights are short or missing", () => {
    expect(() => create({ weightsBytes: 4096 })).toThrow(/weights\.bin has 1024 bytes, expected a file of at least 4096/);
    expect(() => create({ weights: "/no/such/weights.bin" })).toThrow("cannot open /no/such/weights.bin");
  });
});

describe("the boundary refuses", () => {
  const good = step("count_up", ["T"], ["arena", 0]);
  const program = (changes: Record<string, unknown>) => ({ programs: [{ steps: [{ ...good, ...changes }] }] });
  const kernel = (changes: Record<string, unknown>) => ({ kernels: [{ ...cudaOptions({}).kernels[0]!, ...changes }] });
  const cases: [name: string, changes: () => Record<string, unknown>, message: string | RegExp][] = [
    ["a missing driver", () => ({ driver: undefined }), "options.driver must be a string"],
    ["a device that is no number", () => ({ device: "0" }), "options.device must be a number"],
    ["a fractional device", () => ({ device: 0.5 }), "options.device must be a whole number from 0"],
    [
      "a kernel index outside",
      () => program({ kernel: 9 }),
      "options.programs[0].steps[0].kernel must be a whole number from 0 to 8, found 9",
    ],
    ["a kernel by name", () => program({ kernel: "count_up" }), "steps[0].kernel must be a number"],
    [
      "an arena offset outside",
      () => program({ args: [["arena", 4096]] }),
      "steps[0].args[0]: arena offset 4096, expected less than 4096",
    ],
    [
      "a weights offset outside",
      () => program({ args: [["weights", 1024]] }),
      "args[0]: weights offset 1024, expected less than 1024",
    ],
    [
      "a kv offset outside",
      () => program({ args: [good.args[0], ["kv", 9999]] }),
      "args[1]: kv offset 9999, expected less than 4096",
    ],
    ["an array outside", () => program({ args: [["array", 0]] }), "args[0]: array 0, expected less than 0"],
    ["a symbol outside", () => program({ args: [["symbol", 4]] }), "args[0]: symbol 4, expected less than 4"],
    ["an unknown space", () => program({ args: [["stack", 0]] }), "args[0][0] must be arena, weights, kv, array or symbol"],
    ["an unbalanced grid", () => program({ grid: ["T", "mul"] }), "grid: grid takes an operand from an empty stack"],
    [
      "an unknown word in a grid",
      () => program({ grid: ["X"] }),
      "grid[0] must be a number, T, B, S, P, mul, add, ceildiv or min",
    ],
    [
      "a kernel of no threads",
      () => kernel({ threads: 0 }),
      "options.kernels[0].threads must be a whole number from 1 to 1024, found 0",
    ],
    ["an image of no bytes", () => kernel({ bytes: 0 }), "options.kernels[0].bytes must be a whole number from 1"],
    ["an array without a size", () => ({ arrays: [{ isOutput: true }] }), "options.arrays[0].bytes must be a number"],
    ["an array of unknown direction", () => ({ arrays: [{ bytes: 4 }] }), "options.arrays[0].isOutput must be a boolean"],
    ["onProgress that is no function", () => ({ onProgress: 1 }), "options.onProgress must be a function"],
  ];
  it.each(cases)("%s", (_, changes, message) => {
    expect(() => create({ programs: [{ steps: [good] }], ...changes() })).toThrow(message);
  });

  it("a symbol as an argument on the CPU", () => {
    const cpu = { library: testKernels(), weights: testKernels(), weightsBytes: 0, arenaBytes: 64, kvBytes: 0, scratchBytes: 0 };
    const steps = [{ kernel: "nothing", grid: [1], chunk: 1, serialUnits: 0, args: [["symbol", 0] as const] }];
    expect(() => native.createExecutor({ ...cpu, threads: 1, pin: false, abi: 1, programs: [{ steps }], numArrays: 0 })).toThrow(
      "args[0][0] must be arena, weights, kv or array",
    );
  });

  it("bad arguments of a run, naming them, and stays usable", async () => {
    const executor = create({
      programs: [{ steps: [good] }, { steps: [step("count_up", ["T", 2 ** 31, "mul"], ["arena", 0])] }],
      arrays: [{ bytes: 4, isOutput: false }],
    });
    const run = executor.run as (...args: unknown[]) => Promise<number>;
    const four = (t: number) => Int32Array.of(t, 1, 1, 1);
    const arrays = [new Int32Array(1)];
    expect(() => run(2, four(1), four(1), arrays, [])).toThrow("program must be a whole number from 0 to 1, found 2");
    expect(() => run(0, new Int32Array(3), four(1), arrays, [])).toThrow("symbols must be an Int32Array of 4 (T, B, S, P)");
    expect(() => run(0, four(1), arrays, [])).toThrow("launchSymbols must be an Int32Array of 4 (T, B, S, P)");
    expect(() => run(0, four(-1), four(1), arrays, [])).toThrow("symbols[0] must not be negative");
    expect(() => run(0, four(5), four(4), arrays, [])).toThrow("launchSymbols[0] must be at least symbols[0], 5, found 4");
    expect(() => run(0, four(1), four(1), [], [])).toThrow("arrays must hold 1 typed arrays, found 0");
    expect(() => run(0, four(1), four(1), [new Float64Array(1)], [])).toThrow(
      "arrays[0] must be an Int32Array or a Float32Array",
    );
    expect(() => run(0, four(1), four(1), arrays, [{ step: 1, offset: 0, into: new Uint8Array(4) }])).toThrow(
      "taps[0].step must be a whole number from 0 to 0",
    );
    expect(() => run(0, four(1), four(1), arrays, [{ step: 0, offset: 4093, into: new Uint8Array(4) }])).toThrow(
      "taps[0].offset must be a whole number from 0 to 4092",
    );
    await expect(run(1, four(1), four(1), arrays, [])).rejects.toThrow(
      "step 0 (count_up): kernel count_up would have 2147483648 blocks, a grid has at most 2147483647",
    );
    const into = new Uint8Array(4);
    expect(await run(0, four(1), four(1), arrays, [{ step: 0, offset: 0, into }])).toBeGreaterThanOrEqual(0);
    expect([...into]).toEqual([1, 0, 0, 0]);
    await executor.close();
  });
});
