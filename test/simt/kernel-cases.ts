/** The kernels of kernels/ with a small ragged launch each and what it must leave, computed here in f64. */
import { readFileSync } from "node:fs";
import { expectClose } from "../support/closeness.ts";
import { fromBits, toBits } from "../support/kernel-layouts.ts";
import { seededRandom } from "../support/seeded-random.ts";
import type { SimtLaunch, SimtResult } from "../support/simt-kernel.ts";

export interface KernelCase {
  readonly kernel: { readonly name: string; readonly source: string };
  readonly launch: SimtLaunch;
  /** Fails unless the arguments are what the launch must leave. */
  readonly expectRight: (args: SimtResult["args"][number]) => void;
}

const kernelOf = (name: string) => ({
  name,
  source: readFileSync(new URL(`kernels/${name}.cu`, import.meta.url), "utf8"),
});

export const bytesOf = (array: Float32Array | Int32Array | Uint32Array | Uint16Array): Uint8Array => new Uint8Array(array.buffer);
export const floatsOf = (bytes: Uint8Array | undefined): Float32Array => new Float32Array(bytes!.slice().buffer);
export const integersOf = (bytes: Uint8Array | undefined): Int32Array => new Int32Array(bytes!.slice().buffer);

/** Memory nobody has written: NaN, as a device buffer before its first kernel. */
export const unwritten = (bytes: number): Uint8Array => new Uint8Array(bytes).fill(0xff);
const ints = (...values: number[]): Uint8Array => bytesOf(Int32Array.from(values));

const random = seededRandom(1);
const normals = (count: number): Float32Array => Float32Array.from({ length: count }, () => random.normal());
const toBf16 = (x: Float32Array): Uint16Array => Uint16Array.from(x, (v) => toBits("bf16", v));
const fromBf16 = (x: Uint16Array): number[] => Array.from(x, (bits) => fromBits("bf16", bits));
const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
const sum = (values: Iterable<number>): number => [...values].reduce((a, b) => a + b, 0);

function rmsNorm(): KernelCase {
  const [rows, n] = [3, 200];
  const [x, w] = [toBf16(normals(rows * n)), toBf16(normals(n))];
  const [xs, ws] = [fromBf16(x), fromBf16(w)];
  const expected = range(rows).flatMap((r) => {
    const row = xs.slice(r * n, r * n + n);
    const scale = 1 / Math.sqrt(sum(row.map((v) => v * v)) / n + 1e-6);
    return row.map((v, i) => v * scale * ws[i]!);
  });
  return {
    kernel: kernelOf("rms_norm"),
    launch: { grid: rows, threads: 128, sharedBytes: 0, args: [bytesOf(x), bytesOf(w), unwritten(2 * rows * n), ints(n)] },
    expectRight: (args) => expectClose(fromBf16(new Uint16Array(args[2]!.slice().buffer)), expected, 2 ** -8),
  };
}

function columnSum(): KernelCase {
  const x = normals(2 * 128);
  return {
    kernel: kernelOf("column_sum"),
    launch: { grid: 2, threads: 128, sharedBytes: 0, args: [bytesOf(x), unwritten(8)] },
    expectRight: (args) => expectClose(floatsOf(args[1]), [sum(x.slice(0, 128)), sum(x.slice(128))], 1e-6),
  };
}

function gemm(): KernelCase {
  const [m, n, k] = [70, 64, 96]; // the second block row is ragged
  const [a, b] = [toBf16(normals(m * k)), toBf16(normals(k * n))];
  const [as, bs] = [fromBf16(a), fromBf16(b)];
  const expected = range(m * n).map((i) => sum(range(k).map((j) => as[Math.floor(i / n) * k + j]! * bs[j * n + (i % n)]!)));
  const sharedBytes = 2 * 2 * (64 * 40 + 32 * 40);
  return {
    kernel: kernelOf("gemm"),
    launch: { grid: 4, threads: 128, sharedBytes, args: [bytesOf(a), bytesOf(b), unwritten(4 * m * n), ints(m, n, k)] },
    expectRight: (args) => expectClose(floatsOf(args[2]), expected, 1e-6),
  };
}

function softmax(): KernelCase {
  const [rows, n] = [5, 45]; // the last block has one row for its two warps
  const x = normals(rows * n);
  const expected = range(rows).flatMap((r) => {
    const row = [...x.slice(r * n, r * n + n)].map(Math.exp);
    return row.map((v) => v / sum(row));
  });
  return {
    kernel: kernelOf("softmax"),
    launch: { grid: 3, threads: 64, sharedBytes: 0, args: [bytesOf(x), unwritten(4 * rows * n), ints(rows, n)] },
    expectRight: (args) => expectClose(floatsOf(args[1]), expected, 1e-6),
  };
}

function splitSum(): KernelCase {
  const [rows, n] = [3, 4 * 100];
  const x = normals(rows * n);
  const args = [bytesOf(x), unwritten(4 * rows * 4), bytesOf(new Int32Array(rows)), unwritten(4 * rows), ints(n)];
  return {
    kernel: kernelOf("split_sum"),
    launch: { grid: rows * 4, threads: 64, sharedBytes: 0, args },
    expectRight: (args) => {
      const expected = range(rows).map((r) => sum(x.slice(r * n, r * n + n)));
      expectClose(floatsOf(args[3]), expected, 1e-5);
      expectClose(
        integersOf(args[2]),
        range(rows).map(() => 0),
        0,
        "counters after the last",
      );
    },
  };
}

function histogram(): KernelCase {
  const n = 500;
  const x = Int32Array.from({ length: 2 * n }, () => random.below(8));
  return {
    kernel: kernelOf("histogram"),
    launch: { grid: 2, threads: 96, sharedBytes: 0, args: [bytesOf(x), unwritten(64), ints(n)] },
    expectRight: (args) => {
      const expected = [0, 1].flatMap((row) =>
        range(8).map((bin) => x.slice(row * n, row * n + n).filter((v) => v === bin).length),
      );
      expectClose(integersOf(args[1]), expected, 0);
    },
  };
}

export const kernelCases = {
  rms_norm: rmsNorm(),
  column_sum: columnSum(),
  gemm: gemm(),
  softmax: softmax(),
  split_sum: splitSum(),
  histogram: histogram(),
};
