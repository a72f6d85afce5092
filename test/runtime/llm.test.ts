import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ChatTemplate } from "../../runtime/chat/template.ts";
import { EngineError, ManifestError, RequestError } from "../../runtime/errors.ts";
import { LLM, type LLMParts } from "../../runtime/llm.ts";
import type { ModelFacts } from "../../runtime/manifest.ts";
import { Tokenizer } from "../../runtime/tokenizer/tokenizer.ts";
import { FakeDevice, type FakeDeviceOptions } from "../support/fake-device.ts";

const tokenizer = await Tokenizer.load("../shared/golden/tokenizers/qwen2");
const template = new ChatTemplate({
  default: "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if shout %}!{% endif %}[assistant]",
});

const model: ModelFacts = {
  architecture: "FakeForCausalLM",
  hiddenSize: 3,
  intermediateSize: 3,
  numLayers: 2,
  numHeads: 1,
  numKvHeads: 1,
  headDim: 3,
  vocabSize: tokenizer.vocabSize,
  maxPositionEmbeddings: 512,
  tieWordEmbeddings: false,
  dtype: "float32",
  numParameters: 1,
  bosTokenId: null,
  eosTokenIds: [],
};

class ClosableFake extends FakeDevice {
  readonly threads = null;
  isClosed = false;
  async close(): Promise<void> {
    this.isClosed = true;
  }
}

/** Continues "abc…" one letter at a time, whatever else the prompt says. */
function alphabet(context: readonly number[]): number[] {
  const letters = context.map((id) => tokenizer.idToToken(id) ?? "");
  const last = letters.at(-1)!;
  const next = /^[a-y]$/.test(last) ? String.fromCharCode(last.charCodeAt(0) + 1) : "a";
  const logits: number[] = new Array(tokenizer.vocabSize).fill(0);
  logits[tokenizer.tokenToId(next)!] = 10;
  return logits;
}

function makeLlm(parts: Partial<LLMParts> = {}, options: FakeDeviceOptions = {}) {
  const device = new ClosableFake({ vocabSize: tokenizer.vocabSize, logits: alphabet, ...options });
  const llm = new LLM({
    device,
    name: "alphabet",
    model,
    eosTokenIds: [tokenizer.tokenToId("f")!],
    tokenizer,
    chatTemplate: template,
    defaultParams: { temperature: 0 },
    ...parts,
  });
  return { llm, device };
}

