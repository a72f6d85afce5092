import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { runnableTargets } from "../support/compiled-engine.ts";
import { commandLine, pebble, root } from "../support/ingot-command.ts";

const { run, scratch } = commandLine("verify");
const recorded = join(root, "../shared/golden/qwen3");
const small = ["--kv-cache-memory", "64MiB"];

/** A copy of an engine with one kernel's text changed, built. */
async function mutated(name: string, engine: string, kernel: RegExp, from: string, to: string): Promise<string> {
  const folder = join(scratch, name);
  cpSync(engine, folder, { recursive: true });
  const files = readdirSync(join(folder, "kernels")).filter((file) => kernel.test(file));
  expect(files.length).toBeGreaterThan(0);
  for (const file of files) {
    const path = join(folder, "kernels", file);
    const text = readFileSync(path, "utf8");
    expect(text).toContain(from);
    writeFileSync(path, text.replace(from, to));
  }
  const { code, stderr } = await run(["build", folder]);
  expect(code, stderr).toBe(0);
  return folder;
}

/** The greedy token's neighbour. */
const wrongSampler = (name: string, engine: string) =>
  mutated(name, engine, /^sample_.*\.cpp$/, "return (int32_t)i;", "return (int32_t)(i ^ 1);");
/** Where few rows attend, as in decode, every group of 16 positions takes the values of the first. */
const wrongDecode = (name: string, engine: string) =>
  mutated(name, engine, /^paged_attention.*\.cpp$/, "values = chunk.keys[g] + kHalfBlock", "values = chunk.keys[0] + kHalfBlock");

async function compiled(name: string, model: string, ...flags: string[]): Promise<string> {
  const folder = join(scratch, name);
  const { code, stderr } = await run(["compile", model, "-o", folder, ...flags]);
  expect(code, stderr).toBe(0);
  return folder;
}

/** The first row that is off, or null, and the exit code. */
async function verdict(...args: string[]) {
  const { code, stdout, stderr } = await run(["verify", ...args, "--json", ...small]);
  expect(stdout, stderr).not.toBe("");
  return { code, first: JSON.parse(stdout).firstFailure };
}

describe("ingot verify without recorded activations", () => {
  it("compares every layer with the interpreter, as a table and as JSON", async () => {
    const table = await run(["verify", pebble, "--tokens", "6", ...small]);
    expect(table.code, table.stdout + table.stderr).toBe(0);
    expect(table.stderr).toContain("no recorded activations: comparing with the interpreter on random tokens …\n");
    expect(table.stdout).toMatch(/^prompt +tokens +what +error +allowed\n/);
    expect(table.stdout).toMatch(/\n +1 +6 +sampler +0 +0 +ok\n/);
    expect(table.stdout).toMatch(/\n\npassed: 34 comparisons, bfloat16 against interpreter\n$/);
    const { stdout } = await run(["verify", pebble, "--tokens", "2", "--json", ...small]);
    const result = JSON.parse(stdout);
    expect(result).toMatchObject({ ok: true, firstFailure: null, reference: "interpreter", dtype: "bfloat16" });
    const layers = Array.from({ length: 7 }, (_, l) => `hidden.${l}`);
    const tensors = [...layers, "logits"];
    expect(result.rows.filter((r: { prompt: number }) => r.prompt === 1).map((r: { what: string }) => r.what)).toEqual([
      ...tensors,
      ...tensors.map((what) => `decode.${what}`),
      "sampler",
    ]);
  });

  it.each(runnableTargets)("passes a good engine for %s, at one token, beyond a KV block and off every tile", async (target) => {
    const { code, stdout } = await run(["verify", pebble, "--target", target, "--json", ...small]);
    const { rows, firstFailure } = JSON.parse(stdout);
    expect(firstFailure).toBeNull();
    expect(new Set(rows.map((r: { tokens: number }) => r.tokens))).toEqual(new Set([1, 33, 130]));
    expect(code).toBe(0);
  });

  it.each(["float32", "float16"])("passes a good engine in %s", async (dtype) => {
    expect(await verdict(pebble, "--dtype", dtype)).toEqual({ code: 0, first: null });
  });

  it("takes the shorter prompts that a small context holds", async () => {
    const { code, stdout } = await run(["verify", pebble, "--max-model-len", "40", "--json", ...small]);
    const tokens = new Set(JSON.parse(stdout).rows.map((r: { tokens: number }) => r.tokens));
    expect([code, ...tokens]).toEqual([0, 1, 32]);
  });

  it("compares the sampler with the logits whatever the model's generation config asks for", async () => {
    const engine = await compiled("penalized", pebble);
    writeFileSync(join(engine, "generation_config.json"), JSON.stringify({ repetition_penalty: 100, do_sample: true }));
    expect(await verdict(engine, "--tokens", "33")).toEqual({ code: 0, first: null });
  });

  it("finds a sampler that takes the neighbour of the best token", async () => {
    const engine = await wrongSampler("sampler", await compiled("sampled", pebble));
    expect(await verdict(engine)).toMatchObject({ code: 1, first: { prompt: 0, what: "sampler", error: 8 } });
  });

  it("counts tokens that never came as wrong", async () => {
    const from = "ids[i] = sample(row, largest, floats, ints, s);";
    const engine = await mutated("silent", await compiled("speaking", pebble), /^sample_.*\.cpp$/, from, "continue;");
    expect(await verdict(engine, "--tokens", "1")).toMatchObject({ code: 1, first: { prompt: 0, what: "sampler", error: 8 } });
  });

  it("finds attention that is wrong in decode alone", async () => {
    const engine = await wrongDecode("decode", await compiled("decoded", pebble));
    const wholeTiles = await verdict(engine, "--tokens", "32");
    expect(wholeTiles).toMatchObject({ code: 1, first: { prompt: 1, tokens: 32, what: "decode.hidden.1" } });
    expect(await verdict(engine)).toMatchObject({ code: 1, first: { prompt: 1, tokens: 33 } });
  });

  it("refuses a golden folder that is none", async () => {
    const { code, stderr } = await run(["verify", pebble, "--golden", scratch, ...small]);
    expect(stderr).toContain(`${scratch} holds no golden.json; expected recorded reference activations`);
    expect(code).toBe(1);
  });
});

