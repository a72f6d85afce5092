/**
 * Compiling is reproducible, does nothing twice, and survives being killed: the real command line on real models.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { engineOf } from "../../compiler/cli/engine-of.ts";
import { LLM } from "../../compiler/cli/library.ts";
import { readManifest } from "../../compiler/cli/load.ts";
import { type CompileFlags, defaultCompileFlags } from "../../compiler/cli/options.ts";
import { STAMP_FILE } from "../../runtime/engine-files.ts";
import {
  compileForTest,
  isFullRun,
  nativeTarget,
  runnableTargets,
  scratchFolder,
  testCache,
} from "../support/compiled-engine.ts";
import { writeRandomModel } from "../support/random-model.ts";

const root = join(import.meta.dirname, "../..");
const pebble = join(root, "models", "pebble");
const scratch = scratchFolder("reproducible");
/** Of a random model: one for all tests, so that its kernels are built once. */
const SEED = 11;

/** Every file of a folder by its path in it. */
function contents(folder: string): Map<string, Buffer> {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const paths = files.map((entry) => join(entry.parentPath, entry.name)).sort();
  return new Map(paths.map((path) => [relative(folder, path), readFileSync(path)]));
}

describe("two compiles of one model", () => {
  it("give the same bytes, built kernels included", async () => {
    const model = writeRandomModel(join(scratch, "model"), SEED);
    const folders = [join(scratch, "one"), join(scratch, "elsewhere", "and-with-a-longer-name")];
    for (const [i, folder] of folders.entries()) {
      // Each with a kernel cache of its own: the second compile builds everything again.
      await compileForTest(model.folder, folder, { dtype: "bfloat16" }, join(scratch, `cache-${i}`));
    }
    const [one, two] = folders.map(contents) as [Map<string, Buffer>, Map<string, Buffer>];
    expect([...two.keys()]).toEqual([...one.keys()]);
    const named = ["build/kernels.so", "index.d.ts", "index.js", "manifest.json", "package.json", "weights.bin"];
    expect([...one.keys()]).toEqual(expect.arrayContaining(named));
    // The stamp is about one copy on one disk: it is no part of the engine.
    for (const files of [one, two]) expect(files.delete(STAMP_FILE)).toBe(true);
    for (const [path, bytes] of one) expect(bytes.equals(two.get(path)!), path).toBe(true);
    for (const [path, bytes] of one) expect(bytes.includes(scratch), `${path} names its place`).toBe(false);
  });
});

describe("a second compile", () => {
  it("of the sample model does nothing, in less than a second", async () => {
    const folder = join(scratch, "twice");
    const first = await ingot(["compile", pebble, "-o", folder]);
    expect(first.code, first.output).toBe(0);
    const before = times(folder);
    const seconds: number[] = [];
    for (let attempt = 0; attempt < 3; attempt++) {
      const start = performance.now();
      const next = await ingot(["compile", pebble, "-o", folder]);
      seconds.push((performance.now() - start) / 1000);
      expect(next.code).toBe(0);
      expect(next.output).toMatch(/is up to date \(.*\): nothing to do/);
      expect(times(folder)).toEqual(before);
    }
    expect(Math.min(...seconds)).toBeLessThan(1); // of three: the machine may be busy
  });

  it("for another dtype or target is another engine", async () => {
    const target = nativeTarget;
    process.env.INGOT_CACHE = join(scratch, "cache");
    const { folder } = writeRandomModel(join(scratch, "several"), SEED);
    const flags: readonly Partial<CompileFlags>[] = [
      { target },
      { target, dtype: "bfloat16" },
      { target, kvCacheDtype: "float16" },
      { target, maxNumSeqs: 3 },
      ...(runnableTargets.length > 1 ? [{ target: runnableTargets[0]! }] : []),
    ];
    const engines: string[] = [];
    for (const some of flags) engines.push(await engineOf(folder, { ...defaultCompileFlags(), ...some }));
    expect(new Set(engines).size).toBe(engines.length);
    for (const engine of engines) expect(readManifest(engine).kernels.length).toBeGreaterThan(5);
    expect(await engineOf(folder, { ...defaultCompileFlags(), target })).toBe(engines[0]);
  });
});

describe.runIf(isFullRun && process.platform === "linux")("compiling a model of 1.2 GB", () => {
  it("takes less memory than its largest tensor and 512 MB", async () => {
    const { started, ended } = start(["compile", "qwen3-0.6b", "--weights", "random", "-o", join(scratch, "large")]);
    let peak = 0; // kB
    const timer = setInterval(() => {
      const status = existsSync(`/proc/${started.pid}/status`) ? readFileSync(`/proc/${started.pid}/status`, "utf8") : "";
      peak = Math.max(peak, Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0));
    }, 50);
    const end = await ended;
    clearInterval(timer);
    expect(end.code, end.output).toBe(0);
    const largest = 151936 * 1024 * 2;
    expect(statSync(join(scratch, "large", "weights.bin")).size).toBeGreaterThan(1e9);
    expect(peak * 1024).toBeGreaterThan(30e6);
    expect(peak * 1024).toBeLessThan(1.2 * largest + 512e6);
  }, 300_000);
});

