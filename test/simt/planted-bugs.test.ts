/** Every kind of fault the emulator and the checker know is planted once into a right kernel, and reported with its line. */
import { describe, expect, it } from "vitest";
import { runSimt, type SimtLaunch, type SimtOptions } from "../support/simt-kernel.ts";
import { bytesOf, floatsOf, kernelCases, unwritten } from "./kernel-cases.ts";
import { lineOf, plant } from "./planted-bug.ts";

/** The report of a kernel of kernels/ with `from` replaced by `to`. */
function reportOf(name: keyof typeof kernelCases, from: string, to: string, options: SimtOptions = { checked: true }): string {
  const { kernel, launch } = kernelCases[name];
  return reportOfText({ name, source: plant(kernel.source, from, to) }, launch, options);
}

function reportOfText(
  kernel: { name: string; source: string },
  launch: SimtLaunch,
  options: SimtOptions = { checked: true },
): string {
  try {
    runSimt(kernel, [launch], options);
  } catch (error) {
    return (error as Error).message;
  }
  return "nothing reported";
}

const at = (name: keyof typeof kernelCases, text: string): string => `kernel.cu:${lineOf(kernelCases[name].kernel.source, text)}`;

const body = (text: string) => ({
  name: "faulty",
  source: `#include "prelude.cuda.h"\nnamespace ingot {\nINGOT_KERNEL(64, 1) faulty(float* x) {\nwait_for_inputs();\n${text}\n}\n}\n`,
});
const one = (bytes = 256): SimtLaunch => ({ grid: 1, threads: 64, sharedBytes: 0, args: [new Uint8Array(bytes)] });

describe("races", () => {
  it("a missing barrier: both lines, both threads", () => {
    const report = reportOf("column_sum", "sync_block();", "", { order: "reverse", checked: true });
    expect(report).toContain("race (write then read) on shared array parts + 508");
    expect(report).toContain(`block 1 thread 127 at ${at("column_sum", "parts[t] = x[")}`);
    expect(report).toContain(`block 1 thread 63 at ${at("column_sum", "parts[t] +=")}`);
    expect(report).toContain("a sync_block must lie between");
    expect(reportOf("column_sum", "sync_block();", "")).toContain(
      `parts + 256 at ${at("column_sum", "parts[t] +=")}, which nobody has written`,
    );
  });

  it("a missing trailing barrier of double buffering: the load and the copy that overtakes it, in every order", () => {
    for (const order of ["forward", "reverse", "random", "greedy"] as const) {
      const report = reportOf("gemm", "sync_block();  // the buffer may be filled again", "", { order, checked: true });
      expect(report).toContain("race (read then write) on shared array dynamic");
      expect(report).toMatch(new RegExp(`${at("gemm", "copy16_async(to_a")}|${at("gemm", "copy16_async(to_b")}`));
      expect(report).toMatch(new RegExp(`${at("gemm", "load_matrices(")}|${at("gemm", "load_matrices_transposed(")}`));
    }
  });

  it("a barrier of a warp does for lanes of one warp, not for two warps", () => {
    const within = (meet: string) => `INGOT_SHARED(float, s, 64);
const int t = thread_id();
s[t] = 1.0f;
${meet}
x[t] = s[t ^ 1];`;
    expect(reportOfText(body(within("sync_warp();")), one())).toBe("nothing reported");
    expect(reportOfText(body(within("x[t] = shuffle_xor(1.0f, 1);")), one())).toContain(
      "a sync_warp or a sync_block must lie between",
    );
    expect(reportOfText(body(within("sync_warp();").replace("t ^ 1", "t ^ 32")), one())).toContain(
      "a sync_block must lie between",
    );
  });

  it("bytes side by side are not each other's", () => {
    const bytes = "((unsigned char*)x)[thread_id()] = 1; ((uint16_t*)x)[64 + thread_id()] = 2;";
    expect(reportOfText(body(bytes), one())).toBe("nothing reported");
    expect(reportOfText(body("((unsigned char*)x)[thread_id()] = 1; ((uint16_t*)x)[thread_id()] = 2;"), one())).toContain(
      "race (write then write)",
    );
  });

  it("a sum read before a barrier ends the adding", () => {
    const report = reportOf("histogram", "sync_block();  // before they are read", "", { order: "reverse", checked: true });
    expect(report).toContain("race (read then write) on shared array bins");
    expect(report).toContain(`at ${at("histogram", "atomic_add(")}`);
    expect(report).toContain(`at ${at("histogram", "int(bins[")}`);
  });

  it("parts of other blocks read without having been last to come", () => {
    const report = reportOf(
      "split_sum",
      "if (is_last_to_come(counters + row, kSplits)) {",
      "sync_block(); if (counters[row] == 0 && split == kSplits - 1) {",
    );
    expect(report).toContain("race (write then read) on global argument 1");
    expect(report).toContain(`at ${at("split_sum", "parts[block_id()] = sum")}`);
    expect(report).toContain(`at ${at("split_sum", "total += parts")}`);
    expect(report).toContain("is_last_to_come");
  });

  it("a part written after coming", () => {
    const late = plant(
      kernelCases.split_sum.kernel.source,
      "if (thread_id() == 0) parts[block_id()] = sum;",
      "if (thread_id() == 0 && split > 0) parts[block_id()] = sum;",
    );
    const source = plant(late, "float total = 0.0f;", "float total = 0.0f;").replace(
      "if (is_last_to_come(counters + row, kSplits)) {",
      "const bool is_last = is_last_to_come(counters + row, kSplits); if (thread_id() == 0 && split == 0) parts[block_id()] = sum; if (is_last) {",
    );
    expect(reportOfText({ name: "split_sum", source }, kernelCases.split_sum.launch)).toContain(
      "race (write then read) on global argument 1",
    );
  });
});

