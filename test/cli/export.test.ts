import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { expectClose } from "../support/closeness.ts";
import { commandLine, pebble } from "../support/ingot-command.ts";
import { openOnnx, outputOf } from "../support/onnx.ts";

const { run, scratch } = commandLine("export");
const batch = [[1, 2, 3, 4]];

describe("ingot export", () => {
  it("writes a model that other runtimes read, in the dtype asked for", async () => {
    const [narrow, wide] = ["narrow.onnx", "wide.onnx"].map((name) => join(scratch, "models", name)) as [string, string];
    const { code, stdout, stderr } = await run(["export", pebble, "--onnx", narrow]);
    expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: `${narrow}\n11.7 MB\n`, stderr: "" });
    const report = JSON.parse((await run(["export", pebble, "--onnx", wide, "--dtype", "float32", "--json"])).stdout);
    expect(report).toEqual({ file: wide, data: null, bytes: statSync(wide).size });
    const logits = await outputOf(await openOnnx(narrow), batch);
    expect(logits.length).toBe(4 * 4096);
    expectClose(await outputOf(await openOnnx(wide), batch), logits, 1e-6); // the weights are bf16 anyway
  });

  it("leaves the weights out where asked to, and then needs none", async () => {
    const folder = join(scratch, "bare");
    const file = join(folder, "qwen3.onnx");
    const { stdout } = await run(["export", "qwen3-4b", "--layers", "2", "--no-weights", "--onnx", file]);
    expect(stdout).toMatch(/^.*qwen3\.onnx\n\d+\.\d kB, without weights\n$/);
    expect(readdirSync(folder)).toEqual(["qwen3.onnx"]);
    const none = await run(["export", "qwen3-4b", "--layers", "2", "--onnx", file], { env: { INGOT_WEIGHTS: "none" } });
    expect(none.stdout).toBe(stdout);
  });

  it("says what it cannot do, and why", async () => {
    const file = join(scratch, "x.onnx");
    const engine = join(scratch, "engine");
    mkdirSync(engine);
    writeFileSync(join(engine, "manifest.json"), "{}");
    const refused: readonly (readonly [args: readonly string[], code: number, message: RegExp])[] = [
      [[pebble], 2, /^ingot: --onnx FILE is missing/],
      [
        [engine, "--onnx", file],
        2,
        /engine is an engine, its weights packed for its kernels: name the model it was compiled from/,
      ],
      [["qwen3-4b", "--onnx", file], 2, /qwen3-4b is a built-in preset without weights: add --weights random/],
      [[pebble, "--onnx", scratch], 1, /is a folder; expected the name of a file to write, such as .*\/model\.onnx/],
      [[pebble, "--onnx", join(engine, "manifest.json", "x.onnx")], 1, /cannot be written: .*; choose another place with --onnx/],
      [[pebble, "--onnx", file, "--layers", "9"], 2, /--layers is 9, but the model has 6 layers/],
    ];
    for (const [args, code, message] of refused) {
      const ended = await run(["export", ...args]);
      expect(ended).toMatchObject({ code, stdout: "", stderr: expect.stringMatching(message) });
    }
    expect(existsSync(file)).toBe(false);
  });

  it("replaces no device and no pipe", async () => {
    const pipe = join(scratch, "pipe");
    execFileSync("mkfifo", [pipe]);
    const { code, stderr } = await run(["export", pebble, "--no-weights", "--onnx", pipe]);
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining("pipe is a device or a pipe, which the file") });
    expect(statSync(pipe).isFIFO()).toBe(true);
  });
});

describe("ingot show --graph", () => {
  it("prints each operation of a model, of a preset and of an engine, with where it comes from", async () => {
    const { code, stdout } = await run(["show", pebble, "--graph"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(
      /^%\d+ = linear %\d+ %\d+ : f32\(T, 768\) {2}# layers\.5\.mlp\.gate_proj \(models\/layers\.ts:\d+\)$/m,
    );
    expect(stdout).toMatch(/^logits %\d+\n$/m);
    expect((await run(["show", "qwen3-4b", "--graph"])).stdout).toMatch(/^%\d+ = rope .* layers\.35\.self_attn/m);
    const cut = (await run(["show", "qwen3-4b", "--graph", "--layers", "2"])).stdout;
    expect([cut.includes("layers.1."), cut.includes("layers.2.")]).toEqual([true, false]);
    const engine = join(scratch, "compiled");
    await run(["compile", pebble, "-o", engine, "--no-build", "--layers", "2", "--kv-cache-dtype", "float32"]);
    const shown = (await run(["show", engine, "--graph"])).stdout;
    expect(shown).toMatch(/^%\d+ = kv_cache layer=1 : f32\(/m);
    expect(shown).not.toContain("layers.2.");
    expect(JSON.parse((await run(["show", engine, "--graph", "--json"])).stdout).graph).toEqual(shown.trimEnd().split("\n"));
    expect((await run(["show", engine, "--graph", "--layers", "1"])).stderr).toContain("has the layers it was compiled with");
  });

  it("asks for a model where there is none", async () => {
    const { code, stderr } = await run(["show", "nothing", "--graph"]);
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining("nothing is neither a folder nor a preset") });
  });
});
