import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import type { Manifest } from "../../runtime/manifest.ts";
import { commandLine, pebble } from "../support/ingot-command.ts";

const { run, cache, scratch } = commandLine("engines");
const engine = join(scratch, "pebble-engine");
/** Limits that load fast and leave memory to others. */
const small = ["--kv-cache-memory", "64MiB"];
const greedy = ["--temperature", "0", "--max-tokens", "8", ...small];

const manifestOf = (folder: string) => JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8")) as Manifest;

beforeAll(async () => {
  const { code, stderr } = await run(["compile", pebble, "-o", engine, "--max-model-len", "512"]);
  expect(code, stderr).toBe(0);
});

describe("ingot compile", () => {
  it("says what it chose on stderr, what it made on stdout, and shows no bar where there is no terminal", async () => {
    const { code, stdout, stderr } = await run(["compile", pebble]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^.*pebble-cpu-.*\n\d+ kernels for cpu:\S+, 11\.6 MB of weights \(generated in .* built in .*\)\n$/);
    expect(stderr).toMatch(/^native target: cpu:\S+ \(.*\)\n$/);
  });

  it("does nothing the second time", async () => {
    await run(["compile", pebble]);
    const { code, stdout } = await run(["compile", pebble]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/is up to date \(cpu:\S+\): nothing to do\n$/);
  });

  it("reports as JSON and nothing else on stdout", async () => {
    const { stdout } = await run(["compile", pebble, "-o", engine, "--max-model-len", "512", "--json"]);
    expect(JSON.parse(stdout)).toMatchObject({
      folder: engine,
      upToDate: true,
      target: expect.stringMatching(/^cpu:/),
      kernels: manifestOf(engine).kernels.length,
    });
  });

  it("says for each kernel which lines of the model it computes", async () => {
    const folder = join(scratch, "origins");
    await run(["compile", pebble, "-o", folder, "--no-build"]);
    const { kernels } = manifestOf(folder);
    const origins = kernels.filter((k) => !k.name.startsWith("sample")).map((k) => k.origins);
    expect(origins.every((of) => of.length > 0)).toBe(true);
    expect(origins.flat().filter((origin) => !/ \(models\/\w+\.ts:\d+(, models\/\w+\.ts:\d+)*\)$/.test(origin))).toEqual([]);
    expect(origins.flat()).toContainEqual(expect.stringMatching(/^layers\.0\.mlp\.down_proj .*\(models\/layers\.ts:/));
  });

  it("without building leaves sources that `ingot build` builds and then finds built", async () => {
    const unbuilt = join(scratch, "unbuilt");
    expect((await run(["compile", pebble, "-o", unbuilt, "--no-build"])).stdout).toContain("not built");
    const refused = await run(["run", unbuilt, "hi"]);
    expect(refused.stderr).toBe(`ingot: the kernels of ${unbuilt} are not built: build it with \`npx ingot build ${unbuilt}\`\n`);
    expect(refused.code).toBe(1);
    const built = await run(["build", unbuilt, "--json"]);
    expect(JSON.parse(built.stdout)).toMatchObject({ folder: unbuilt, changed: true, library: { file: "build/kernels.so" } });
    expect(JSON.parse((await run(["build", unbuilt, "--json"])).stdout)).toMatchObject({ changed: false });
    expect((await run(["run", unbuilt, "hi", ...greedy])).code).toBe(0);
  });

  it("without weights leaves the kernels of a model larger than this disk, which do not run", async () => {
    const folder = join(scratch, "no-weights");
    const flags = ["--weights", "random", "--no-weights-file", "--target", "cpu:generic", "--no-build"];
    const { code, stdout, stderr } = await run(["compile", "qwen3-30b-a3b", ...flags, "-o", folder]);
    expect(code, stderr).toBe(0);
    expect(stdout).toMatch(/\d\d kernels for cpu:generic, 61\.\d+ GB of weights \(generated in .*, not packed, not built\)/);
    expect(existsSync(join(folder, "weights.bin"))).toBe(false);
    expect((await run(["compile", "qwen3-30b-a3b", ...flags, "-o", folder])).stdout).toContain("is up to date");
    const small = join(scratch, "no-weights-small");
    await run(["compile", pebble, "--no-weights-file", "-o", small]);
    const answer = await run(["run", small, "Hello"]);
    expect(answer.code).toBe(1);
    expect(answer.stderr).toContain(`${small} was compiled without its weights (--no-weights-file): compile the model again`);
  });

  it("refuses an engine as its model and says what would build it", async () => {
    const { code, stderr } = await run(["compile", engine]);
    expect({ code, stderr }).toEqual({
      code: 2,
      stderr: `ingot: ${engine} is an engine already; to build its kernels here: ingot build ${engine}\n`,
    });
  });

  it("makes an engine of random weights from a preset's shapes", async () => {
    const folder = join(scratch, "preset");
    const flags = ["--weights", "random", "--layers", "1", "--no-build", "--json", "--max-model-len", "256"];
    const { code, stdout, stderr } = await run(["compile", "qwen2.5-0.5b", "-o", folder, ...flags]);
    expect(code, stderr).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ upToDate: false });
    const shown = JSON.parse((await run(["show", folder, "--json"])).stdout);
    expect(shown.model).toMatchObject({ numLayers: 1, hiddenSize: 896, vocabSize: 151936 });
    rmSync(folder, { recursive: true });
  });
});

