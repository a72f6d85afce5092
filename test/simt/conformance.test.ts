/**
 * What the device prelude promises of fragments and conversions, against definitions written apart from the emulator: fragments after the
 * PTX ISA ("Matrix fragments for mma.m16n8k16 with floating point type", "ldmatrix"), by element index i of a thread's fragment and
 * groupID, threadID_in_group; conversions by arithmetic on numbers.
 */
import { describe, expect, it } from "vitest";
import { expectClose } from "../support/closeness.ts";
import { fromBits, toBits } from "../support/kernel-layouts.ts";
import { seededRandom } from "../support/seeded-random.ts";
import { runSimt } from "../support/simt-kernel.ts";
import { bytesOf, floatsOf, unwritten } from "./kernel-cases.ts";

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
const words = (bytes: Uint8Array | undefined): Uint32Array => new Uint32Array(bytes!.slice().buffer);
const halves = (bytes: Uint8Array | undefined): Uint16Array => new Uint16Array(bytes!.slice().buffer);

/** Runs `statements` over pointers named by `params`, one block of `threads`. */
function run(params: string, statements: string, args: readonly Uint8Array[], threads = 32): readonly Uint8Array[] {
  const source = `#include "prelude.cuda.h"
namespace ingot {
INGOT_KERNEL(${threads}, 1) conforming(${params}) {
  wait_for_inputs();
  const int t = thread_id();
  ${statements}
}
}
`;
  return runSimt({ name: "conforming", source }, [{ grid: 1, threads, sharedBytes: 0, args }], { checked: true }).args[0]!;
}

describe("load_matrices", () => {
  // Matrix m, row r, column c hold 64 m + 8 r + c; its row addresses come from threads 8 m to 8 m + 7.
  const matrices = bytesOf(Uint16Array.from(range(256)));
  const load = (name: string) =>
    halves(
      run(
        "const uint16_t* x, uint32_t* y",
        `INGOT_SHARED(uint16_t, s, 256);
  for (int i = t; i < 256; i += 32) s[i] = x[i];
  sync_block();
  uint32_t r[4];
  ${name}(r, s + 8 * t);
  for (int m = 0; m < 4; ++m) y[4 * t + m] = r[m];`,
        [matrices, unwritten(512)],
      )[1],
    );

  it("thread T gets, of each matrix, row T / 4 and columns 2 (T % 4) and the next", () => {
    const expected = range(32).flatMap((t) =>
      range(4).flatMap((m) => [0, 1].map((i) => 64 * m + 8 * (t >> 2) + 2 * (t % 4) + i)),
    );
    expect([...load("load_matrices")]).toEqual(expected);
  });
  it("transposed, rows 2 (T % 4) and the next of column T / 4", () => {
    const expected = range(32).flatMap((t) =>
      range(4).flatMap((m) => [0, 1].map((i) => 64 * m + 8 * (2 * (t % 4) + i) + (t >> 2))),
    );
    expect([...load("load_matrices_transposed")]).toEqual(expected);
  });
});

describe.each(["bf16", "f16"] as const)("multiply_16x8x16 of %s", (dtype) => {
  const random = seededRandom(5);
  // Multiples of 1/8: exact in both types, as are all sums of products.
  const matrix = (rows: number, columns: number) => range(rows).map(() => range(columns).map(() => (random.below(65) - 32) / 8));
  const [a, b, c] = [matrix(16, 16), matrix(16, 8), matrix(16, 8)];

  it("adds A · B to C in the fragments of the PTX ISA", () => {
    const fragmentA = range(32).flatMap((lane) =>
      range(8).map((i) => {
        const [group, thread] = [lane >> 2, lane % 4];
        const row = i < 2 || (4 <= i && i < 6) ? group : group + 8;
        const column = thread * 2 + (i & 1) + (i >= 4 ? 8 : 0);
        return toBits(dtype, a[row]![column]!);
      }),
    );
    const fragmentB = range(32).flatMap((lane) =>
      range(4).map((i) => toBits(dtype, b[(lane % 4) * 2 + (i & 1) + (i >= 2 ? 8 : 0)]![lane >> 2]!)),
    );
    const placesC = range(32).flatMap((lane) =>
      range(4).map((i) => [i < 2 ? lane >> 2 : (lane >> 2) + 8, (lane % 4) * 2 + (i & 1)] as const),
    );
    const out = run(
      "const uint32_t* a, const uint32_t* b, float* c",
      `float acc[4];
  uint32_t fragment[4];
  for (int i = 0; i < 4; ++i) {
    acc[i] = c[4 * t + i];
    fragment[i] = a[4 * t + i];
  }
  multiply_16x8x16(acc, fragment, b[2 * t], b[2 * t + 1], Type<${dtype}>());
  for (int i = 0; i < 4; ++i) c[4 * t + i] = acc[i];`,
      [
        bytesOf(Uint16Array.from(fragmentA)),
        bytesOf(Uint16Array.from(fragmentB)),
        bytesOf(Float32Array.from(placesC, ([row, column]) => c[row]![column]!)),
      ],
    );
    const expected = placesC.map(
      ([row, column]) => c[row]![column]! + range(16).reduce((sum, k) => sum + a[row]![k]! * b[k]![column]!, 0),
    );
    expect([...floatsOf(out[2])]).toEqual(expected);
  });
});

