/** What `ingot` says, and how it exits, when something about CUDA is amiss: compiler, kernel, driver, GPU, memory. */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { cudaCommandLine, SIMT_NVCC } from "../support/cuda-engine.ts";
import type { FakeDevice } from "../support/fake-cuda.ts";
import { pebble } from "../support/ingot-command.ts";

const { run, scratch } = cudaCommandLine("cuda-errors");
const limits = ["--max-model-len", "128", "--max-num-seqs", "2", "--max-num-batched-tokens", "32"];
const engine = { "cuda:sm_80": join(scratch, "sm_80"), "cuda:sm_90a": join(scratch, "sm_90a") };
const ask = ["Hello", "--temperature", "0", "--max-tokens", "1"];
const GPU: FakeDevice = { sm: 80, memory: 2e9 };

beforeAll(async () => {
  for (const [target, folder] of Object.entries(engine)) {
    const flags = ["--target", target, "--dtype", "float32", ...limits];
    const { code, stderr } = await run(["compile", pebble, "-o", folder, ...flags]);
    expect(code, stderr).toBe(0);
  }
});

/** The one sentence of a run that fails with `exit`. */
async function refused(exit: number, args: readonly string[], device = GPU, env: NodeJS.ProcessEnv = {}): Promise<string> {
  const { code, stdout, stderr } = await run(args, device, { env });
  expect({ code, stdout }, stderr).toEqual({ code: exit, stdout: "" });
  expect(stderr).not.toMatch(/^ {4}at |internal:/m);
  return stderr;
}

describe("a toolchain's failure exits with 3", () => {
  it("and names the kernel, the model's line, the error and the log when a kernel does not compile", async () => {
    const folder = join(scratch, "broken");
    cpSync(engine["cuda:sm_80"], folder, { recursive: true });
    const kernel = readdirSync(join(folder, "kernels")).find((name) => name.startsWith("linear_"))!;
    const file = join(folder, "kernels", kernel);
    writeFileSync(file, readFileSync(file, "utf8").replaceAll("wait_for_inputs()", "wait_for_nobody()"));
    const message = await refused(3, ["build", folder]);
    const name = kernel.replace(".cu", "");
    const where = /, which computes \S+ \(models\/\w+\.ts:\d+\), .*, does not compile with nvcc release [\d., V]+: /;
    expect(message).toMatch(new RegExp(`^ingot: kernel ${name}${where.source}.*${kernel}:\\d+.* error: .*wait_for_nobody`));
    const log = /\(whole output: (.*)\)/.exec(message)![1]!;
    expect(readFileSync(log, "utf8")).toMatch(/-fatbin[\s\S]*nvcc release[\s\S]*error: /);
  });

  // Where toolkits usually lie is no variable; test/compiler/toolchain/nvcc.test.ts says the same of every machine.
  const hasToolkit = existsSync("/usr/local/cuda/bin/nvcc") || existsSync("/opt/cuda/bin/nvcc");
  it.skipIf(hasToolkit)("and says what to install where there is no nvcc", async () => {
    const empty = join(scratch, "empty");
    mkdirSync(empty);
    const compile = ["compile", pebble, "-o", join(scratch, "none"), "--target", "cuda:sm_80", ...limits];
    const message = await refused(3, compile, GPU, { NVCC: "", PATH: empty });
    expect(message).toContain(
      "ingot: no nvcc was found (looked for nvcc, /usr/local/cuda/bin/nvcc, /opt/cuda/bin/nvcc). Install the CUDA",
    );
    expect(message).toMatch(/no GPU is needed to compile.*developer\.nvidia\.com.*name its compiler in NVCC/);
    expect(existsSync(join(scratch, "none"))).toBe(false);
  });

  it("and names what NVCC says when that is no nvcc", async () => {
    const compile = ["compile", pebble, "-o", join(scratch, "none"), "--target", "cuda:sm_80", ...limits];
    const message = await refused(3, compile, GPU, { NVCC: "/no/such/nvcc" });
    expect(message).toContain(
      'NVCC is "/no/such/nvcc", which does not run as nvcc; unset it or set it to the compiler of a CUDA toolkit',
    );
  });

  it("but sources are written without one", async () => {
    const compile = ["compile", pebble, "-o", join(scratch, "sources"), "--target", "cuda:sm_90a", "--no-build", ...limits];
    const { code, stderr } = await run(compile, GPU, { env: { NVCC: "/no/such/nvcc" } });
    expect(code, stderr).toBe(0);
    expect(readdirSync(join(scratch, "sources", "kernels"))).toContain("prelude.cuda.h");
  });
});

