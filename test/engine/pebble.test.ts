/**
 * The sample model compiled and run: what it says, word for word, and how well it predicts, against what the reference recorded.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ChatMessage } from "../../runtime/chat/template.ts";
import { LLM } from "../../runtime/llm.ts";
import { compileForTest, isFullRun, nativeTarget, runnableTargets, scratchFolder } from "../support/compiled-engine.ts";
import { readTensors } from "../support/safetensors-lite.ts";

interface Chat {
  readonly messages: readonly ChatMessage[];
  readonly tools?: readonly unknown[] | null;
  readonly enable_thinking?: boolean;
  readonly rendered: string;
  readonly ids: readonly number[];
  readonly greedy: readonly number[];
  readonly text: string;
}
interface Completion {
  readonly prompt: string;
  readonly ids: readonly number[];
  readonly greedy: readonly number[];
  readonly text: string;
}
interface Reference {
  readonly chats: readonly Chat[];
  readonly completions: readonly Completion[];
  readonly perplexity: {
    readonly window: number;
    readonly windows: number;
    readonly tokens: number;
    readonly perplexity: number;
  };
}

const model = join(import.meta.dirname, "../../models/pebble");
const recorded = join(import.meta.dirname, "../../../shared/models");
const isRecorded = existsSync(join(recorded, "pebble", "reference.json"));
const scratch = scratchFolder("pebble");

const targets = isFullRun ? runnableTargets : [nativeTarget];

describe.skipIf(!isRecorded).each(targets)("the sample model on %s", (target) => {
  const reference = (): Reference => JSON.parse(readFileSync(join(recorded, "pebble", "reference.json"), "utf8")) as Reference;

  describe("in float32", () => {
    const engine = loaded(target, "float32");

    it("renders the recorded prompts and encodes them to the recorded ids", () => {
      const llm = engine();
      for (const chat of reference().chats) {
        expect(rendered(llm, chat)).toBe(chat.rendered);
        expect(llm.tokenizer.encode(chat.rendered, { addSpecialTokens: false })).toEqual(chat.ids);
      }
    });

    it("answers the recorded chats with the recorded tokens and words", async () => {
      const llm = engine();
      for (const chat of reference().chats) {
        const templateKwargs = chat.enable_thinking === undefined ? {} : { enable_thinking: chat.enable_thinking };
        const options = { tools: chat.tools ?? undefined, templateKwargs };
        const output = await llm.chat(chat.messages, { temperature: 0, maxTokens: 200 }, options);
        expect(output.promptTokenIds).toEqual(chat.ids);
        expect(output.outputs[0]).toMatchObject({ tokenIds: chat.greedy, text: chat.text });
        expect(output.outputs[0]!.finishReason).toBe(chat.greedy.length === 200 ? "length" : "stop");
      }
    });

    it("completes the recorded beginnings with the recorded tokens and words", async () => {
      const { completions } = reference();
      const params = { temperature: 0, maxTokens: 64, ignoreEos: true };
      const outputs = await engine().generate(
        completions.map((c) => c.prompt),
        params,
      );
      expect(outputs.map((o) => o.promptTokenIds)).toEqual(completions.map((c) => c.ids));
      expect(outputs.map((o) => o.outputs[0]!.tokenIds)).toEqual(completions.map((c) => c.greedy));
      expect(outputs.map((o) => o.outputs[0]!.text)).toEqual(completions.map((c) => c.text));
    });

    predictsAsRecorded(engine, { perplexity: 1e-4, logprob: 1e-3, sameTop: 1 });
  });

  describe("in the default dtype", () => {
    const engine = loaded(target, "auto");

    it("puts the recorded tokens first in at least 99.5 % of places", async () => {
      const llm = engine();
      const { chats, completions } = reference();
      let places = 0;
      let hits = 0;
      for (const { ids, greedy } of [...chats, ...completions]) {
        const { logits } = await llm.forward([...ids, ...greedy.slice(0, -1)]);
        greedy.forEach((token, i) => {
          places++;
          if (argmax(row(llm, logits, ids.length - 1 + i)) === token) hits++;
        });
      }
      expect(places).toBeGreaterThan(800);
      expect(hits / places, `${hits} of ${places}`).toBeGreaterThanOrEqual(0.995);
    });

    predictsAsRecorded(engine, { perplexity: 2e-3, logprob: 0.1, sameTop: 0.98 });
  });
});

/** Loads an engine for the tests of a `describe`. */
function loaded(target: string, dtype: string): () => LLM {
  let llm: LLM | undefined;
  beforeAll(async () => {
    const folder = join(scratch, `${target.slice(4)}-${dtype}`);
    await compileForTest(model, folder, { target, dtype, maxNumSeqs: 512, maxNumBatchedTokens: 512 });
    llm = await LLM.load(folder, { threads: 2, maxModelLen: 1024, kvCacheMemoryBytes: 2 ** 28 });
  });
  afterAll(() => llm?.close());
  return () => llm!;
}

