// node-llama-cpp's side of a comparison: loads once, then measures cells on command.
//
// Drives the addon's batch interface (AddonContext) below the public classes: one addToBatch per sequence, one decodeBatch, one
// sampleToken per sequence in parallel, so that none of the package's promise and queue work is charged to llama.cpp.

import { getLlama } from "node-llama-cpp";
import { serve } from "./worker-protocol.mjs";

const BATCH = 512;

let llama;
let model;
let greedy;
/** Key: sequences and flash attention. A context of another kind is closed before one is made. */
const contexts = new Map();

async function load({ model: modelPath, threads, mmap, maxSequences }) {
  llama = await getLlama({ gpu: false, build: "never", maxThreads: threads, logLevel: "error" });
  model = await llama.loadModel({ modelPath, useMmap: mmap });
  greedy = Array.from({ length: maxSequences }, () => {
    const sampler = new llama._bindings.AddonSampler(model._model);
    sampler.applyConfig({ temperature: 0 });
    return sampler;
  });
  return {
    name: "node-llama-cpp",
    llamaCpp: llama.llamaCppRelease,
    systemInfo: llama.systemInfo.trim(),
    weightBytes: model.size,
    mmap,
    kvCache: "f16",
  };
}

/** Contexts of one sequence hold the deepest cell; the others just their own. */
async function contextFor(cell, threads, flashAttention) {
  const key = `${cell.sequences} ${flashAttention}`;
  const size = (cell.sequences === 1 ? 2048 : cell.promptTokens) + 256;
  if (!contexts.has(key)) {
    const context = await model.createContext({
      sequences: cell.sequences,
      contextSize: size,
      batchSize: BATCH,
      flashAttention,
      threads,
    });
    // What each sequence's cells hold: the prompt, as text, or null.
    contexts.set(key, { addon: context._ctx, holds: null });
  }
  return contexts.get(key);
}

/** Computes `tokens` of sequence `sequence` in chunks; returns the greedy next token. */
async function prefill(context, sequence, tokens, chunk) {
  const { addon } = context;
  let logits;
  for (let start = 0; start < tokens.length; start += chunk) {
    const piece = Uint32Array.from(tokens.slice(start, start + chunk));
    const isLast = start + chunk >= tokens.length;
    addon.initBatch(piece.length);
    [logits] = addon.addToBatch(sequence, start, piece, isLast ? Uint32Array.of(piece.length - 1) : new Uint32Array());
    await addon.decodeBatch();
  }
  return await addon.sampleToken(logits, greedy[sequence]);
}

function forget(context, sequences, from, to) {
  for (let s = 0; s < sequences; s++) {
    if (!context.addon.removeTokenCellsFromSequence(s, from, to))
      throw new Error(`sequence ${s} keeps its cells ${from} to ${to}`);
  }
}

async function measurePrefill(cell, prompts, { threads, flashAttention, chunk }) {
  const context = await contextFor(cell, threads, flashAttention);
  context.holds = null;
  let ms = 0;
  for (const prompt of prompts) {
    forget(context, 1, 0, 1 << 20);
    const start = performance.now();
    await prefill(context, 0, prompt, chunk);
    ms += performance.now() - start;
  }
  return ms;
}

async function measureDecode(cell, prompts, { threads, flashAttention }) {
  const context = await contextFor(cell, threads, flashAttention);
  const { addon } = context;
  const { sequences, promptTokens, outputTokens } = cell;
  if (context.holds?.cell !== cell.name) {
    forget(context, sequences, 0, 1 << 20);
    context.holds = null;
    const first = [];
    for (const [s, prompt] of prompts.entries()) first.push(await prefill(context, s, prompt, BATCH));
    context.holds = { cell: cell.name, first };
  }
  let tokens = context.holds.first;
  const start = performance.now();
  for (let t = 0; t < outputTokens; t++) {
    addon.initBatch(sequences);
    const logits = tokens.map((token, s) => addon.addToBatch(s, promptTokens + t, Uint32Array.of(token), Uint32Array.of(0))[0]);
    await addon.decodeBatch();
    tokens = await Promise.all(logits.map((index, s) => addon.sampleToken(index, greedy[s])));
  }
  const ms = performance.now() - start;
  forget(context, sequences, promptTokens, promptTokens + outputTokens);
  return ms;
}

const measureWith = (cell, prompts, setting) =>
  (cell.kind === "prefill" ? measurePrefill : measureDecode)(cell, prompts, setting);

/** Tries the settings that matter for a cell, twice each after a warm-up, and keeps the fastest for `measure`. */
async function tune({ cell, prompts, threads }) {
  const chunks = cell.kind === "prefill" ? [BATCH, BATCH / 2] : [BATCH];
  const tried = [];
  for (const flashAttention of [true, false]) {
    for (const chunk of chunks) {
      const setting = { threads, flashAttention, chunk };
      const few = cell.kind === "prefill" ? prompts.slice(0, 1) : prompts;
      const short = cell.kind === "prefill" ? cell : { ...cell, outputTokens: Math.min(16, cell.outputTokens) };
      await measureWith(short, few, setting);
      const ms = Math.min(await measureWith(short, few, setting), await measureWith(short, few, setting));
      tried.push({ ...setting, ms });
    }
  }
  tried.sort((a, b) => a.ms - b.ms);
  const { ms: _, ...best } = tried[0];
  return { best, tried };
}

/** `setting` is what `tune` found best. */
async function measure({ cell, prompts, setting }) {
  return { ms: await measureWith(cell, prompts, setting) };
}

serve({ load, tune, measure });
