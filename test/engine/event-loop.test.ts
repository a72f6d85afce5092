/**
 * While a step runs, Node's event loop turns: a server goes on answering, timers go on firing.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { LLM } from "../../runtime/llm.ts";
import { compileForTest, scratchFolder } from "../support/compiled-engine.ts";

const scratch = scratchFolder("event-loop");
const TOKENS = 1024;

/** Large enough that a step of many tokens takes a good while on any machine: 57 M parameters. */
const config = {
  architectures: ["Qwen3ForCausalLM"],
  hidden_size: 1024,
  intermediate_size: 4096,
  num_hidden_layers: 3,
  num_attention_heads: 16,
  num_key_value_heads: 4,
  head_dim: 64,
  vocab_size: 4096,
  max_position_embeddings: 2048,
  tie_word_embeddings: true,
  dtype: "float32",
};

describe("while a step runs", () => {
  let llm: LLM;
  beforeAll(async () => {
    const model = join(scratch, "model");
    mkdirSync(model);
    writeFileSync(join(model, "config.json"), JSON.stringify(config));
    await compileForTest(model, join(scratch, "engine"), { weights: "random", maxNumBatchedTokens: TOKENS });
    // One thread computes, so that a core of two is left for the event loop.
    llm = await LLM.load(join(scratch, "engine"), { threads: 1, kvCacheMemoryBytes: 2 ** 28, enablePrefixCaching: false });
  });
  afterAll(() => llm.close());

  const prompt = Array.from({ length: TOKENS }, (_, i) => (i * 37) % config.vocab_size);

  it("timers fire and other requests are taken in", async () => {
    const { steps, deviceMs } = llm.engine.stats();
    let ticks = 0;
    let isDone = false;
    const timer = setInterval(() => ticks++, 5);
    const running = llm.generate([prompt], { maxTokens: 1, temperature: 0 }).then((outputs) => {
      isDone = true;
      return outputs;
    });
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(isDone).toBe(false);
    expect(llm.engine.stats()).toMatchObject({ numRunning: 1, steps: steps + 1 });
    const other = llm.generate([[1, 2, 3]], { maxTokens: 1, temperature: 0 });
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(llm.engine.stats().numWaiting).toBe(1);
    await running;
    clearInterval(timer);
    await other;
    const ms = llm.engine.stats().deviceMs - deviceMs;
    expect(ms).toBeGreaterThan(50);
    // A blocked loop would have seen one tick at most; a busy machine lets through fewer than were due.
    expect(ticks, `${ticks} ticks of 5 ms in ${ms} ms`).toBeGreaterThan(Math.max(5, ms / 5 / 8));
  });

  it("an abort takes effect at its end, and the engine goes on", async () => {
    const controller = new AbortController();
    const aborted = llm.generate([prompt], { maxTokens: 500, temperature: 0, ignoreEos: true }, { signal: controller.signal });
    setTimeout(() => controller.abort(), 10);
    const [output] = await aborted;
    expect(output!.outputs[0]).toMatchObject({ finishReason: "abort" });
    llm.engine.checkIntegrity();
    const [next] = await llm.generate([[5, 6, 7]], { maxTokens: 3, temperature: 0, ignoreEos: true });
    expect(next!.outputs[0]!.tokenIds).toHaveLength(3);
    llm.engine.checkIntegrity();
    expect(llm.engine.stats().kvCacheUsage).toBe(0);
  });
});