describe("conversions", () => {
  it("every f16 and bf16 widens to its number", () => {
    const all = bytesOf(Uint16Array.from(range(65536)));
    const out = run(
      "const f16* x, const bf16* y, float* a, float* b",
      "for (int i = t; i < 65536; i += 32) {\n a[i] = widen(x[i]);\n b[i] = widen(y[i]);\n}",
      [all, all, unwritten(4 * 65536), unwritten(4 * 65536)],
    );
    expect(floatsOf(out[2])).toEqual(Float32Array.from(range(65536), (bits) => fromBits("f16", bits)));
    expect(floatsOf(out[3])).toEqual(Float32Array.from(range(65536), (bits) => fromBits("bf16", bits)));
  });

  it("every fp8 widens to its number: 1.4.3, bias 7, subnormals, NaN for S.1111.111 and no infinity", () => {
    const out = run("const fp8* x, float* y", "for (int i = t; i < 256; i += 32) y[i] = widen(x[i]);", [
      Uint8Array.from(range(256)),
      unwritten(1024),
    ]);
    const expected = range(256).map((bits) => {
      const [sign, exponent, mantissa] = [bits >> 7 ? -1 : 1, (bits >> 3) & 15, bits & 7];
      if (exponent === 15 && mantissa === 7) return Number.NaN;
      return sign * (exponent === 0 ? mantissa * 2 ** -9 : (8 + mantissa) * 2 ** (exponent - 10));
    });
    expect(floatsOf(out[1])).toEqual(Float32Array.from(expected));
    expect(Math.max(...expected.filter((x) => !Number.isNaN(x)))).toBe(448);
  });

  // Every pair of neighbours, their middle, and a little to both sides of it; then bits at random.
  const middles = (dtype: "f16" | "bf16"): number[] =>
    range(0x7c00).flatMap((bits) => {
      const [low, high] = [fromBits(dtype, bits), fromBits(dtype, bits + 1)];
      const middle = (low + (Number.isFinite(high) ? high : 65536)) / 2;
      return [low, middle, middle * (1 - 2 ** -20), -middle, -middle * (1 + 2 ** -20)];
    });
  const random = seededRandom(9);
  const randomBits = range(4096).map(() => fromBits("f32", random.below(2 ** 32)));
  const special = [
    0,
    -0,
    Infinity,
    -Infinity,
    65519,
    65520,
    -65520,
    2 ** -24,
    2 ** -25,
    2 ** -26,
    3.4028234e38,
    -3.4028234e38,
    1e-45,
  ];
  const values = Float32Array.from(
    [...middles("f16"), ...middles("bf16"), ...randomBits, ...special].filter((x) => !Number.isNaN(x)),
  );

  it("f32 rounds to the nearest f16 and bf16, ties to even, subnormals and overflow included", () => {
    const n = values.length;
    const out = run(
      "const float* x, f16* a, bf16* b",
      `for (int i = t; i < ${n}; i += 32) {\n a[i] = narrow(x[i], Type<f16>());\n b[i] = narrow(x[i], Type<bf16>());\n}`,
      [bytesOf(values), unwritten(2 * n), unwritten(2 * n)],
    );
    expect(halves(out[1])).toEqual(Uint16Array.from(values, (x) => toBits("f16", x)));
    expect(halves(out[2])).toEqual(Uint16Array.from(values, (x) => toBits("bf16", x)));
  });

  it("NaN of any payload stays NaN, and becomes the one of cvt.rn", () => {
    const nans = bytesOf(Uint32Array.from([0x7f800001, 0x7fc00000, 0xffffffff, 0x7fffffff]));
    const out = run(
      "const float* x, f16* a, bf16* b",
      "if (t < 4) {\n a[t] = narrow(x[t], Type<f16>());\n b[t] = narrow(x[t], Type<bf16>());\n}",
      [nans, unwritten(8), unwritten(8)],
    );
    expect([...halves(out[1]), ...halves(out[2])]).toEqual(range(8).map(() => 0x7fff));
  });

  it("pack puts the element named into the low half", () => {
    const out = run(
      "uint32_t* y",
      "y[0] = pack(1.0f, -2.0f, Type<bf16>());\n y[1] = pack(1.0f, -2.0f, Type<f16>());".replaceAll("y[", "if (t == 0) y["),
      [unwritten(8)],
    );
    expect([...words(out[0])]).toEqual([0xc0003f80, 0xc0003c00]);
  });
});

