/**
 * Engines on a fake device, requests to them and what must come of it: for tests of the engine loop.
 */
import { expect } from "vitest";
import { AsyncEngine, type AsyncEngineOptions } from "../../runtime/async-engine.ts";
import { kvKind } from "../../runtime/batch.ts";
import type { FinishReason, OutputDelta, TokenLogprob } from "../../runtime/request.ts";
import { type SamplingParams, samplingParams } from "../../runtime/sampling-params.ts";
import { FakeDevice, type FakeDeviceOptions, fakeTokenizer, hashLogits } from "./fake-device.ts";

/** One completion, all its news together. */
export interface Output {
  text: string;
  tokenIds: number[];
  logprobs: TokenLogprob[];
  finishReason: FinishReason | null;
  stopReason: string | number | null;
  numCachedTokens: number;
}

/** Makes engines on fake devices of `depth`, whose integrity is checked at the begin and the end of every step. */
export function engineMaker(depth: 1 | 2) {
  return (options: FakeDeviceOptions = {}, engineOptions: Partial<AsyncEngineOptions> = {}, pieces?: readonly string[]) => {
    const device = new FakeDevice({
      depth,
      ...options,
      during: async (step) => {
        engine.checkIntegrity();
        await options.during?.(step);
        engine.checkIntegrity();
      },
    });
    const engine = new AsyncEngine(device, fakeTokenizer(pieces), { eosTokenIds: [0], numLayers: 2, ...engineOptions });
    return { device, engine };
  };
}

/** Reads `deltas` to their end. */
export async function collect(deltas: AsyncIterable<OutputDelta>, n = 1): Promise<Output[]> {
  const outputs: Output[] = Array.from({ length: n }, () => ({
    text: "",
    tokenIds: [],
    logprobs: [],
    finishReason: null,
    stopReason: null,
    numCachedTokens: -1,
  }));
  for await (const delta of deltas) {
    const output = outputs[delta.index]!;
    expect(output.finishReason).toBeNull(); // nothing comes after the end
    output.text += delta.text;
    output.tokenIds.push(...delta.tokenIds);
    output.logprobs.push(...(delta.logprobs ?? []));
    output.finishReason = delta.finishReason;
    output.stopReason = delta.stopReason;
    output.numCachedTokens = delta.numCachedTokens;
  }
  return outputs;
}

let numRequests = 0;
/** Starts a greedy request. */
export function ask(
  engine: AsyncEngine,
  promptTokenIds: readonly number[],
  params: Partial<SamplingParams> = {},
  signal?: AbortSignal,
) {
  return engine.generate({
    requestId: `r${numRequests++}`,
    promptTokenIds,
    params: samplingParams({ temperature: 0, ...params }),
    signal,
  });
}

export async function complete(
  engine: AsyncEngine,
  prompt: readonly number[],
  params: Partial<SamplingParams> = {},
): Promise<Output> {
  return (await collect(ask(engine, prompt, params)))[0]!;
}

export function randomIds(seed: number, length: number, vocabSize = 64): number[] {
  let state = seed * 2654435761 + 1;
  return Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 1 + (state % (vocabSize - 1));
  });
}

/** What the hash model says greedily, computed without any engine. */
export function greedy(prompt: readonly number[], n: number, rebuiltBeyond: readonly number[] = []): number[] {
  const context = [...prompt];
  for (let i = 0; i < n; i++) {
    const logits = hashLogits(context, 64, kvKind(context.length, rebuiltBeyond));
    context.push(logits.indexOf(Math.max(...logits)));
  }
  return context.slice(prompt.length);
}

/** A model that says its last token plus one. */
export const counting = (context: readonly number[]) =>
  Array.from({ length: 64 }, (_, v) => (v === (context.at(-1)! + 1) % 64 ? 10 : 0));