describe("a GPU's failure is a sentence", () => {
  it("with the command that makes an engine for this one", async () => {
    const message = (target: string, remedy: string, sm: number) =>
      `ingot: the engine is for ${target}, but this machine has an NVIDIA Fake ${sm} (sm_${sm}): compile the model again with ` +
      `\`ingot compile <model> --target ${remedy}\``;
    const ran = await refused(1, ["run", engine["cuda:sm_90a"], ...ask], { ...GPU, sm: 86 });
    expect(ran).toContain(message("cuda:sm_90a", "cuda:sm_80", 86));
    const verified = await refused(1, ["verify", engine["cuda:sm_90a"], "--tokens", "1"], { ...GPU, sm: 80 });
    expect(verified).toContain(message("cuda:sm_90a", "cuda:sm_80", 80));
  });

  it("and none on a later GPU, which runs what an earlier one runs", async () => {
    const words = await Promise.all(
      ([80, 86, 90] as const).map(async (sm) => {
        const { code, stdout, stderr } = await run(["run", engine["cuda:sm_80"], ...ask], { ...GPU, sm });
        expect(code, stderr).toBe(0);
        return stdout;
      }),
    );
    expect(words[0]).not.toBe("");
    expect(new Set(words).size).toBe(1);
  });

  it("where there is no driver, or no GPU", async () => {
    const noDriver = await refused(1, ["run", engine["cuda:sm_80"], ...ask], GPU, { INGOT_CUDA_DRIVER: "/no/such/libcuda.so.1" });
    expect(noDriver).toMatch(
      /^ingot: no NVIDIA driver: \/no\/such\/libcuda\.so\.1: cannot open .*: install NVIDIA's driver \(12\.0 or later\), or compile the model for the CPU with --target native\n$/m,
    );
    const noGpu = await refused(1, ["run", engine["cuda:sm_80"], ...ask], { ...GPU, devices: 0 });
    expect(noGpu).toMatch(/^ingot: .*the driver sees no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES\n$/m);
  });

  it("before weights are looked at where a flag cannot be met", async () => {
    const folder = join(scratch, "truncated");
    cpSync(engine["cuda:sm_80"], folder, { recursive: true });
    truncateSync(join(folder, "weights.bin"), 4096);
    const message = await refused(1, ["run", folder, ...ask, "--kv-cache-memory", "1KiB"]);
    expect(message).toMatch(
      /^ingot: a KV cache for one sequence of 128 tokens takes .*, but --kv-cache-memory gives 0\.001 MiB/m,
    );
  });

  it("and none where verification has memory for the weights once", async () => {
    const args = ["verify", engine["cuda:sm_80"], "--tokens", "2", "--json"];
    const { code, stdout, stderr } = await run(args, { ...GPU, memory: 40e6 });
    expect(code, stderr).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ ok: true });
  });

  it("with the numbers where memory is short: of the weights, of the cache", async () => {
    const weights = await refused(1, ["run", engine["cuda:sm_80"], ...ask, "--kv-cache-memory", "2MiB"], {
      ...GPU,
      memory: 10e6,
    });
    expect(weights).toMatch(
      /weights take 22\.1 MiB, the arena [\d.]+ MiB, the KV cache [\d.]+ MiB, and 9\.5 MiB of 9\.5 MiB are free: use a smaller model or a GPU with more memory/,
    );
    const cache = await refused(1, ["run", engine["cuda:sm_80"], ...ask], { ...GPU, memory: 1e6 });
    expect(cache).toMatch(
      /^ingot: a KV cache for one sequence of 128 tokens takes 0\.750 MiB, but 0\.000 MiB is left \(0\.954 MiB free, .*weights 22\.1 MiB/m,
    );
  });
});

describe("ingot doctor", () => {
  const examined = async (device: FakeDevice, env: NodeJS.ProcessEnv = {}) => {
    const { code, stdout } = await run(["doctor", "--json"], device, { env });
    const { gpu, nvcc, problems } = JSON.parse(stdout);
    return { code, gpu, nvcc, problems };
  };

  it("finds GPU and nvcc", async () => {
    const nvcc = "nvcc release 13.0, V13.0.0";
    const found = { code: 0, gpu: { name: "NVIDIA Fake 86", target: "cuda:sm_80" }, nvcc, problems: [] };
    expect(await examined({ ...GPU, sm: 86 })).toMatchObject(found);
  });

  it("says why a driver that is there gives no GPU", async () => {
    const problem = async (device: FakeDevice, env: NodeJS.ProcessEnv = {}) => {
      const { code, gpu, problems } = await examined(device, env);
      expect({ code, gpu, count: problems.length }).toEqual({ code: 1, gpu: null, count: 1 });
      return problems[0];
    };
    expect(await problem({ ...GPU, devices: 0 })).toMatch(/the driver sees no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES$/);
    expect(await problem({ ...GPU, fail: "cuDevicePrimaryCtxRetain 1" })).toMatch(/^cuDevicePrimaryCtxRetain failed: CUDA_ERROR/);
    const text = join(scratch, "libcuda.so.1");
    writeFileSync(text, "no library");
    expect(await problem(GPU, { INGOT_CUDA_DRIVER: text })).toMatch(/^no NVIDIA driver: .*libcuda\.so\.1: .*: install NVIDIA's/);
    expect(await problem(GPU, { INGOT_CUDA_DRIVER: "/no/such/libcuda.so.1" })).toMatch(/^no NVIDIA driver: \/no\/such/);
  });

  it("says what is amiss with a compiler named in NVCC", async () => {
    expect(await examined(GPU, { NVCC: "/no/such/nvcc" })).toMatchObject({
      code: 1,
      nvcc: null,
      problems: [expect.stringMatching(/^NVCC is "\/no\/such\/nvcc", which does not run as nvcc/)],
    });
    const old = join(scratch, "nvcc-11");
    writeFileSync(old, readFileSync(SIMT_NVCC, "utf8").replaceAll("13.0", "11.8"), { mode: 0o755 });
    expect(await examined(GPU, { NVCC: old })).toMatchObject({
      code: 1,
      nvcc: null,
      problems: [expect.stringMatching(/nvcc-11 is nvcc release 11\.8, V11\.8\.0, too old for these kernels\. Install the CUDA/)],
    });
  });
});