describe("copies", () => {
  it("a wrong wait count: the line that reads a copy still open", () => {
    const report = reportOf("gemm", "wait_copies<1>();", "wait_copies<2>();");
    expect(report).toContain("open copy: ");
    expect(report).toMatch(new RegExp(`${at("gemm", "load_matrices(")}|${at("gemm", "load_matrices_transposed(")}`));
    expect(report).toMatch(new RegExp(`${at("gemm", "copy16_async(to_a")}|${at("gemm", "copy16_async(to_b")}`));
  });

  it("what stood in the destination of an open copy is gone", () => {
    const text = `INGOT_SHARED(float, s, 4);
if (thread_id() == 0) {
  s[0] = 1.0f;
  copy16_async(s, x, true);
  commit_copies();
  x[4] = s[0];
}`;
    const { args } = runSimt(body(text), [one()]);
    expect(floatsOf(args[0]![0])[4]).toBeNaN();
    expect(reportOfText(body(text), one())).toContain(
      "open copy: block 0 thread 0 reads shared array s + 0 at kernel.cu:10 while a copy of block 0 thread 0 at kernel.cu:8",
    );
  });

  it("a wrong wait count reads as NaN without the checker", () => {
    const { kernel, launch, expectRight } = kernelCases.gemm;
    const source = plant(kernel.source, "wait_copies<1>();", "wait_copies<2>();");
    const { args } = runSimt({ name: "gemm", source }, [launch]);
    expect(() => expectRight(args[0]!)).toThrow(/NaN/);
  });
});

