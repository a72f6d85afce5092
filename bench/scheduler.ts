/**
 * Host time of a decode step: what the engine loop does on the JavaScript thread between two device steps, without any device.
 *
 * Run: npx esbuild bench/scheduler.ts --bundle --platform=node --format=esm | node --input-type=module -
 * Prints microseconds per decode step, median and 99th percentile: "host" is what the engine counts (scheduling, batch, waking up, tokens
 * appended, text, stop checks); "with clients" is the whole turn, in which one client per sequence also reads its news. The tokenizer
 * is a table lookup: detokenization proper is not in it.
 */

import { AsyncEngine } from "../runtime/async-engine.ts";
import { type Batch, type Device, MAX_LOGPROBS, type StepResult } from "../runtime/batch.ts";
import { type SamplingParams, samplingParams } from "../runtime/sampling-params.ts";

const VOCAB_SIZE = 151_936;
const STEPS = 1000;
const WARMUP = 100;

/** Answers at once; what passes between two steps is host time. */
class InstantDevice implements Device {
  readonly blockSize = 16;
  readonly numBlocks = 64 * 1024;
  readonly maxModelLen = 8192;
  readonly maxNumSeqs = 256;
  readonly maxNumBatchedTokens = 8192;
  readonly vocabSize = VOCAB_SIZE;
  readonly rebuiltBeyond = [];
  steps = 0;
  decodeSeqs = 0;

  constructor(readonly depth: 1 | 2) {}

  async step(batch: Batch): Promise<StepResult> {
    this.steps++;
    this.decodeSeqs = batch.numSeqs;
    const S = batch.sampleRows.length;
    const tokenIds = new Int32Array(S);
    for (let s = 0; s < S; s++) tokenIds[s] = (this.steps * 7919 + s * 104_729) % VOCAB_SIZE;
    const topIds = new Int32Array(S * MAX_LOGPROBS);
    return {
      tokenIds,
      logprobs: new Float32Array(S),
      topIds,
      topLogprobs: new Float32Array(S * MAX_LOGPROBS),
      ms: 0,
      taps: new Map(),
    };
  }
}

const pieces = Array.from({ length: 256 }, (_, i) => ` word${i}`);
const tokenizer = { stream: () => ({ push: (id: number) => pieces[id & 255]!, flush: () => "" }) };

async function measure(depth: 1 | 2, numSeqs: number, promptTokens: number, params: Partial<SamplingParams>): Promise<void> {
  const device = new InstantDevice(depth);
  const engine = new AsyncEngine(device, tokenizer, { eosTokenIds: [], numLayers: 1 });
  const checked = samplingParams({ maxTokens: STEPS + WARMUP, ...params });
  const clients = Array.from({ length: numSeqs }, async (_, i) => {
    const promptTokenIds = Array.from({ length: promptTokens }, (_, t) => (i * 31 + t * 17) % VOCAB_SIZE);
    let length = 0;
    for await (const delta of engine.generate({ requestId: String(i), promptTokenIds, params: checked }))
      length += delta.text.length;
    return length;
  });
  const samples: number[] = [];
  let before = engine.stats();
  let clock = performance.now();
  const wall: number[] = [];
  const watch = (async () => {
    while (engine.stats().steps === 0 || engine.stats().numRunning > 0) {
      await new Promise((resolve) => setImmediate(resolve));
      const now = engine.stats();
      const time = performance.now();
      if (now.steps === before.steps) continue; // at depth 2 what waits for results takes two turns a step
      if (now.steps === before.steps + 1 && device.decodeSeqs === numSeqs && now.numWaiting === 0) {
        samples.push(now.hostMs - before.hostMs);
        wall.push(time - clock);
      }
      before = now;
      clock = time;
    }
  })();
  await Promise.all(clients);
  await watch;
  const show = (values: number[]): string => {
    const sorted = values.slice(WARMUP).sort((a, b) => a - b);
    const at = (q: number): string => (sorted[Math.floor(q * (sorted.length - 1))]! * 1000).toFixed(0).padStart(5);
    return `${at(0.5)} ${at(0.99)}`;
  };
  const name = `depth ${depth}, ${numSeqs} sequences, prompt ${promptTokens}, ${JSON.stringify(params)}`;
  console.log(
    `${name.padEnd(72)} host ${show(samples)}  with clients ${show(wall)}   µs (median, p99) over ${samples.length} steps`,
  );
}

for (const depth of [1, 2] as const) {
  for (const numSeqs of [64, 256]) {
    await measure(depth, numSeqs, 512, {});
    await measure(depth, numSeqs, 512, { stop: ["\n\nUser:", "</s>"] });
    await measure(depth, numSeqs, 512, { repetitionPenalty: 1.1, presencePenalty: 0.5 });
    await measure(depth, numSeqs, 512, { logprobs: 5 });
  }
}
