import { cpSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { describe, expect, it } from "vitest";
import { commandLine, pebble, root } from "../support/ingot-command.ts";
import { changedModel } from "../support/model-folder.ts";
import { ownArchitecture } from "../support/own-architecture.ts";

const { run, cache, scratch, start } = commandLine("own-architecture");
const compile = (file: string, ...flags: string[]) => run(["compile", pebble, "--arch", file, ...flags]);
const small = ["--max-model-len", "64", "--max-num-batched-tokens", "64", "--max-num-seqs", "4"];

/** Without the line that says which target was chosen. */
const message = (stderr: string) => stderr.replace(/^native target: .*\n/m, "");

type Change = readonly [from: string, to: string];
/** The number of the line that holds a text. */
type LineOf = (text: string) => number;
const DEFINED = "export const own";
/** What is wrong, how, and what the message must hold. */
const FAULTS: readonly (readonly [string, readonly Change[], (line: LineOf) => readonly string[]])[] = [
  [
    "two type errors, here and there",
    [
      ["const bias = read.attention_bias", "const bias: string = read.attention_bias"],
      ["const normed = models.rmsNorm(g, x,", "const normed = models.rmsNorm(g, 7,"],
    ],
    (line) => [
      `own.ts:${line("const bias")}:11: Type 'boolean' is not assignable to type 'string'`,
      `own.ts:${line("const normed")}:42: Argument of type 'number' is not assignable to parameter of type 'Node'`,
    ],
  ],
  [
    "an op that does not exist",
    [["g.linear(last", "g.lineal(last"]],
    (line) => [`own.ts:${line("g.lineal")}:19: Property 'lineal' does not exist on type 'Graph'`],
  ],
  [
    "an op that only a cast lets pass",
    [["g.linear(last, table)", "(g as any).lineal(last, table)"]],
    (line) => [`/own.ts:${line("lineal")}: build of Qwen3ForCausalLM threw TypeError: g.lineal is not a function`],
  ],
  [
    "a name of an op that only a cast lets pass",
    [["g.linear(last, table)", 'g.add("lineal" as any, [last, table] as any, {} as any) as Node']],
    (line) => ["lineal at the top of the model (", `/own.ts:${line("lineal")}): there is no such op; ops: input, weight,`],
  ],
  ["no syntax", [["build(config, g) {", "build(config, g) {{"]], (line) => [`own.ts:${line("},\n});")}:4: Unexpected`]],
  [
    "an import of nothing",
    [['from "zod"', 'from "./zed.ts"']],
    (line) => [`own.ts:${line("./zed.ts")}:19: Could not resolve "./zed.ts"`],
  ],
  [
    "a throw when it is imported",
    [["const fields =", 'throw new RangeError("too soon");\nconst fields =']],
    (line) => [`/own.ts:${line("too soon")}: threw when it was imported: RangeError: too soon`],
  ],
  [
    "a throw in readConfig",
    [["const bias =", 'if (facts.numLayers > 0) throw new Error("no");\n    const bias =']],
    (line) => [`/own.ts:${line("throw new")}: readConfig of Qwen3ForCausalLM threw Error: no`],
  ],
  [
    "a throw in build of what is no error",
    [["const { hiddenSize", 'if (config.numLayers > 0) throw "a string";\n    const { hiddenSize']],
    (line) => [`/own.ts:${line(DEFINED)}: build of Qwen3ForCausalLM threw a string`],
  ],
  [
    "a throw of an object",
    [["const { hiddenSize", "if (config.numLayers > 0) throw Object.create(null);\n    const { hiddenSize"]],
    (line) => [`/own.ts:${line(DEFINED)}: build of Qwen3ForCausalLM threw [Object: null prototype] {}`],
  ],
  [
    "a throw in unusedTensors",
    [["build(config, g) {", 'unusedTensors() {\n    throw new Error("which?");\n  },\n  build(config, g) {']],
    (line) => [`/own.ts:${line("which?")}: unusedTensors of Qwen3ForCausalLM threw Error: which?`],
  ],
  [
    "a definition that only a cast lets pass",
    [
      ["build(config, g) {", "build: 3 as any,\n  unusedTensors(config) {\n    const g = {} as any;"],
      ["g.setLogits(g.linear(last, table));", "return [];"],
    ],
    (line) => [`/own.ts:${line(DEFINED)}: defineArchitecture takes { name, readConfig, build }`, "build: 3"],
  ],
  [
    "a field that its own schema refuses",
    [["models.readFields(json, fields)", "fields.extend({ hidden_size: z.string() }).parse(json) as any"]],
    (line) => [
      `/own.ts:${line("z.string()")}: readConfig of Qwen3ForCausalLM threw for config.json:`,
      "expected string, received number",
      "at hidden_size",
    ],
  ],
  [
    "facts that are missing",
    [["return { ...facts, layers", "return { ...(({ numKvHeads, vocabSize, ...rest }) => rest)(facts) as typeof facts, layers"]],
    (line) => [
      "Qwen3ForCausalLM (",
      `/own.ts:${line(DEFINED)}): readConfig gave numKvHeads: expected a whole number from 1 to 4096, found nothing`,
      "readConfig gave vocabSize: expected",
    ],
  ],
  [
    "a wrong shape",
    [["g.linear(last, table)", "g.linear(x, g.reshape(last, [7, 3]))"]],
    (line) => [
      "reshape at the top of the model (",
      `/own.ts:${line("[7, 3]")}): x is (S, 256) but the shape asked for is (7, 3)`,
    ],
  ],
  [
    "a wrong shape within a shared layer",
    [["intermediateSize: config.intermediateSize, bias: false", "intermediateSize: 0.5, bias: false"]],
    (line) => [
      "weight at layers.0.mlp.gate_proj (",
      `/own.ts:${line("gatedMlp")}): weight model.layers.0.mlp.gate_proj.weight is (0.5, 256)`,
    ],
  ],
  [
    "no logits",
    [["g.setLogits(", "void ("]],
    (line) => ["Qwen3ForCausalLM (", `/own.ts:${line(DEFINED)}): build set no logits; it must end with g.setLogits(node)`],
  ],
  [
    "no taps",
    [["if (layer + 1 < config.numLayers)", "if (layer + 1 < 1)"]],
    (line) => [`/own.ts:${line(DEFINED)}): build set no tap hidden.1; expected`],
  ],
  [
    "a tap set twice",
    [["const last =", 'g.tap("hidden.0", x);\n    const last =']],
    (line) => ["tap hidden.0 at the top of the model (", `/own.ts:${line('.tap("hidden.0", x)')}): set twice`],
  ],
  [
    "a build that is async",
    [["build(config, g) {", "async build(config, g) {"]],
    (line) => [`/own.ts:${line(DEFINED)}): build is async`],
  ],
  [
    "a weight that the checkpoint lacks",
    [['"post_attention_layernorm"', '"third_layernorm"']],
    (line) => [
      "there is no tensor model.layers.{0..5}.third_layernorm.weight (256), asked for at layers.0.third_layernorm (",
      `/own.ts:${line("third_layernorm")}); the checkpoint has model.layers.0.post_attention_layernorm.weight, which nothing reads. `,
    ],
  ],
  [
    "a weight of another shape",
    [
      ["shape: [vocabSize, hiddenSize]", "shape: [vocabSize + 16, hiddenSize]"],
      ["return { ...facts, layers", "return { ...facts, vocabSize: 4112, layers"],
      ["const { hiddenSize, vocabSize,", "const vocabSize = 4096;\n    const { hiddenSize,"],
    ],
    (line) => [
      "model.embed_tokens.weight is (4096, 256)",
      "your build wants (4112, 256), asked for at the top of the model (",
      `/own.ts:${line("vocabSize + 16")})`,
    ],
  ],
  [
    "tensors that it never reads",
    [['qkNorm: { over: "heads" as const, eps }', "qkNorm: null"]],
    () => [
      "your build never reads 12 tensors of the checkpoint: model.layers.{0..5}.self_attn.k_norm.weight, model.layers.{0..5}.self_attn.q_norm.weight.",
      "unusedTensors: () => [{ prefix",
    ],
  ],
  [
    "another name",
    [['"Qwen3ForCausalLM"', '"OwnForCausalLM"']],
    () => ["config.json names Qwen3ForCausalLM, but ", "own.ts describes OwnForCausalLM", "leave --arch out"],
  ],
  [
    "nothing exported",
    [["export const own", "export const other = 1; const own"]],
    () => ["own.ts exports other, but no architecture", "export const own = defineArchitecture("],
  ],
];

describe("an architecture file is refused by its line, with exit code 1 and no stack trace, for", () => {
  it.each(FAULTS)("%s", async (name, changes, words) => {
    const file = ownArchitecture(join(scratch, name.replaceAll(" ", "-")), ...changes);
    const { code, stdout, stderr } = await compile(file);
    const said = message(stderr);
    expect(said).toMatch(/^ingot: /);
    const text = readFileSync(file, "utf8");
    const line: LineOf = (of) => {
      expect(text).toContain(of);
      return text.slice(0, text.indexOf(of)).split("\n").length;
    };
    for (const word of words(line)) expect(said).toContain(word);
    expect(said).not.toMatch(/^ {4}at |undefined|\[object|internal:|bundle\.js/m);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
  });
});

describe("ingot --arch", () => {
  it("compiles and runs with the file's architecture, once, and anew when it changes", async () => {
    const folder = join(scratch, "runs");
    const file = ownArchitecture(folder);
    const json = async (...flags: string[]) => JSON.parse((await compile(file, "--json", ...small, ...flags)).stdout);
    const first = await json();
    expect(first).toMatchObject({ upToDate: false });
    expect(await json()).toMatchObject({ upToDate: true, folder: first.folder });
    const said = await run([
      "run",
      pebble,
      "Once upon a time",
      "--raw",
      "--arch",
      file,
      "--temperature",
      "0",
      "--max-tokens",
      "8",
      ...small,
    ]);
    expect(said.stdout).toMatch(/^, a little \w+ named/);
    const manifest = readFileSync(join(first.folder, "manifest.json"), "utf8");
    expect(manifest).toMatch(/layers\.0\.mlp\.gate_proj \+ layers\.0\.mlp\.up_proj \(runs\/own\.ts:\d+\)/);
    ownArchitecture(folder, ["rmsNormEps: eps } = config", "rmsNormEps } = config, eps = rmsNormEps * 2"]);
    const second = await json();
    expect(second).toMatchObject({ upToDate: false });
    expect(second.folder).not.toBe(first.folder);
  });

  it("verifies a model, and its engine where the file is given or there are recorded activations", async () => {
    const file = ownArchitecture(join(scratch, "verifies"));
    const engine = join(scratch, "verified-engine");
    expect((await compile(file, "-o", engine, ...small)).code).toBe(0);
    const flags = ["--tokens", "17", "--json"];
    const refused = await run(["verify", engine, ...flags]);
    expect(refused.stderr).toContain(
      "was compiled with an architecture of its author's own (Qwen3ForCausalLM): give its file with --arch FILE (verify also takes recorded activations: --golden DIR)",
    );
    expect(refused.code).toBe(1);
    expect((await run(["show", engine, "--graph"])).stderr).toContain("give its file with --arch FILE");
    expect((await run(["show", engine, "--graph", "--arch", file])).stdout).toMatch(/ = linear .*\(verifies\/own\.ts:\d+\)/);
    const verified = await run(["verify", engine, "--arch", file, ...flags]);
    expect(JSON.parse(verified.stdout)).toMatchObject({ ok: true, reference: "interpreter" });
    const model = await run(["verify", pebble, "--arch", file, ...flags, ...small]);
    expect(JSON.parse(model.stdout)).toMatchObject({ ok: true });
    ownArchitecture(join(scratch, "verifies"), ["rmsNormEps: eps } = config", "rmsNormEps } = config, eps = rmsNormEps + 1"]);
    const other = await run(["verify", engine, "--arch", file, ...flags]);
    expect(other.stderr).toContain(
      `Qwen3ForCausalLM is not as it was when ${engine} was compiled: compile the model again, or compare with a recording (--golden DIR)`,
    );
    expect(other.code).toBe(1);
    writeFileSync(file, `// A comment moves lines.\n${readFileSync(ownArchitecture(join(scratch, "verifies")), "utf8")}`);
    expect(JSON.parse((await run(["verify", engine, "--arch", file, ...flags])).stdout)).toMatchObject({ ok: true });
  });

  it("is refused where it could change nothing, and without a file", async () => {
    const engine = join(scratch, "an-engine");
    expect((await run(["compile", pebble, "-o", engine, ...small])).code).toBe(0);
    const file = ownArchitecture(join(scratch, "refused"));
    const ran = await run(["run", engine, "x", "--arch", file]);
    expect(ran.stderr).toContain(`--arch ${file} cannot change ${engine}`);
    expect(ran.code).toBe(2);
    const none = await compile(join(scratch, "none.ts"));
    expect(none.stderr).toMatch(/--arch .*none\.ts is not a file; expected TypeScript that exports an architecture/);
    expect(none.code).toBe(2);
  });

  it("takes the zod of the file's own project", async () => {
    const folder = join(scratch, "project");
    const file = ownArchitecture(folder, ["const fields =", "console.error('zod', z.core.version.patch);\nconst fields ="]);
    const ingots = await compile(file, "--no-build", "-o", join(folder, "engine"), ...small);
    expect(ingots.stderr).not.toContain("zod 999");
    const own = join(folder, "node_modules", "zod");
    cpSync(join(root, "node_modules", "zod"), own, { recursive: true });
    const versions = join(own, "v4", "core", "versions.js");
    writeFileSync(versions, readFileSync(versions, "utf8").replace(/patch: .*,/, "patch: 999,"));
    const { code, stderr } = await compile(file, "--no-build", "-o", join(folder, "engine"), ...small);
    expect(stderr).toContain("zod 999");
    expect(code).toBe(0);
  });

  it("takes a link, whose target imports what lies beside the target", async () => {
    const folder = join(scratch, "target");
    const file = ownArchitecture(folder, ["const fields =", 'import { one } from "./one.ts";\nconst fields =']);
    writeFileSync(join(folder, "one.ts"), "export const one = 1;");
    const link = join(scratch, "link.ts");
    symlinkSync(file, link);
    const { code, stderr } = await compile(link, "--no-build", "-o", join(folder, "engine"), ...small);
    expect({ code, stderr: message(stderr) }).toEqual({ code: 0, stderr: "" });
  });

  it.each([
    ["imported", "const fields =", "console.error('looping'); for (;;);\nconst fields ="],
    ["built", "const { hiddenSize", "console.error('looping'); for (;;);\n    const { hiddenSize"],
  ])("is stopped by an interrupt where it never returns when it is %s", async (name, from, to) => {
    const file = ownArchitecture(join(scratch, `looping-${name}`), [from, to]);
    const { child, until, ended } = start(["compile", pebble, "--arch", file, ...small]);
    await until(/looping/);
    child.kill("SIGINT");
    expect(await ended).toMatchObject({ code: null, signal: "SIGINT" });
  });

  it("takes a file in several parts, and the one of its architectures that config.json names", async () => {
    const folder = join(scratch, "parts");
    const file = ownArchitecture(folder, [
      "export const own",
      'import { name } from "./name.ts";\nexport const unused = defineArchitecture({ name, readConfig: () => { throw new Error(); }, build() {} });\nexport const own',
    ]);
    writeFileSync(join(folder, "name.ts"), 'export const name: string = "OtherForCausalLM";');
    const { code, stderr } = await compile(file, "--no-build", "-o", join(folder, "engine"), ...small);
    expect(stderr).not.toContain("ingot:");
    expect(code).toBe(0);
    writeFileSync(join(folder, "name.ts"), "export const name: string = 3;");
    const wrong = await run(["compile", pebble, "--arch", relative(folder, file)], { cwd: folder });
    expect(message(wrong.stderr)).toBe("ingot: name.ts:1:14: Type 'number' is not assignable to type 'string'.\n");
    const beside = await run(["compile", pebble, "--arch", file], { cwd: cache });
    expect(message(beside.stderr)).toMatch(/^ingot: \.\.\/parts\/name\.ts:1:14: /);
  });

  it("names the model's line where a checkpoint lacks a tensor, for architectures that come with Ingot too", async () => {
    const model = changedModel(join(scratch, "lacks"), {
      header: (h) => {
        h["model.layers.2.x"] = h["model.layers.2.mlp.up_proj.weight"]!;
        delete h["model.layers.2.mlp.up_proj.weight"];
      },
    });
    const { code, stderr } = await run(["compile", model]);
    expect(stderr).toMatch(
      /there is no tensor model\.layers\.2\.mlp\.up_proj\.weight \(768, 256\), asked for at layers\.2\.mlp\.up_proj \(models\/layers\.ts:\d+\)/,
    );
    expect(code).toBe(1);
  });
});
