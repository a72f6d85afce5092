import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { commandLine, type Ended, pebble } from "../support/ingot-command.ts";

const { run, scratch } = commandLine("usage");
const VERBS = ["compile", "build", "run", "serve", "verify", "bench", "list", "show", "rm", "doctor"];

describe("help", () => {
  it("lists every verb with what it does, and nothing on stderr", async () => {
    const { code, stdout, stderr } = await run(["--help"]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    for (const verb of VERBS) expect(stdout).toMatch(new RegExp(`^  ${verb}\\b.* {2}\\w`, "m"));
  });

  it("without a verb goes to stderr with exit code 2", async () => {
    for (const args of [[], ["bench"]]) {
      const { code, stdout, stderr } = await run(args);
      expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
      expect(stderr).toContain("Usage: ingot");
    }
  });

  it("of every verb describes each flag and names its variable", async () => {
    for (const verb of [...VERBS.map((v) => [v]), ["bench", "latency"], ["bench", "throughput"]]) {
      const { code, stdout }: Ended = await run([...verb, "--help"]);
      expect(code).toBe(0);
      const whole = stdout.replace(/\n {10,}/g, " "); // descriptions go on below themselves
      const flags = whole.split("\n").filter((line) => /^ {2}-/.test(line) && !line.includes("--help"));
      for (const flag of flags) {
        const [, name] = /--(?:no-)?([a-z-]+)/.exec(flag) ?? [];
        expect(flag, `ingot ${verb.join(" ")}`).toMatch(/ {2}\S/);
        expect(flag).toContain(`env: INGOT_${name?.replaceAll("-", "_").toUpperCase()}`);
      }
      if (!["bench"].includes(verb.join(" "))) expect(flags.length, verb.join(" ")).toBeGreaterThan(0);
    }
  });
});

describe("a mistake on the command line ends with 2, a sentence and nothing on stdout:", () => {
  it.each([
    ["a misspelt verb", ["comple"], "unknown command 'comple'\n(Did you mean compile?)"],
    ["a misspelt flag", ["compile", pebble, "--taget", "x"], "unknown option '--taget'\n(Did you mean --target?)"],
    ["a missing model", ["serve"], "missing required argument 'model'\n(ingot serve --help lists its flags)"],
    ["an argument too many", ["list", "all"], "too many arguments for 'list'"],
    ["a port that is no number", ["serve", pebble, "--port", "x"], "'x' is invalid. expected a whole number from 0 to 65535."],
    ["a size that is none", ["run", pebble, "hi", "--kv-cache-memory", "lots"], "expected a size such as 8GiB"],
    ["a share above 1", ["run", pebble, "hi", "--memory-utilization", "1.5"], "expected a number from 0.01 to 1."],
    ["a temperature below 0", ["run", pebble, "hi", "--temperature", "-1"], "--temperature must be a number of at least 0"],
    ["a top-p above 1", ["run", pebble, "hi", "--top-p", "2"], "--top-p must be a number above 0 and up to 1, got 2"],
    [
      "more sequences than an engine has",
      ["run", pebble, "hi", "--max-num-seqs", "65537"],
      "expected a whole number from 1 to 65536.",
    ],
    ["an empty API key", ["serve", pebble, "--api-key", ""], "--api-key is empty: say a key, or leave it out"],
    ["an empty prompt", ["run", pebble, ""], "the prompt is empty"],
    ["an unknown target", ["compile", pebble, "--target", "cpu:mmx"], "expected native, cpu:generic, cpu:"],
    ["an unknown dtype", ["compile", pebble, "--dtype", "int3"], "expected auto, float32, bfloat16, float16"],
    ["an unknown cache dtype", ["compile", pebble, "--kv-cache-dtype", "fp4"], '--kv-cache-dtype is "fp4"; expected auto'],
    ["more context than positions", ["compile", pebble, "--max-model-len", "4096"], "the model's positions end at 2048"],
    ["more layers than there are", ["compile", pebble, "--layers", "7"], "--layers is 7, but the model has 6 layers"],
    ["no depths", ["bench", "latency", pebble, "--depths", "1,x"], "expected whole numbers such as 32,2048."],
    ["an unknown workload", ["bench", "throughput", pebble, "--workload", "x"], "expected fixed or nano-vllm"],
    ["a name of nothing", ["run", "nosuch", "hi"], "nosuch is neither a folder nor a preset; presets: qwen3-0.6b"],
    ["a preset's weights", ["compile", "qwen3-0.6b"], "qwen3-0.6b is a built-in preset without weights: add --weights random"],
    ["an engine that is none", ["show", "nosuch"], "nosuch is neither an engine folder nor an id from `ingot list`"],
    ["removing what is no engine", ["rm", pebble], "is neither an engine folder nor an id"],
    ["removing nothing", ["rm", ""], "an empty name is no engine"],
    ["removing above the cache", ["rm", ".."], ".. is neither an engine folder nor an id"],
    ["a folder without a model", ["compile", "templates"], "holds neither manifest.json"],
  ] as const)("%s", async (_, args, message) => {
    const { code, stdout, stderr }: Ended = await run(args);
    expect(stderr).toContain(message);
    expect(stderr).toMatch(/^ingot: /m);
    expect(stderr).not.toMatch(/^ {4}at /m);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
  });
});

describe("what this version does not read is refused by its kind:", () => {
  it.each([
    ["a GGUF file", "model.gguf", "GGUF files are not supported yet; name a Hugging Face folder"],
    ["a TypeScript file", "gpt9.ts", "--arch gpt9.ts"],
    ["another file", "model.bin", "is a file; expected a model or engine folder"],
    ["a repository id", "Qwen/Qwen3-0.6B", "downloading from a hub is not supported yet: name a downloaded folder"],
  ])("%s", async (_, model, message) => {
    if (!model.includes("/")) writeFileSync(join(scratch, model), "");
    const { code, stdout, stderr } = await run(["compile", model], { cwd: scratch });
    expect(stderr).toContain(message);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
  });
});

describe("INGOT_… variables", () => {
  it("say what a flag would", async () => {
    const { code, stderr } = await run(["compile", pebble], { env: { INGOT_TARGET: "cpu:mmx" } });
    expect(stderr).toContain('--target is "cpu:mmx"');
    expect(code).toBe(2);
  });

  it("that are empty say nothing", async () => {
    const { code } = await run(["compile", pebble, "-o", join(scratch, "empty")], {
      env: { INGOT_TARGET: "", INGOT_MAX_NUM_SEQS: "", INGOT_JSON: "" },
    });
    expect(code).toBe(0);
  });

  it("yield to the flag", async () => {
    const env = { INGOT_TARGET: "cpu:mmx", INGOT_DTYPE: "int3" };
    const { stderr } = await run(["compile", pebble, "--target", "cpu:generic"], { env });
    expect(stderr).toContain('--dtype is "int3"');
  });

  it("of a flag without a value say 1 or 0", async () => {
    expect((await run(["list"], { env: { INGOT_JSON: "1" } })).stdout).toBe("[]\n");
    expect((await run(["list"], { env: { INGOT_JSON: "0" } })).stdout).toContain("no engines yet");
    const { code, stderr } = await run(["list"], { env: { INGOT_JSON: "maybe" } });
    expect({ code, stderr }).toEqual({ code: 2, stderr: 'ingot: INGOT_JSON is "maybe"; expected 1 or 0\n' });
  });

  it("are named in the message when their value is not one", async () => {
    const { code, stderr } = await run(["serve", pebble], { env: { INGOT_PORT: "x" } });
    expect(stderr).toContain("'INGOT_PORT'");
    expect(code).toBe(2);
  });
});