describe.skipIf(!existsSync(recorded))("ingot verify with recorded activations", () => {
  it("finds them in the model's folder, and demands exact greedy tokens in f32", async () => {
    const { code, stdout } = await run(["verify", recorded, "--dtype", "float32", "--json", ...small]);
    const result = JSON.parse(stdout);
    expect(result).toMatchObject({ ok: true, dtype: "float32", reference: recorded });
    expect(result.rows).toContainEqual(expect.objectContaining({ what: "greedy", error: 0, allowed: 0 }));
    expect(code).toBe(0);
  });

  it("passes a model in bf16 and finds a wrong sampler and wrong attention of few rows", async () => {
    const engine = await compiled("recorded", recorded, "--dtype", "bfloat16");
    const golden = ["--golden", recorded];
    expect(await verdict(engine, ...golden)).toEqual({ code: 0, first: null });
    const sampler = await wrongSampler("recorded-sampler", engine);
    expect(await verdict(sampler, ...golden)).toMatchObject({ code: 1, first: { prompt: 0, what: "sampler" } });
    const decode = await wrongDecode("recorded-decode", engine);
    expect(await verdict(decode, ...golden)).toMatchObject({ code: 1, first: { prompt: 2, tokens: 33 } });
  });

  it("refuses a recording of another model", async () => {
    const { code, stderr } = await run(["verify", pebble, "--golden", recorded, ...small]);
    expect(stderr).toMatch(
      /is a recording of another model: one of \d layers and a vocabulary of \d+, where this one has 6 and 4096/,
    );
    expect(code).toBe(1);
  });

  it("exits with 1 and names the first layer that differs from the folder given", async () => {
    const folder = join(scratch, "planted");
    mkdirSync(folder);
    cpSync(join(recorded, "golden.json"), join(folder, "golden.json"));
    const file = readFileSync(join(recorded, "golden.safetensors"));
    const length = Number(file.readBigUInt64LE(0));
    const header = JSON.parse(file.subarray(8, 8 + length).toString());
    const layer = Object.keys(header).find((name) => /^p\d+\.hidden\.1$/.test(name)) as string;
    file.writeFloatLE(1e3, 8 + length + header[layer].data_offsets[0]);
    writeFileSync(join(folder, "golden.safetensors"), file);
    const { code, stdout } = await run(["verify", recorded, "--golden", folder, "--dtype", "float32", ...small]);
    const prompt = /\d+/.exec(layer)?.[0];
    expect(stdout).toMatch(
      new RegExp(`\\nFAILED: first off is hidden\\.1 of prompt ${prompt} \\(\\d+ tokens\\), float32 against`),
    );
    expect(stdout).toMatch(/hidden\.1 .*OFF\n/);
    expect(code).toBe(1);
  });
});
