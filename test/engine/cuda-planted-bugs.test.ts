/**
 * Bugs planted into the kernels of a whole engine, which is built again and verified on the emulated GPU: the checker names the line,
 * and what breaks no rule shows in the numbers.
 */
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { readManifest } from "../../compiler/cli/load.ts";
import { cudaCommandLine } from "../support/cuda-engine.ts";
import { goldenFolder, hasGolden } from "../support/golden.ts";

const { run, scratch } = cudaCommandLine("cuda-bugs", { isChecked: true });
const whole = join(scratch, "whole");

interface Bug {
  readonly what: string;
  /** What its name begins with; kernels of other steps have numbers behind it. */
  readonly kernel: string;
  readonly from: string;
  readonly to: string;
  /** The report, and what stands in the line that it names. */
  readonly report: RegExp;
  readonly line: string;
}

const bugs: readonly Bug[] = [
  {
    what: "a barrier that is missing",
    kernel: "linear_bf16_256x64",
    from: "    sync_block();  // this piece is there, and the one before is done with\n",
    to: "",
    report: /race|uninitialised/,
    line: "load_matrices(",
  },
  {
    what: "a barrier that is missing before the sums take the place of the tiles",
    kernel: "linear_bf16_256x64",
    from: "  sync_block();  // the stages become the sums' memory\n",
    to: "",
    report: /race/,
    line: "kOutPitch + n",
  },
  {
    what: "a wait that lets one copy too many be open",
    kernel: "paged_attention_bf16_4x2x32",
    from: "wait_copies<kStages - 1>();",
    to: "wait_copies<kStages>();",
    report: /copy/,
    line: "load_matrices",
  },
  {
    what: "a row of shared memory too many",
    kernel: "linear_bf16_256x64",
    from: "i < rows * kChunks;",
    to: "i < rows * kChunks + 1;",
    report: /race|copy|out of bounds/,
    line: "copy16_async",
  },
  {
    what: "a stride off by one, whose rows share an element",
    kernel: "rms_norm_bf16_64",
    from: "slots.out[int64_t(row) * 64 + col]",
    to: "slots.out[int64_t(row) * 63 + col]",
    report: /race \(write then write\)/,
    line: "slots.out[",
  },
  {
    what: "inputs that nobody waits for",
    kernel: "rms_norm_bf16_64",
    from: "  wait_for_inputs();\n",
    to: "",
    report: /early read.*before wait_for_inputs/,
    line: "widen(source[col])",
  },
];

/** The kernel of that beginning in the program for the largest steps. */
function kernelOfLargeSteps(beginning: string): string {
  const { kernels, programs } = readManifest(whole);
  const names = programs.at(-1)!.steps.map((step) => kernels[step.kernel]!.name);
  return names.find((name) => name.startsWith(beginning))!;
}

/** An engine with a kernel's text changed, built; and the kernel's lines. */
async function planted(name: string, bug: Pick<Bug, "kernel" | "from" | "to">) {
  const { from, to } = bug;
  const kernel = kernelOfLargeSteps(bug.kernel);
  const folder = join(scratch, name.replaceAll(/\W+/g, "-"));
  cpSync(whole, folder, { recursive: true });
  const file = join(folder, "kernels", `${kernel}.cu`);
  const text = readFileSync(file, "utf8");
  expect(text.split(from)).toHaveLength(2);
  writeFileSync(file, text.replace(from, to));
  const { code, stderr } = await run(["build", folder]);
  expect(code, stderr).toBe(0);
  return { folder, kernel, lines: text.replace(from, to).split("\n") };
}

describe.skipIf(!hasGolden)("verification on the emulated GPU", () => {
  beforeAll(async () => {
    const limits = ["--max-num-seqs", "40", "--max-num-batched-tokens", "40", "--max-model-len", "192"];
    const flags = ["--target", "cuda:sm_80", "--dtype", "bfloat16", ...limits];
    const { code, stderr } = await run(["compile", goldenFolder("qwen3"), "-o", whole, ...flags]);
    expect(code, stderr).toBe(0);
  });

  it.each(bugs)("reports $what, with kernel and line", async (bug) => {
    const { folder, kernel, lines } = await planted(bug.what, bug);
    const { code, stderr } = await run(["verify", folder, "--tokens", "33", "--json"]);
    expect(code).toBe(1);
    expect(stderr).toContain(`${kernel}: `);
    expect(stderr).toMatch(bug.report);
    expect(stderr).not.toMatch(/^ {4}at |internal:/m);
    const named = [...stderr.matchAll(new RegExp(`${kernel}\\.cu:(\\d+)`, "g"))].map((m) => lines[Number(m[1]) - 1]!);
    expect(named.join("\n"), stderr).toContain(bug.line);
  });

  it("finds a column off by one, which breaks no rule, after the embedding", async () => {
    const from = "table[int64_t(id) * kCols + col]";
    const to = "table[int64_t(id) * kCols + (col + 1) % kCols]";
    const { folder } = await planted("column", { kernel: "embedding_bf16_64", from, to });
    const { code, stdout } = await run(["verify", folder, "--tokens", "2", "--json"]);
    expect(JSON.parse(stdout).firstFailure).toMatchObject({ prompt: 0, what: "hidden.0" });
    expect(code).toBe(1);
  });
});