/** Tests of the distribution itself; tolerances are relative for the perplexity, absolute for log-probabilities. */
function predictsAsRecorded(engine: () => LLM, allowed: { perplexity: number; logprob: number; sameTop: number }): void {
  it("has the recorded probabilities at every position of the first window", async () => {
    const llm = engine();
    const expected = readTensors(join(recorded, "pebble"), "reference");
    const topIds = expected.get("top_ids")!;
    const topLogprobs = expected.get("top_logprobs")!;
    const ids = Array.from(expected.get("input_ids")!);
    const { logits } = await llm.forward(ids);
    let sameTop = 0;
    let worst = 0;
    ids.forEach((_, t) => {
      const values = row(llm, logits, t);
      const normalizer = logSumExp(values);
      if (argmax(values) === topIds[t * 20]) sameTop++;
      for (let i = t * 20; i < (t + 1) * 20; i++) {
        const off = Math.abs(values[topIds[i]!]! - normalizer - topLogprobs[i]!);
        worst = Math.max(worst, off); // NaN stays
      }
    });
    expect(worst).toBeLessThan(allowed.logprob);
    expect(sameTop / ids.length).toBeGreaterThanOrEqual(allowed.sameTop);
  });

  it("has the recorded perplexity", async () => {
    const llm = engine();
    const { perplexity: expected } = JSON.parse(readFileSync(join(recorded, "pebble", "reference.json"), "utf8")) as Reference;
    const ids = llm.tokenizer.encode(readFileSync(join(recorded, "eval.txt"), "utf8"), { addSpecialTokens: true });
    let loss = 0;
    let tokens = 0;
    for (let w = 0; w < expected.windows; w++) {
      const window = ids.slice(w * expected.window, (w + 1) * expected.window);
      const { logits } = await llm.forward(window);
      for (let t = expected.window / 2 + 1; t < expected.window; t++) {
        const values = row(llm, logits, t - 1);
        loss += logSumExp(values) - values[window[t]!]!;
        tokens++;
      }
    }
    expect(tokens).toBe(expected.tokens);
    const found = Math.exp(loss / tokens);
    expect(Math.abs(found / expected.perplexity - 1), `perplexity ${found}`).toBeLessThan(allowed.perplexity);
  });
}

function rendered(llm: LLM, { messages, tools, enable_thinking }: Chat): string {
  const templateKwargs = enable_thinking === undefined ? {} : { enable_thinking };
  return llm.chatTemplate!.render({ messages, tools: tools ?? undefined, templateKwargs, addGenerationPrompt: true });
}

const row = (llm: LLM, logits: Float32Array, t: number): Float32Array =>
  logits.subarray(t * llm.model.vocabSize, (t + 1) * llm.model.vocabSize);

function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

function logSumExp(values: Float32Array): number {
  const max = values[argmax(values)]!;
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += Math.exp(values[i]! - max);
  return max + Math.log(sum);
}
