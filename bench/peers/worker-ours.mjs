// Our side of a comparison: loads an engine once through the library, then measures cells on command.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { LLM } from "../../dist/index.js";
import { serve } from "./worker-protocol.mjs";

let llm;

// 9,362 tokens: enough for every cell, and memory is left for the other side.
const KV_CACHE_BYTES = 1 << 30;
// The deepest cell needs 2,048 + 64 tokens.
const MAX_MODEL_LEN = 4096;

async function load({ engine, threads }) {
  const { name, target, model, limits, predicted } = JSON.parse(readFileSync(join(engine, "manifest.json"), "utf8"));
  llm = await LLM.load(engine, {
    threads,
    kvCacheMemoryBytes: KV_CACHE_BYTES,
    maxModelLen: MAX_MODEL_LEN,
    useGenerationConfig: false,
  });
  return { name: "ingot", engine: name, target, dtype: model.dtype, limits, weightBytes: predicted.weightBytesPerStep };
}

/** Runs `prompts` together, exactly `maxTokens` each; returns the wall time in ms. */
async function generate(prompts, maxTokens) {
  const start = performance.now();
  const outputs = await llm.generate(prompts, { maxTokens, temperature: 0, ignoreEos: true });
  const ms = performance.now() - start;
  for (const output of outputs) {
    const { length } = output.outputs[0].tokenIds;
    if (length !== maxTokens) throw new Error(`asked for ${maxTokens} tokens, got ${length}`);
  }
  return ms;
}

async function measurePrefill(prompts) {
  let ms = 0;
  for (const prompt of prompts) ms += await generate([prompt], 1);
  return ms;
}

/**
 * The library returns whole outputs, so decode is a difference: with `outputTokens` more tokens less without. The first call of
 * three fills the prefix cache, so that both timed calls find the same.
 */
async function measureDecode(cell, prompts) {
  await generate(prompts, 1);
  const first = await generate(prompts, 1);
  return (await generate(prompts, 1 + cell.outputTokens)) - first;
}

async function measure({ cell, prompts }) {
  return { ms: cell.kind === "prefill" ? await measurePrefill(prompts) : await measureDecode(cell, prompts) };
}

/** Ours has nothing to choose by hand; one run warms up. */
async function tune({ cell, prompts }) {
  await measure({ cell, prompts: cell.kind === "prefill" ? prompts.slice(0, 1) : prompts });
  return { best: {}, tried: [] };
}

serve({ load, tune, measure });
