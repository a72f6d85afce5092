/** Flags that mean something else, or nothing, where a GPU computes. */
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { cudaCommandLine } from "../support/cuda-engine.ts";
import { calls, type FakeDevice } from "../support/fake-cuda.ts";
import { goldenFolder, hasGolden } from "../support/golden.ts";
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

describe("--kv-cache-dtype fp8", () => {
  const fp8 = ["--kv-cache-dtype", "fp8"];

  it("is as right as e4m3 lets a model in f32 be, by its interpreter", async () => {
    const folder = join(scratch, "fp8");
    const model = [pebble, "--dtype", "float32", "--layers", "2"];
    const compiled = await run(["compile", ...model, "-o", folder, ...cuda, ...fp8, ...limits]);
    expect(compiled.code, compiled.stderr).toBe(0);
    const { code, stdout, stderr } = await run(["verify", folder, "--tokens", "33", "--json"], GPU);
    expect(stdout, stderr).not.toBe("");
    expect({ firstFailure: JSON.parse(stdout).firstFailure, code }).toEqual({ firstFailure: null, code: 0 });
  });

  it.skipIf(!hasGolden)("is as right as e4m3 lets a model be, by recorded activations", async () => {
    const folder = join(scratch, "fp8-recorded");
    const most = ["--max-num-seqs", "160", "--max-num-batched-tokens", "160"];
    const model = [goldenFolder("mistral"), "--dtype", "float32"];
    const compiled = await run(["compile", ...model, "-o", folder, ...cuda, ...fp8, ...most]);
    expect(compiled.code, compiled.stderr).toBe(0);
    const { code, stdout, stderr } = await run(["verify", folder, "--golden", goldenFolder("mistral"), "--json"], GPU);
    expect(stdout, stderr).not.toBe("");
    expect({ firstFailure: JSON.parse(stdout).firstFailure, code }).toEqual({ firstFailure: null, code: 0 });
  });

  it("is refused for a CPU, with what there is", async () => {
    const compile = ["compile", pebble, "-o", join(scratch, "cpu"), "--target", "cpu:generic", ...fp8, ...limits];
    const { code, stdout, stderr } = await run(compile);
    expect(stderr).toMatch(
      /^ingot: .*cpu:generic keeps no cache of fp8; choose --kv-cache-dtype auto, float32, bfloat16 or float16/m,
    );
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
  });
});