describe("lanes", () => {
  const x = Float32Array.from(range(32), (i) => Math.sin(i + 1));

  it("warp_sum is the butterfly of shuffles, bit for bit, and warp_max lets numbers beat NaN", () => {
    const values = Float32Array.from(x, (v, i) => (i === 3 ? Number.NaN : v));
    const out = run(
      "const float* x, const float* with_nan, float* y",
      `float s = x[t];
  for (int offset = 16; offset > 0; offset /= 2) s += shuffle_xor(s, offset);
  y[t] = warp_sum(x[t]) - s;
  y[32 + t] = warp_max(with_nan[t]);`,
      [bytesOf(x), bytesOf(values), unwritten(256)],
    );
    const largest = Math.max(...values.filter((v) => !Number.isNaN(v)));
    expect([...floatsOf(out[2])]).toEqual([...range(32).map(() => 0), ...range(32).map(() => largest)]);
  });

  it("shuffle takes the lane named, ballot a bit of each lane", () => {
    const out = run(
      "uint32_t* y",
      "y[t] = uint32_t(shuffle(10 * t, (t + 5) % 32));\n y[32 + t] = ballot(t % 3 == 0);\n y[64 + t] = uint32_t(count_bits(ballot(t % 3 == 0)));",
      [unwritten(384)],
    );
    const votes = range(32).reduce((bits, t) => (t % 3 === 0 ? bits | (1 << t) : bits), 0) >>> 0;
    expect([...words(out[0])]).toEqual([
      ...range(32).map((t) => 10 * ((t + 5) % 32)),
      ...range(32).map(() => votes),
      ...range(32).map(() => 11),
    ]);
  });

  it("atomic_add makes whole sums of what threads of all warps add, carries of 64 bits included", () => {
    const out = run(
      "int* y, uint64_t* z",
      `INGOT_SHARED(int, sums, 2);
  INGOT_SHARED(uint64_t, wide, 2);
  if (t < 2) {
    sums[t] = -5;
    wide[t] = 1;
  }
  sync_block();
  atomic_add(&sums[t % 3 == 0], t);
  atomic_add(&wide[t % 3 == 0], uint64_t(t) << 30 | 3u << 30);
  sync_block();
  if (t < 2) {
    y[t] = sums[t];
    z[t] = wide[t];
  }`,
      [unwritten(8), unwritten(16)],
      96,
    );
    const of = (which: number) => range(96).filter((t) => Number(t % 3 === 0) === which);
    expect([...new Int32Array(out[0]!.slice().buffer)]).toEqual([0, 1].map((w) => of(w).reduce((sum, t) => sum + t, -5)));
    expect([...new BigUint64Array(out[1]!.slice().buffer)]).toEqual(
      [0, 1].map((w) => of(w).reduce((sum, t) => sum + BigInt((t | 3) * 2 ** 30), 1n)),
    );
  });

  it("copies that are not valid bring zeros and read nothing", () => {
    const out = run(
      "const float* x, float* y",
      `INGOT_SHARED(float, s, 128);
  copy16_async(s + 4 * t, x + 4 * t, t < 8);
  commit_copies();
  wait_copies<0>();
  sync_warp();
  for (int i = 0; i < 4; ++i) y[32 * i + t] = s[32 * i + t];`,
      [bytesOf(x), unwritten(512)],
    );
    expectClose(floatsOf(out[1]), [...x, ...range(96).map(() => 0)], 0);
  });
});