describe("ingot run", () => {
  it("answers on stdout", async () => {
    const { code, stdout } = await run(["run", engine, "What is a seed?", ...greedy]);
    expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringMatching(/^\w.*\n$/s) });
  });

  it("reads the prompt from standard input, with - and without", async () => {
    const asked = await run(["run", engine, "What is a seed?", ...greedy]);
    for (const argument of [["-"], []]) {
      const { stdout } = await run(["run", engine, ...argument, ...greedy], { input: "What is a seed?" });
      expect(stdout).toBe(asked.stdout);
    }
  });

  it("tells text, tokens and times as JSON", async () => {
    const { stdout } = await run(["run", engine, "What is a seed?", ...greedy, "--json"]);
    const asked = await run(["run", engine, "What is a seed?", ...greedy]);
    const result = JSON.parse(stdout);
    expect(result).toMatchObject({ tokens: expect.any(Number), finishReason: expect.stringMatching(/^(stop|length)$/) });
    expect(`${result.text}\n`).toBe(asked.stdout);
  });

  it("takes token ids in the place of a prompt, and gives token ids", async () => {
    const asked = await run(["run", engine, "--prompt-ids", "5,6,7", ...greedy, "--ignore-eos"]);
    expect(asked.stdout).toMatch(/^\d+(,\d+){7}\n$/);
    const json = await run(["run", engine, "--prompt-ids", "5,6,7", ...greedy, "--ignore-eos", "--json"]);
    expect(`${JSON.parse(json.stdout).tokenIds}\n`).toBe(asked.stdout);
    for (const [prompt, said] of [
      [["--prompt-ids", "5,x"], "expected a whole number of at least 0"],
      [["--prompt-ids", "5", "hi"], "give one of them"],
    ] as const) {
      const { code, stderr } = await run(["run", engine, ...prompt]);
      expect(stderr).toContain(said);
      expect(code).toBe(2);
    }
  });

  it("compiles a model folder on first use, and uses the cached engine after", async () => {
    expect((await run(["run", pebble, "hi", ...greedy])).code).toBe(0);
    const engines = readdirSync(join(cache, "engines"));
    expect((await run(["run", pebble, "hi", ...greedy])).code).toBe(0);
    expect(readdirSync(join(cache, "engines"))).toEqual(engines);
  });

  it("gives the same text for the same seed and completes raw prompts without the template", async () => {
    const flags = ["--raw", "--max-tokens", "12", "--temperature", "1", ...small];
    const once = await run(["run", engine, "Once upon a time", "--seed", "7", ...flags]);
    const again = await run(["run", engine, "Once upon a time", "--seed", "7", ...flags]);
    expect(once.stdout).toBe(again.stdout);
  });

  it("refuses a prompt over the limit with the numbers", async () => {
    const { code, stdout, stderr } = await run(["run", engine, "word ".repeat(3000), ...small]);
    expect(stderr).toMatch(/^ingot: the prompt of \d{4,} tokens does not fit in the context of 512 tokens/);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
  });

  it("lowers an engine's limits, and refuses to raise them", async () => {
    const lowered = await run(["run", engine, "word ".repeat(40), "--max-model-len", "32", ...small]);
    expect(lowered.stderr).toMatch(/tokens.*\b32\b/);
    const raised = await run(["run", engine, "hi", "--max-model-len", "4096", ...small]);
    expect(raised.stderr).toContain("--max-model-len 4096 is above the engine's 512: compile the model again");
  });

  it("refuses flags that would change a compiled engine", async () => {
    const { code, stderr } = await run(["run", engine, "hi", "--dtype", "float32"]);
    expect(stderr).toContain(`--dtype float32 cannot change ${engine}, an engine compiled with bfloat16`);
    expect(code).toBe(2);
  });

  it("refuses a KV cache that does not fit, with the numbers", async () => {
    const little = await run(["run", engine, "hi", "--kv-cache-memory", "10kB"]);
    expect(little.stderr).toMatch(
      /a KV cache for one sequence of 512 tokens takes \S+ MiB, but --kv-cache-memory gives 0\.\d+ MiB/,
    );
    const much = await run(["run", engine, "hi", "--kv-cache-memory", "1000TiB", "--max-model-len", "512"]);
    expect(much.code === 0 || /is more than the \S+ GiB of free memory: lower it/.test(much.stderr)).toBe(true);
  });
});