describe("bounds", () => {
  it("a read past a global buffer", () => {
    const report = reportOf("softmax", "sum += exp(from[i] - largest)", "sum += exp(from[i + 32] - largest)");
    expect(report).toMatch(/out of bounds: block 2 thread \d+ reads 4 bytes/);
    expect(report).toContain(`at ${at("softmax", "sum += exp")}`);
    expect(report).toContain("past the end of global argument 0 (900 bytes)");
  });

  it("a write past a global buffer, with and without the checker", () => {
    const bug = ["y[block_id()] = parts[0]", "y[2 + block_id()] = parts[0]"] as const;
    expect(reportOf("column_sum", ...bug)).toContain(
      `writes 4 bytes at ${at("column_sum", "y[block_id()]")}, 0 bytes past the end of global argument 1 (8 bytes)`,
    );
    expect(reportOf("column_sum", ...bug, {})).toContain("past the end of argument 1 (8 bytes); a checked run names the line");
  });

  it("an access over the end of a buffer", () => {
    expect(reportOfText(body("store16(x + 4 * thread_id(), Bytes16());"), one(1020))).toContain(
      "block 0 thread 63 writes 16 bytes at kernel.cu:5",
    );
  });

  it("a write past a shared array, with and without the checker", () => {
    const bug = ["parts[t] = x[", "parts[t + 1] = x["] as const;
    const report = reportOf("column_sum", ...bug);
    expect(report).toContain(
      `thread 127 writes 4 bytes at ${at("column_sum", "parts[t] = x[")}, 0 bytes past the end of shared array parts (512 bytes)`,
    );
    expect(reportOf("column_sum", ...bug, {})).toContain("wrote beside shared array parts (512 bytes)");
  });

  it("a read of a shared array's wrong end, before its start", () => {
    expect(reportOf("column_sum", "= parts[0]", "= parts[-1]")).toContain("4 bytes before the start of shared array parts");
  });
});

describe("memory that is not there yet", () => {
  it("uninitialised shared memory", () => {
    const report = reportOf("column_sum", "parts[t] = x[", "if (t < 100) parts[t] = x[");
    expect(report).toMatch(/uninitialised shared memory: block 0 thread 36 reads shared array parts \+ 400/);
    expect(report).toContain(`at ${at("column_sum", "parts[t] +=")}`);
  });

  it("a sum that nobody set to 0", () => {
    const report = reportOf("histogram", "bins[thread_id()] = 0;", ";");
    expect(report).toContain(`adds to shared array bins + `);
    expect(report).toContain(`at ${at("histogram", "atomic_add(")}`);
  });

  it("a read before wait_for_inputs of what a kernel has written", () => {
    const early = (first: string, then: string) => ({
      name: "early",
      source: `#include "prelude.cuda.h"
namespace ingot {
INGOT_KERNEL(64, 1) early(float* x, float* y) {
  ${first} const float v = x[0]; ${then}
  y[block_id() * 64 + thread_id()] = v;
}
}
`,
    });
    const launch = { grid: 2, threads: 64, sharedBytes: 0, args: [new Uint8Array(4), unwritten(512)] };
    expect(reportOfText(early("wait_for_inputs();", ""), launch)).toBe("nothing reported");
    expect(reportOfText(early("", "wait_for_inputs();"), launch)).toBe("nothing reported");
    const shared = { ...launch, args: [unwritten(512), 0] };
    expect(reportOfText(early("", "wait_for_inputs();"), shared)).toMatch(
      /early read: block 0 thread 1 reads global argument 0 \+ 0, .* at kernel\.cu:4/,
    );
  });

  it("a write before wait_for_inputs", () => {
    expect(reportOf("softmax", "wait_for_inputs();", "")).toContain(
      `at ${at("softmax", "y[row * n + i] =")} before wait_for_inputs`,
    );
  });
});

describe("alignment and spaces", () => {
  it("a misaligned 16-byte load, with and without the checker", () => {
    const kernel = body("\nx[0] = float_of(load16(x + 1).words[0]);");
    for (const checked of [true, false]) {
      expect(reportOfText(kernel, one(), { checked })).toMatch(
        /block 0 thread 0: load16 at kernel\.cu:6 of a misaligned address/,
      );
    }
  });

  it("16-byte operations of the wrong memory", () => {
    expect(reportOfText(body("x[0] = float_of(load16_shared(x).words[0]);"), one())).toContain(
      "load16_shared at kernel.cu:5 is for shared memory",
    );
    expect(reportOfText(body("INGOT_SHARED(float, s, 4); store16(s, Bytes16());"), one())).toContain(
      "store16 at kernel.cu:5 is for global memory",
    );
  });
});