describe("a compile that is killed", () => {
  let child: ChildProcess | undefined;
  afterEach(() => child?.kill("SIGKILL"));

  it.each([
    ["while it packs weights", "weights.bin"],
    ["while it builds kernels", "build"],
  ])("%s leaves no engine, and the next one recovers", async (_, mark) => {
    const place = join(scratch, `killed-at-${mark}`);
    mkdirSync(place);
    const engine = join(place, "engine");
    const isBuilding = mark === "build"; // then a cache of its own, so that there are kernels to build
    const env = { INGOT_CACHE: isBuilding ? join(scratch, "killed-cache") : testCache };
    const { started, ended } = start(["compile", pebble, "-o", engine], env);
    child = started;
    const temporary = await appears(place, mark, ended);
    started.kill("SIGKILL");
    await ended;
    expect(readdirSync(place)).toEqual([temporary]);

    const next = await ingot(["compile", pebble, "-o", engine], env);
    expect(next.code, next.output).toBe(0);
    expect(readdirSync(place)).toEqual(["engine"]);
    const llm = await LLM.load(engine, { kvCacheMemoryBytes: 2 ** 27 });
    const [output] = await llm.generate("Once upon a time", { temperature: 0, maxTokens: 4 });
    await llm.close();
    expect(output!.outputs[0]!.text).toBe(", a little cow");
  });
});

describe("LLM.load of the library", () => {
  it("compiles a model folder on first use and finds the engine on the second", async () => {
    process.env.INGOT_CACHE = join(scratch, "cache");
    const { folder } = writeRandomModel(join(scratch, "library"), SEED);
    const generate = async (path: string) => {
      const llm = await LLM.load(path, { kvCacheMemoryBytes: 2 ** 26 });
      const [output] = await llm.generate([[1, 2, 3]], { temperature: 0, maxTokens: 5, ignoreEos: true });
      await llm.close();
      return output!.outputs[0]!.tokenIds;
    };
    const first = await generate(folder);
    const engines = join(scratch, "cache", "engines");
    const own = readdirSync(engines).filter((name) => name.startsWith("library-"));
    expect(own).toHaveLength(1);
    const engine = join(engines, own[0]!);
    const before = times(engine);
    expect(await generate(folder)).toEqual(first);
    expect(times(engine)).toEqual(before);
    expect(await generate(engine)).toEqual(first);
    rmSync(folder, { recursive: true }); // the engine needs its model no more
    expect(await generate(engine)).toEqual(first);
  });

  it("compiles again when the checkpoint has changed", async () => {
    process.env.INGOT_CACHE = join(scratch, "cache");
    const { folder } = writeRandomModel(join(scratch, "changed"), SEED);
    const logits = async () => {
      const llm = await LLM.load(folder, { kvCacheMemoryBytes: 2 ** 26 });
      const { logits } = await llm.forward([1, 2, 3]);
      await llm.close();
      return logits;
    };
    const first = await logits();
    const weights = readFileSync(join(folder, "model.safetensors"));
    for (let at = Math.floor(weights.length * 0.7); at < weights.length; at++) weights[at]! ^= 1;
    writeFileSync(join(folder, "model.safetensors"), weights);
    expect(await logits()).not.toEqual(first);
  });
});

const times = (folder: string) => [...contents(folder).keys()].map((path) => [path, statSync(join(folder, path)).mtimeMs]);

interface Ended {
  readonly code: number | null;
  readonly output: string;
}

/** Starts the built command line. */
function start(args: readonly string[], env: Record<string, string> = {}): { started: ChildProcess; ended: Promise<Ended> } {
  const started = spawn(process.execPath, [join(root, "dist", "ingot.js"), ...args], {
    env: { ...process.env, INGOT_CACHE: testCache, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  started.stdout.on("data", (data: Buffer) => (output += data));
  started.stderr.on("data", (data: Buffer) => (output += data));
  return { started, ended: new Promise((resolve) => started.once("close", (code) => resolve({ code, output }))) };
}

const ingot = (args: readonly string[], env: Record<string, string> = {}): Promise<Ended> => start(args, env).ended;

/** Waits until the temporary folder of a compile holds `file`; the result is the folder's name. */
async function appears(place: string, file: string, ended: Promise<Ended>): Promise<string> {
  let end: Ended | undefined;
  void ended.then((e) => (end = e));
  for (;;) {
    const temporary = readdirSync(place).find((name) => name.startsWith("engine.tmp-"));
    if (temporary && readdirSync(join(place, temporary)).includes(file)) return temporary;
    if (end) throw new Error(`the compile ended before it could be killed: ${end.output}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