describe("ingot list, show and rm", () => {
  it("know an engine by its id, and forget it when it is removed", async () => {
    const made = JSON.parse((await run(["compile", pebble, "--max-num-seqs", "8", "--json"])).stdout);
    const id = made.folder.slice(join(cache, "engines").length + 1);
    const listed = JSON.parse((await run(["list", "--json"])).stdout);
    expect(listed).toContainEqual(expect.objectContaining({ id, model: "pebble", folder: made.folder, dtype: "bfloat16" }));
    expect((await run(["list"])).stdout).toContain(id);
    expect(JSON.parse((await run(["show", id, "--json"])).stdout)).toMatchObject({ name: "pebble", limits: { maxNumSeqs: 8 } });
    expect((await run(["show", id])).stdout).toMatch(/architecture +Qwen3ForCausalLM\n/);
    expect((await run(["rm", id])).stdout).toBe(`removed ${made.folder}\n`);
    expect(existsSync(made.folder)).toBe(false);
    expect((await run(["rm", id])).code).toBe(2);
  });

  it("a damaged engine is listed as damaged and can be removed", async () => {
    const made = JSON.parse((await run(["compile", pebble, "--max-num-seqs", "4", "--json"])).stdout);
    const id = made.folder.slice(join(cache, "engines").length + 1);
    writeFileSync(join(made.folder, "manifest.json"), "{");
    const { code, stdout, stderr } = await run(["list"]);
    expect(code).toBe(0);
    expect(stdout).not.toContain(id);
    expect(stderr).toMatch(new RegExp(`${id}/manifest.json is not JSON`));
    expect((await run(["rm", id])).code).toBe(0);
    expect(existsSync(made.folder)).toBe(false);
  });
});