describe("meetings", () => {
  it("an early return before a collective", () => {
    const report = reportOf(
      "softmax",
      "float largest = -infinity();",
      "if (lane >= n - 32) return; float largest = -infinity();",
      {},
    );
    expect(report).toMatch(/shuffle_xor at kernel\.cu:\d+ after block 0 thread 13 of the same warp returned|deadlock/);
    expect(report).toContain(at("softmax", "shuffle_xor(largest"));
  });

  it("an early return before a barrier", () => {
    const report = reportOf("column_sum", "parts[t] = x[", "if (t > 100) return; parts[t] = x[", {});
    expect(report).toContain("returned while block 0 thread");
    expect(report).toContain(`waits in sync_block at ${at("column_sum", "sync_block")}`);
  });

  it("two barriers that different threads wait at", () => {
    const report = reportOfText(body("if (thread_id() < 32) sync_block();\nelse sync_block();"), one());
    expect(report).toContain("divergent barrier");
    expect(report).toMatch(/kernel\.cu:5\b.*kernel\.cu:6\b|kernel\.cu:6\b.*kernel\.cu:5\b/);
  });

  it("one barrier in a function that two lines call", () => {
    const source = `#include "prelude.cuda.h"
namespace ingot {
INGOT_DEVICE void meet() { sync_block(); }
INGOT_KERNEL(64, 1) faulty(float* x) {
  wait_for_inputs();
  if (thread_id() < 32) meet();
  else meet();
  x[thread_id()] = 0.0f;
}
}
`;
    expect(reportOfText({ name: "faulty", source }, one())).toContain("divergent barrier");
  });

  it("a collective that half a warp is in while the other half waits for the block", () => {
    const report = reportOfText(body("if (thread_id() % 2) sync_block();\nelse x[thread_id()] = warp_sum(1.0f);"), one());
    expect(report).toContain("deadlock: 64 threads wait");
    expect(report).toContain("block 0 thread 0 waits in warp_sum at kernel.cu:6");
    expect(report).toContain("block 0 thread 1 waits in sync_block at kernel.cu:5");
  });

  it("two collectives in one warp", () => {
    expect(reportOfText(body("x[thread_id()] = thread_id() % 2 ? warp_sum(1.0f)\n: warp_max(1.0f);"), one())).toContain(
      "divergent warp",
    );
  });

  it("a block that is not whole warps", () => {
    expect(reportOfText(body("x[thread_id()] = warp_sum(1.0f);"), { ...one(), threads: 40 })).toContain(
      "the block's last warp has 8; launch a multiple of 32",
    );
  });
});

describe("launches", () => {
  it("a counter that did not start at 0", () => {
    const { kernel, launch } = kernelCases.split_sum;
    const args = launch.args.map((arg, i) => (i === 2 ? unwritten(12) : arg));
    expect(reportOfText(kernel, { ...launch, args })).toContain("finds -1 in its counter, expected 0 to 3");
  });

  it("dynamic shared memory that the launch does not give, or not enough of", () => {
    const { kernel, launch } = kernelCases.gemm;
    expect(reportOfText(kernel, { ...launch, sharedBytes: 0 }, {})).toContain("the launch gives 0 bytes");
    expect(reportOfText(kernel, { ...launch, sharedBytes: launch.sharedBytes - 32 })).toContain(
      "past the end of shared array dynamic",
    );
  });

  it("more shared memory or threads than a block can have", () => {
    const large = body("INGOT_SHARED(float, s, 12289);\ns[thread_id()] = x[0];");
    expect(reportOfText(large, one())).toContain("declared arrays take 49156 bytes; at most 49152");
    expect(reportOfText(body(""), { ...one(), threads: 1025 })).toContain("1025 threads a block");
    expect(reportOfText(body(""), { ...one(), threads: 96 })).toContain(
      "96 threads a block, but INGOT_KERNEL allows faulty at most 64",
    );
    expect(reportOfText(body(""), { ...one(), sharedBytes: 228 * 1024 })).toContain("bytes of dynamic shared memory");
  });

  it("a kernel's name that the text does not declare", () => {
    expect(reportOfText({ ...body(""), name: "missing" }, { ...one(), args: [bytesOf(new Int32Array(1))] })).toContain(
      "the library has no kernel missing",
    );
  });
});