describe("LLM", () => {
  it("completes texts and ids, batched, in the order given", async () => {
    const { llm, device } = makeLlm();
    const ids = tokenizer.encode("x y b");
    const outputs = await llm.generate(["hello a", ids], { maxTokens: 3 });
    expect(outputs.map(({ prompt }) => prompt)).toEqual(["hello a", null]);
    expect(outputs[1]!.promptTokenIds).toEqual(ids);
    const [first] = outputs[0]!.outputs;
    expect(first).toMatchObject({ index: 0, finishReason: "length", stopReason: null, logprobs: null });
    expect(first!.text).toBe(tokenizer.decode(first!.tokenIds));
    expect(first!.tokenIds).toHaveLength(3);
    expect(device.log[0]!.numSeqs).toBe(2);
    expect((await llm.generate(ids, { maxTokens: 2 })).length).toBe(1);
    expect(await llm.generate([])).toEqual([]);
    expect((await llm.generate("hello", { n: 2, maxTokens: 2, logprobs: 1 }))[0]!.outputs.map((o) => o.logprobs!.length)).toEqual(
      [2, 2],
    );
  });

  it("takes its defaults from the parts, and what a request says before them", async () => {
    const { llm } = makeLlm({ defaultParams: { temperature: 0, stop: ["d"] } });
    expect((await llm.generate("?"))[0]!.outputs[0]).toMatchObject({ text: "abc", stopReason: "d" });
    expect((await llm.generate("?", { stop: undefined }))[0]!.outputs[0]!.text).toBe("abc");
    expect((await llm.generate("?", { stop: [] }))[0]!.outputs[0]).toMatchObject({
      text: "abcde",
      finishReason: "stop",
      stopReason: null,
    });
  });

  it("streams texts that add up, and stops when the reader leaves", async () => {
    const { llm } = makeLlm();
    let text = "";
    for await (const delta of llm.stream("?")) text += delta.text;
    expect(text).toBe("abcde");
    for await (const _ of llm.stream("?", { ignoreEos: true })) break;
    await llm.engine.drain();
    expect(llm.engine.stats().numRunning).toBe(0);
  });

  it("renders a chat and encodes it without further special tokens", async () => {
    const { llm } = makeLlm();
    const output = await llm.chat([{ role: "user", content: "Hi" }], { maxTokens: 2 }, { templateKwargs: { shout: true } });
    expect(output.prompt).toBe("[user]Hi![assistant]");
    expect(output.promptTokenIds).toEqual(tokenizer.encode("[user]Hi![assistant]", { addSpecialTokens: false }));
    let text = "";
    for await (const delta of llm.streamChat([{ role: "user", content: "Hi" }])) text += delta.text;
    expect(text).toBe("abcde");
    const plain = makeLlm({ chatTemplate: undefined }).llm;
    await expect(plain.chat([{ role: "user", content: "Hi" }])).rejects.toThrow("this model has no chat template");
  });

  it("starts nothing when one prompt of many does not fit", async () => {
    const { llm, device } = makeLlm({}, { maxModelLen: 20 });
    await expect(llm.generate(["?", "x ".repeat(100)])).rejects.toThrow(RequestError);
    await llm.engine.drain();
    expect(device.steps).toBe(0);
  });

  it("takes hundreds of prompts and an outer signal at once, without a warning", async () => {
    const warnings: Error[] = [];
    const listener = (warning: Error): void => void warnings.push(warning);
    process.on("warning", listener);
    const { llm } = makeLlm({}, { numBlocks: 4096 });
    const signal = AbortSignal.any([new AbortController().signal]); // such a one warns at 11 listeners
    const outputs = await llm.generate(
      Array.from({ length: 200 }, (_, i) => [i]),
      { maxTokens: 2 },
      { signal },
    );
    await new Promise((resolve) => setImmediate(resolve));
    process.off("warning", listener);
    expect(outputs).toHaveLength(200);
    expect(warnings).toEqual([]);
  });

  it("ends everything with reason abort when the signal fires", async () => {
    const { llm } = makeLlm();
    const controller = new AbortController();
    const outputs = llm.generate(["?", "!"], { ignoreEos: true }, { signal: controller.signal });
    setTimeout(() => controller.abort(), 5);
    for (const {
      outputs: [completion],
    } of await outputs)
      expect(completion!.finishReason).toBe("abort"); // prettier-ignore
  });

  it("scores tokens", async () => {
    const { llm } = makeLlm();
    const { logits, hidden } = await llm.forward([1, 2, 3], { hidden: true });
    expect(logits).toHaveLength(3 * tokenizer.vocabSize);
    expect(hidden).toHaveLength(3);
  });

  it("without a tokenizer takes and gives ids, and says so to texts and stop strings", async () => {
    const { llm } = makeLlm({ tokenizer: undefined });
    const [output] = await llm.generate([[5]], { maxTokens: 2 });
    expect(output!.outputs[0]).toMatchObject({ text: "", tokenIds: expect.any(Array) });
    await expect(llm.generate("text")).rejects.toThrow("this engine has no tokenizer");
    await expect(llm.generate({ prompt: "text" } as never)).rejects.toThrow("prompts must be a text, token ids, or a list");
    await expect(llm.generate([[5]], { stop: ["x"] })).rejects.toThrow("this engine has no tokenizer");
  });

  it("closes its device and refuses what comes after", async () => {
    const { llm, device } = makeLlm();
    await llm.close();
    expect(device.isClosed).toBe(true);
    await expect(llm.generate("?")).rejects.toThrow(EngineError);
  });

  it("resolves the path it is given, and names a folder that is no engine", async () => {
    const folder = mkdtempSync(join(tmpdir(), "llm-"));
    try {
      const asked: string[] = [];
      const resolve = async (path: string): Promise<string> => {
        asked.push(path);
        return folder;
      };
      await expect(LLM.load("some/model", { resolve })).rejects.toThrow(ManifestError);
      await expect(LLM.load("some/model", { resolve })).rejects.toThrow("has no manifest.json");
      expect(asked).toEqual(["some/model", "some/model"]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
