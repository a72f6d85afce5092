/**
 * The package as a program imports it: by its name, from the built bundle.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { scratchFolder, testCache } from "../support/compiled-engine.ts";

import { ownArchitecture } from "../support/own-architecture.ts";

const root = join(import.meta.dirname, "../..");
const scratch = scratchFolder("package");

/** Runs a program that may import the package by name; the result is what it prints. */
function run(program: string): unknown {
  const result = spawnSync(process.execPath, ["--input-type=module", "-e", program], {
    cwd: root,
    encoding: "utf8",
    env: {
      ...process.env,
      INGOT_CACHE: testCache,
      MODEL: join(root, "models", "pebble"),
      ARCH: ownArchitecture(scratch),
      OUT: join(scratch, "out"),
    },
  });
  expect(result.status, result.stderr).toBe(0);
  return JSON.parse(result.stdout);
}

describe("the package", () => {
  it("loads a model folder and generates, streams, chats and scores", () => {
    const found = run(`
      import { LLM } from "ingot";
      const llm = await LLM.load(process.env.MODEL, { kvCacheMemoryBytes: 2 ** 28 });
      const params = { temperature: 0, maxTokens: 8 };
      const [whole] = await llm.generate("Once upon a time", params);
      let streamed = "";
      for await (const { text } of llm.stream("Once upon a time", params)) streamed += text;
      const answer = await llm.chat([{ role: "user", content: "What is the capital of Japan?" }], { temperature: 0, maxTokens: 20 });
      const { logits, hidden } = await llm.forward([1, 2, 3], { hidden: true });
      console.log(JSON.stringify({ text: whole.outputs[0].text, streamed, answer: answer.outputs[0].text,
        logits: logits.length, hidden: hidden.map((h) => h.length), isLlm: llm instanceof LLM }));
      await llm.close();
    `) as { text: string; streamed: string; answer: string; logits: number; hidden: number[]; isLlm: boolean };
    expect(found.text).toMatch(/^, a little \w+ named/);
    expect(found.streamed).toBe(found.text);
    expect(found.answer).toContain("Tokyo");
    expect(found.logits).toBe(3 * 4096);
    expect(found.isLlm).toBe(true);
    expect(found.hidden).toEqual(Array.from({ length: 7 }, () => 3 * 256));
  });

  it("says what is wrong with a path or a request", () => {
    const found = run(`
      import { LLM, RequestError } from "ingot";
      const failure = (promise) => promise.then(() => "nothing", (error) => [error.name, error.message]);
      const llm = await LLM.load(process.env.MODEL, { kvCacheMemoryBytes: 2 ** 28 });
      console.log(JSON.stringify([
        await failure(LLM.load("./nowhere")),
        await failure(llm.generate("Hello", { temperature: -1 })),
        await failure(llm.generate(new Array(5000).fill(1), { maxTokens: 1 })),
        await failure(llm.forward([4096])),
      ]));
      await llm.close();
    `);
    expect(found).toEqual([
      ["UsageError", expect.stringContaining("./nowhere is neither a folder nor a preset")],
      ["RequestError", expect.stringContaining("temperature must be a number of at least 0 (0 is greedy), got -1")],
      ["RequestError", expect.stringContaining("the prompt of 5000 tokens does not fit in the context of 2048 tokens")],
      ["RequestError", expect.stringContaining("token id 4096")],
    ]);
  });

  it("compiles, and knows the architectures it compiles", () => {
    const found = run(`
      import { ARCHITECTURES } from "ingot/models";
      import { compile } from "ingot/compiler";
      import { LLM } from "ingot";
      const report = await compile(process.env.MODEL, { output: process.env.OUT, maxModelLen: 128, maxNumSeqs: 2 });
      const llm = await LLM.load(report.folder);
      console.log(JSON.stringify({ names: ARCHITECTURES.map((a) => a.name), folder: report.folder, maxModelLen: llm.maxModelLen }));
      await llm.close();
    `);
    const names = ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"];
    expect(found).toEqual({ names: expect.arrayContaining(names), folder: join(scratch, "out"), maxModelLen: 128 });
  });

  it("loads a model folder with an architecture file, and no engine", () => {
    const found = run(`
      import { LLM } from "ingot";
      const llm = await LLM.load(process.env.MODEL, { arch: process.env.ARCH, kvCacheMemoryBytes: 2 ** 28 });
      const [{ outputs }] = await llm.generate("Once upon a time", { temperature: 0, maxTokens: 8 });
      const refusal = await LLM.load(process.env.OUT, { arch: process.env.ARCH }).catch((error) => error.message);
      console.log(JSON.stringify({ text: outputs[0].text, refusal }));
      await llm.close();
    `);
    expect(found).toEqual({
      text: expect.stringMatching(/^, a little \w+ named/),
      refusal: expect.stringMatching(/^--arch .*own\.ts cannot change .*out, an engine/),
    });
  });

  it("loads a model folder with an architecture registered for it", () => {
    const found = run(`
      import { LLM, registerArchitecture } from "ingot";
      import { compile, defineArchitecture } from "ingot/compiler";
      import { findArchitecture } from "ingot/models";
      const json = { architectures: ["Qwen3ForCausalLM"] };
      const { readConfig, build } = findArchitecture(json);
      const known = (scale) => defineArchitecture({ name: "Qwen3ForCausalLM", readConfig, build: (config, g) =>
        build({ ...config, rmsNormEps: config.rmsNormEps * scale }, g) });
      const own = known(1e6);
      registerArchitecture(own);
      const isFound = findArchitecture(json) === own;
      let refusal;
      try { registerArchitecture(known(1)); } catch (error) { refusal = error.message; }
      const options = { maxModelLen: 128, maxNumSeqs: 2, output: process.env.OUT + "-registered" };
      const reports = [await compile(process.env.MODEL, options), await compile(process.env.MODEL, options)];
      const llm = await LLM.load(process.env.MODEL, { kvCacheMemoryBytes: 2 ** 28 });
      const [{ outputs }] = await llm.generate("Once upon a time", { temperature: 0, maxTokens: 8 });
      console.log(JSON.stringify({ isFound, refusal, upToDate: reports.map((r) => r.upToDate), text: outputs[0].text }));
      await llm.close();
    `) as { isFound: boolean; refusal: string; upToDate: boolean[]; text: string };
    expect(found).toMatchObject({ isFound: true, upToDate: [false, true] });
    expect(found.refusal).toContain("Qwen3ForCausalLM is registered already");
    expect(found.text).not.toMatch(/^, a little \w+ named/); // norms of another epsilon
  });
});
