/** Flags that mean something else, or nothing, where a GPU computes. */
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { cudaCommandLine } from "../support/cuda-engine.ts";
import type { FakeDevice } from "../support/fake-cuda.ts";
import { pebble } from "../support/ingot-command.ts";

const { run, scratch } = cudaCommandLine("cuda-options");
const engine = join(scratch, "engine");
const cuda = ["--target", "cuda:sm_80"];
const limits = ["--max-model-len", "128", "--max-num-seqs", "2", "--max-num-batched-tokens", "32"];
const ask = ["Hello", "--temperature", "0", "--max-tokens", "2"];
const GPU: FakeDevice = { sm: 80, memory: 2e9 };

beforeAll(async () => {
  const { code, stderr } = await run(["compile", pebble, "-o", engine, ...cuda, "--dtype", "float32", ...limits]);
  expect(code, stderr).toBe(0);
});

describe("ingot bench", () => {
  const flags = ["--input-len", "8", "--output-len", "2", "--json"];

  it("latency states no share of a bandwidth that was not probed, and no threads", async () => {
    const latency = ["bench", "latency", engine, ...flags, "--depths", "8", "--num-iters", "1", "--num-iters-warmup", "0"];
    const { code, stdout, stderr } = await run(latency, GPU);
    expect(code, stderr).toBe(0);
    const expected = { target: "cuda:sm_80", threads: null, readBandwidthGBs: null, decode: [{ bandwidthShare: null }] };
    expect(JSON.parse(stdout)).toMatchObject(expected);
    const table = await run(
      latency.filter((flag) => flag !== "--json"),
      GPU,
    );
    expect(table.stdout).toMatch(/of read bandwidth\n[\s\S]* not probed\n[\s\S]*Read bandwidth: not probed\./);
  });

  it("throughput states no threads", async () => {
    const { code, stdout, stderr } = await run(["bench", "throughput", engine, ...flags, "--num-prompts", "2"], GPU);
    expect(code, stderr).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ target: "cuda:sm_80", threads: null });
  });
});
