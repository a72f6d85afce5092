/** Flags that mean something else, or nothing, where a GPU computes. */
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { cudaCommandLine } from "../support/cuda-engine.ts";
import { calls, type FakeDevice } from "../support/fake-cuda.ts";
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

describe("--device", () => {
  it("names the GPU that everything happens on", async () => {
    const log = join(scratch, "second.log");
    const { code, stdout, stderr } = await run(["run", engine, ...ask, "--device", "1"], { ...GPU, devices: 2, log });
    expect(code, stderr).toBe(0);
    expect(stdout).not.toBe("");
    expect(new Set(calls(log, "cuDeviceGet ").map((line) => line.split(" ")[1]))).toEqual(new Set(["1"]));
    const first = join(scratch, "first.log");
    await run(["run", engine, ...ask], { ...GPU, devices: 2, log: first });
    expect(new Set(calls(first, "cuDeviceGet ").map((line) => line.split(" ")[1]))).toEqual(new Set(["0"]));
  });

  it("is refused where there are fewer, for every verb that loads an engine", async () => {
    for (const verb of [["run"], ["verify"], ["serve"], ["bench", "latency"], ["bench", "throughput"]]) {
      const { code, stderr } = await run([...verb, engine, "--device", "2"], { ...GPU, devices: 2 }, { input: "Hello" });
      expect(stderr).toMatch(/^ingot: there is no CUDA device 2: the driver sees 2; choose one of them/m);
      expect(code).toBe(1);
    }
  });
});

describe("--batch-invariant", () => {
  it("is refused for an engine whose programs add in different orders", async () => {
    const { code, stdout, stderr } = await run(["run", engine, ...ask, "--batch-invariant"], GPU);
    expect(stderr).toMatch(
      /^ingot: --batch-invariant cannot be kept by pebble for cuda:sm_80, which adds in another order in steps of up to 1, 4, 16, 32 tokens, .*: leave the flag out, or compile for a CPU$/m,
    );
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
  });

  it("is kept by an engine for a CPU", async () => {
    const { code, stderr } = await run(["run", pebble, ...ask, "--batch-invariant", "--kv-cache-memory", "64MiB"]);
    expect(code, stderr).toBe(0);
  });
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