describe("ingot rm", () => {
  it("removes an engine outside the cache by its path", async () => {
    const folder = join(scratch, "copy");
    cpSync(engine, folder, { recursive: true });
    expect((await run(["rm", folder])).stdout).toBe(`removed ${folder}\n`);
    expect(existsSync(folder)).toBe(false);
  });

  it("removes nothing when one of the folders is no engine, even with a manifest.json of its own", async () => {
    const extension = join(scratch, "extension");
    const folder = join(scratch, "kept");
    cpSync(engine, folder, { recursive: true });
    mkdirSync(join(extension, "kernels"), { recursive: true });
    writeFileSync(join(extension, "manifest.json"), '{"manifest_version": 3, "name": "an extension", "version": "1.0"}');
    const { code, stdout, stderr } = await run(["rm", folder, extension]);
    expect(stderr).toContain(
      `ingot: nothing was removed: ${extension} is not in the cache, and its manifest.json is not one of an`,
    );
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(readdirSync(extension).sort()).toEqual(["kernels", "manifest.json"]);
    expect(existsSync(folder)).toBe(true);
    const parent = await run(["rm", ".."], { cwd: extension });
    expect({ code: parent.code, left: existsSync(extension) }).toEqual({ code: 2, left: true });
  });

  it("removes an engine of the cache that lost its manifest, which list names", async () => {
    const made = JSON.parse((await run(["compile", pebble, "--max-num-seqs", "4", "--json"])).stdout);
    rmSync(join(made.folder, "manifest.json"));
    const id = basename(made.folder);
    expect((await run(["list"])).stderr).toMatch(
      new RegExp(`${id}/manifest.json is missing: .*, or remove it: ingot rm ${id}\n`),
    );
    expect((await run(["show", id])).stderr).toContain("manifest.json is missing: compile the model again");
    expect((await run(["rm", id])).stdout).toBe(`removed ${made.folder}\n`);
    expect(existsSync(made.folder)).toBe(false);
  });

  it("does not take the cache itself for an engine", async () => {
    for (const name of [".", ".."]) {
      const { code, stderr } = await run(["rm", name], { cwd: cache });
      expect(stderr).toContain(`${name} is neither an engine folder nor an id from`);
      expect(code).toBe(2);
    }
    expect(existsSync(join(cache, "engines"))).toBe(true);
  });

  it("knows ids of a cache named by a relative path", async () => {
    const env = { INGOT_CACHE: "cache" };
    const made = JSON.parse((await run(["compile", pebble, "--max-num-seqs", "4", "--json"])).stdout);
    const { code, stdout } = await run(["rm", basename(made.folder)], { cwd: scratch, env });
    expect({ code, stdout }).toEqual({ code: 0, stdout: `removed ${made.folder}\n` });
  });
});

describe("ingot bench", () => {
  it("latency measures prefill and decode at each depth", async () => {
    const flags = ["--input-len", "32", "--output-len", "4", "--depths", "8,64", "--num-iters", "2", ...small];
    const { code, stdout, stderr } = await run(["bench", "latency", engine, ...flags, "--json"]);
    expect(code, stderr).toBe(0);
    const result = JSON.parse(stdout);
    expect(result).toMatchObject({ model: "pebble", prefill: { promptTokens: 32 }, decode: [{ depth: 8 }, { depth: 64 }] });
    expect(result.readBandwidthGBs).toBeGreaterThan(0.1);
    expect((await run(["bench", "latency", engine, ...flags])).stdout).toMatch(/4 tokens at depth 64 +[\d.]+/);
  });

  it("throughput serves a fixed workload with vLLM's result keys", async () => {
    const flags = ["--num-prompts", "3", "--input-len", "16", "--output-len", "4", ...small];
    const { code, stdout, stderr } = await run(["bench", "throughput", engine, ...flags, "--json"]);
    expect(code, stderr).toBe(0);
    const { metrics } = JSON.parse(stdout);
    expect(metrics).toMatchObject({ completed: 3, total_input_tokens: 48, total_output_tokens: 12 });
    expect(metrics.median_ttft_ms).toBeGreaterThan(0);
    expect((await run(["bench", "throughput", engine, ...flags])).stdout).toMatch(/output tok\/s +[\d.]+/);
  });

  it("throughput knows the nano-vllm workload, and refuses it where it does not fit", async () => {
    const long = await run(["bench", "throughput", engine, "--workload", "nano-vllm", "--num-prompts", "4", ...small]);
    expect(long.code).toBe(1);
    expect(long.stderr).toMatch(/512/);
    const flags = ["--workload", "nano-vllm", "--num-prompts", "2", "--kv-cache-memory", "128MiB", "--json"];
    const { code, stdout, stderr } = await run(["bench", "throughput", pebble, ...flags]);
    expect(code, stderr).toBe(0);
    expect(JSON.parse(stdout).metrics).toMatchObject({ completed: 2 });
  });
});

describe("ingot doctor", () => {
  it("says what the machine has, as a page and as JSON", async () => {
    const page = await run(["doctor"]);
    expect(page.code, page.stderr).toBe(0);
    expect(page.stdout).toMatch(/native target +cpu:\w+/);
    expect(page.stdout).toMatch(/no problems found\n$/);
    const found = JSON.parse((await run(["doctor", "--json"])).stdout);
    expect(found).toMatchObject({ node: process.version, problems: [], caches: { engines: join(cache, "engines") } });
    expect(found.readBandwidthGBs).toBeGreaterThan(0.1);
  });
});
