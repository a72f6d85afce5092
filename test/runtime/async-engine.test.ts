import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { AsyncEngineOptions } from "../../runtime/async-engine.ts";
import { EngineError, RequestError } from "../../runtime/errors.ts";
import type { OutputDelta } from "../../runtime/request.ts";
import { type SamplingParams, samplingParams } from "../../runtime/sampling-params.ts";
import { ask, collect, complete, counting, engineMaker, greedy, randomIds } from "../support/engine-requests.ts";
import { type FakeDeviceOptions, hashLogits } from "../support/fake-device.ts";

/** Steps that the device takes at once. */
const DEPTHS = [1, 2] as const;

describe.each(DEPTHS)("the same request gives the same tokens, at depth %i", (depth) => {
  const makeEngine = engineMaker(depth);

  const prompt = randomIds(7, 45);
  const params = { maxTokens: 40, ignoreEos: true };
  const expected = greedy(prompt, 40);
  const shapes: Record<string, [FakeDeviceOptions, Partial<AsyncEngineOptions>]> = {
    "with room for all": [{}, {}],
    "without a prefix cache": [{}, { enablePrefixCaching: false }],
    "under a budget of 16 tokens": [{ maxNumBatchedTokens: 16 }, {}],
    "with 8 sequences at a time": [{ maxNumSeqs: 8 }, {}],
    "with preemption forced by few blocks": [{ numBlocks: 64, maxModelLen: 120 }, {}],
    "with few blocks, a small budget and no prefix cache": [
      { numBlocks: 40, maxNumBatchedTokens: 16, maxModelLen: 120 },
      { enablePrefixCaching: false },
    ],
    "with blocks of one token": [{ blockSize: 1, numBlocks: 300, maxModelLen: 120 }, {}],
  };
  for (const [name, [device, options]] of Object.entries(shapes)) {
    it(`${name}, alone and among 64 others`, async () => {
      const { engine } = makeEngine(device, options);
      expect((await complete(engine, prompt, params)).tokenIds).toEqual(expected);
      const others = Array.from({ length: 64 }, async (_, i) => {
        for (let wait = (i * 7) % 23; wait > 0; wait--) await new Promise((resolve) => setImmediate(resolve));
        const own = i % 3 === 0 ? prompt.slice(0, 10 + (i % 30)).concat(randomIds(i, 5)) : randomIds(i, 1 + ((i * 13) % 60));
        const output = await complete(engine, own, { maxTokens: 1 + ((i * 5) % 50), ignoreEos: true });
        expect(output.tokenIds).toEqual(greedy(own, 1 + ((i * 5) % 50)));
      });
      const again = await Promise.all(Array.from({ length: 3 }, () => complete(engine, prompt, params)));
      for (const output of again) expect(output.tokenIds).toEqual(expected);
      await Promise.all(others);
      if ((device.numBlocks ?? 512) <= 64) expect(engine.stats().numPreemptions).toBeGreaterThan(0);
      expect(engine.stats().kvCacheUsage).toBe(0);
      engine.checkIntegrity();
    });
  }

  it("when it samples with a seed, alone and among others, and another seed gives others", async () => {
    const sampled = { ...params, temperature: 1, seed: 42 };
    const alone = await complete(makeEngine().engine, prompt, sampled);
    const { engine } = makeEngine({ maxNumBatchedTokens: 16, numBlocks: 64, maxModelLen: 120 });
    const outputs = await Promise.all([
      ...Array.from({ length: 20 }, (_, i) => complete(engine, randomIds(i, 30), { maxTokens: 30, temperature: 1 })),
      complete(engine, prompt, sampled),
      complete(engine, prompt, { ...sampled, seed: 43 }),
    ]);
    expect(outputs[20]!.tokenIds).toEqual(alone.tokenIds);
    expect(outputs[21]!.tokenIds).not.toEqual(alone.tokenIds);
    const fresh = await Promise.all([0, 1].map(() => complete(engine, prompt, { ...sampled, seed: null })));
    expect(fresh[0]!.tokenIds).not.toEqual(fresh[1]!.tokenIds);
  });
});

describe.each(DEPTHS)("prefix cache, at depth %i", (depth) => {
  const makeEngine = engineMaker(depth);

  it("skips the full blocks that an earlier request computed, all but the last token", async () => {
    const { engine, device } = makeEngine();
    const prompt = randomIds(1, 32);
    expect((await complete(engine, prompt, { maxTokens: 1 })).numCachedTokens).toBe(0);
    const steps = device.log.length;
    expect((await complete(engine, prompt, { maxTokens: 1 })).numCachedTokens).toBe(28);
    expect(device.log.slice(steps)).toEqual([{ numTokens: 4, numSeqs: 1, numSamples: 1 }]);
    expect(engine.stats()).toMatchObject({ prefixCacheQueries: 64, prefixCacheHits: 28 });
  });

  it("finds what an earlier request generated", async () => {
    const { engine } = makeEngine();
    const prompt = randomIds(1, 10);
    const { tokenIds } = await complete(engine, prompt, { maxTokens: 20, ignoreEos: true });
    expect((await complete(engine, [...prompt, ...tokenIds, 5], { maxTokens: 1 })).numCachedTokens).toBe(28); // the 30th was never computed
  });

  it("is not shared between salts", async () => {
    const { engine } = makeEngine();
    const request = { requestId: "a", promptTokenIds: randomIds(1, 32), params: samplingParams({ maxTokens: 1 }) };
    await collect(engine.generate({ ...request, cacheSalt: "mine" }));
    expect((await collect(engine.generate({ ...request, cacheSalt: "yours" })))[0]!.numCachedTokens).toBe(0);
    expect((await collect(engine.generate(request)))[0]!.numCachedTokens).toBe(0);
    expect((await collect(engine.generate({ ...request, cacheSalt: "mine" })))[0]!.numCachedTokens).toBe(28);
  });

  it("lets the completions of one request, and requests that arrive together, compute a shared prompt once", async () => {
    const { engine, device } = makeEngine({ maxNumBatchedTokens: 16 });
    const prompt = randomIds(1, 102);
    const [first, ...rest] = await collect(ask(engine, prompt, { n: 8, maxTokens: 3, ignoreEos: true }), 8);
    expect(first!.numCachedTokens).toBe(0);
    for (const output of rest) {
      expect(output.numCachedTokens).toBe(100);
      expect(output.tokenIds).toEqual(greedy(prompt, 3));
    }
    // 102 + 7 tails of 2 tokens, then 2 decodes each.
    expect(device.log.reduce((sum, step) => sum + step.numTokens, 0)).toBe(102 + 7 * 2 + 8 * 2);
  });
});

describe.each(DEPTHS)("how an output ends, at depth %i", (depth) => {
  const makeEngine = engineMaker(depth);

  it("at maxTokens, with reason length", async () => {
    const output = await complete(makeEngine({ logits: counting }).engine, [1], { maxTokens: 5 });
    expect(output).toMatchObject({ tokenIds: [2, 3, 4, 5, 6], text: "cdefg", finishReason: "length", stopReason: null });
  });

  it("at the context's end when maxTokens is null", async () => {
    const output = await complete(makeEngine({ logits: counting, maxModelLen: 20 }).engine, [1, 2, 3], { ignoreEos: true });
    expect(output.tokenIds).toHaveLength(17);
    expect(output.finishReason).toBe("length");
  });

  it("at the KV cache's end when that is nearer", async () => {
    const { engine } = makeEngine({ logits: counting, numBlocks: 3 });
    const output = await complete(engine, [1, 2, 3], { ignoreEos: true });
    expect(output.tokenIds).toHaveLength(10); // 12 slots; the last token is never computed
    expect(output.finishReason).toBe("length");
  });

  it("at EOS, whose id is kept and whose text is not", async () => {
    const output = await complete(makeEngine({ logits: counting }).engine, [61]);
    expect(output).toMatchObject({ tokenIds: [62, 63, 0], text: "kl", finishReason: "stop", stopReason: null });
  });

  it("at a stop id, which it names", async () => {
    const output = await complete(makeEngine({ logits: counting }).engine, [1], { stopTokenIds: [4] });
    expect(output).toMatchObject({ tokenIds: [2, 3, 4], text: "cd", finishReason: "stop", stopReason: 4 });
  });

  it("not at EOS with ignoreEos", async () => {
    const output = await complete(makeEngine({ logits: counting }).engine, [61], { ignoreEos: true, maxTokens: 5 });
    expect(output.tokenIds).toEqual([62, 63, 0, 1, 2]);
  });

  it("not before minTokens, whatever would end it", async () => {
    const always0 = () => Array.from({ length: 64 }, (_, v) => (v === 0 ? 10 : v === 5 ? 9 : v === 6 ? 8 : 0));
    const { engine } = makeEngine({ logits: always0 });
    const output = await complete(engine, [1], { minTokens: 4, stopTokenIds: [5] });
    expect(output).toMatchObject({ tokenIds: [6, 6, 6, 6, 0], finishReason: "stop" });
    const stopped = await complete(engine, [1], { minTokens: 3, ignoreEos: true, stop: ["a"] });
    expect(stopped).toMatchObject({ tokenIds: [0, 0, 0, 0], text: "aaa", stopReason: "a" });
  });

  it("at a stop string across token boundaries, of which nothing was ever shown", async () => {
    const pieces = ["", "x", "he", "llo ST", "O", "P now", " and on"];
    const { engine } = makeEngine({ logits: counting }, {}, pieces);
    const texts: string[] = [];
    let last: OutputDelta | undefined;
    for await (const delta of ask(engine, [1], { stop: ["STOP"] })) {
      texts.push(delta.text);
      last = delta;
    }
    expect(texts.join("")).toBe("hello ");
    expect(last).toMatchObject({ finishReason: "stop", stopReason: "STOP" });
    const included = await complete(engine, [1], { stop: ["STOP"], includeStopStrInOutput: true });
    expect(included.text).toBe("hello STOP");
    const partial = await complete(engine, [1], { stop: ["STOPPED"], maxTokens: 3 });
    expect(partial).toMatchObject({ text: "hello STO", finishReason: "length" }); // what was held back comes at the end
  });
});

describe.each(DEPTHS)("aborting, at depth %i", (depth) => {
  const makeEngine = engineMaker(depth);

  it("by signal ends with reason abort and frees everything, at any moment", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat({ max: 30 }), { minLength: 8, maxLength: 8 }), fc.boolean(), async (moments, tiny) => {
        const { engine } = makeEngine(tiny ? { maxNumBatchedTokens: 16, numBlocks: 40, maxModelLen: 120 } : {});
        const outputs = moments.map(async (moment, i) => {
          const controller = new AbortController();
          const output = collect(
            ask(engine, randomIds(i, 40), { maxTokens: 20, ignoreEos: true, n: 1 + (i % 2) }, controller.signal),
            2,
          );
          for (let t = 0; t < moment; t++) await new Promise((resolve) => setImmediate(resolve));
          controller.abort();
          return output;
        });
        for (const [i, results] of (await Promise.all(outputs)).entries()) {
          for (const output of results.slice(0, 1 + (i % 2))) {
            expect(["abort", "length"]).toContain(output.finishReason);
            expect(output.tokenIds).toEqual(greedy(randomIds(i, 40), output.tokenIds.length));
          }
        }
        await engine.drain();
        engine.checkIntegrity();
        expect(engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvCacheUsage: 0 });
      }),
      { numRuns: 20 },
    );
  });

  it("while its step is in flight leaves the others alone", async () => {
    const controller = new AbortController();
    const { engine } = makeEngine({
      during: (step) => {
        if (step === 3) controller.abort();
      },
    });
    const aborted = collect(ask(engine, randomIds(1, 20), { maxTokens: 50, ignoreEos: true }, controller.signal));
    const other = await complete(engine, randomIds(2, 20), { maxTokens: 10, ignoreEos: true });
    expect(other.tokenIds).toEqual(greedy(randomIds(2, 20), 10));
    // Results are read one step behind the device of depth 2.
    expect((await aborted)[0]).toMatchObject({ finishReason: "abort", tokenIds: greedy(randomIds(1, 20), 3 - depth) });
  });

  it("before the start gives one delta a completion and never runs", async () => {
    const { engine, device } = makeEngine();
    const outputs = await collect(ask(engine, [1], { n: 2 }, AbortSignal.abort()), 2);
    expect(outputs.map((output) => output.finishReason)).toEqual(["abort", "abort"]);
    expect(device.steps).toBe(0);
  });

  it("is what leaving the loop early does", async () => {
    const { engine } = makeEngine();
    for await (const _ of ask(engine, [1, 2, 3], { ignoreEos: true })) break;
    await engine.drain();
    expect(engine.stats()).toMatchObject({ numRunning: 0, kvCacheUsage: 0 });
    expect(engine.stats().generationTokens).toBeLessThan(5);
  });

  it("by return() ends a reader that waits for news", async () => {
    const { engine } = makeEngine({ during: () => new Promise((resolve) => setTimeout(resolve, 20)) });
    const stream = ask(engine, [1, 2, 3], { ignoreEos: true });
    const waiting = stream.next();
    await stream.return!();
    expect(await waiting).toEqual({ done: true, value: undefined });
    expect(engine.stats().numRunning + engine.stats().numWaiting).toBe(0);
    await engine.drain();
  });

  it("leaves no listener on a signal that outlives the request", async () => {
    const signal = new AbortController().signal;
    let listeners = 0;
    const add = signal.addEventListener.bind(signal);
    const remove = signal.removeEventListener.bind(signal);
    signal.addEventListener = (...args: Parameters<typeof add>) => {
      listeners++;
      add(...args);
    };
    signal.removeEventListener = (...args: Parameters<typeof remove>) => {
      listeners--;
      remove(...args);
    };
    const { engine } = makeEngine();
    await collect(ask(engine, [1], { maxTokens: 3 }, signal));
    expect(listeners).toBe(0);
  });
});

describe.each(DEPTHS)("sampling parameters reach the device, at depth %i", (depth) => {
  const makeEngine = engineMaker(depth);

  it("logprobs: the sampled token's and the best alternatives", async () => {
    const { engine } = makeEngine();
    const prompt = randomIds(3, 9);
    const { logprobs, tokenIds } = await complete(engine, prompt, { maxTokens: 2, logprobs: 3, ignoreEos: true });
    expect(logprobs).toHaveLength(2);
    const logits = hashLogits(prompt, 64);
    const logSum = Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0));
    expect(logprobs[0]!.id).toBe(tokenIds[0]);
    expect(logprobs[0]!.logprob).toBeCloseTo(Math.max(...logits) - logSum, 5);
    expect(logprobs[0]!.top.map(({ id }) => logits[id])).toEqual([...logits].sort((a, b) => b - a).slice(0, 3));
    expect((await complete(engine, prompt, { maxTokens: 1, logprobs: 0 })).logprobs[0]!.top).toEqual([]);
  });

  it("logit bias and penalties, counted over the output and, for repetition, the prompt", async () => {
    const flat = () => Array.from({ length: 64 }, (_, v) => (v < 4 ? 1 - v * 0.1 : -10));
    const { engine } = makeEngine({ logits: flat }, { eosTokenIds: [] });
    const run = async (params: Partial<SamplingParams>, prompt = [9]) =>
      (await complete(engine, prompt, { maxTokens: 6, ...params })).tokenIds;
    expect(await run({})).toEqual([0, 0, 0, 0, 0, 0]);
    expect(await run({ logitBias: { 0: -100, 9: 100 } })).toEqual([9, 9, 9, 9, 9, 9]);
    expect(await run({ presencePenalty: 0.25 })).toEqual([0, 1, 2, 0, 0, 0]);
    expect(await run({ frequencyPenalty: 0.15 })).toEqual([0, 1, 0, 2, 1, 3]);
    expect(await run({ repetitionPenalty: 2 })).toEqual([0, 1, 2, 3, 0, 0]);
    expect(await run({ repetitionPenalty: 2 }, [0, 1])).toEqual([2, 3, 0, 0, 0, 0]);
    expect(await run({ presencePenalty: 0.25 }, [0, 1])).toEqual([0, 1, 2, 0, 0, 0]); // the prompt does not count
  });

  it("completions of one seeded request differ, and repeat", async () => {
    const { engine } = makeEngine();
    const params = { n: 3, temperature: 1, seed: 5, maxTokens: 12, ignoreEos: true };
    const first = await collect(ask(engine, [1, 2, 3], params), 3);
    const again = await collect(ask(engine, [1, 2, 3], params), 3);
    expect(again.map((output) => output.tokenIds)).toEqual(first.map((output) => output.tokenIds));
    expect(new Set(first.map((output) => output.tokenIds.join())).size).toBe(3);
  });
});

describe.each(DEPTHS)("forward, at depth %i", (depth) => {
  const makeEngine = engineMaker(depth);

  it("gives logits and hidden states of every position, in chunks, beside running requests", async () => {
    const { engine, device } = makeEngine({ maxNumSeqs: 8, numBlocks: 64, maxModelLen: 200 });
    const running = Array.from({ length: 12 }, (_, i) => complete(engine, randomIds(i, 30), { maxTokens: 30, ignoreEos: true }));
    const tokenIds = randomIds(99, 50);
    const [result, plain] = await Promise.all([engine.forward(tokenIds, { hidden: true }), engine.forward(tokenIds)]);
    for (let t = 0; t < 50; t++) {
      expect(result.logits.subarray(t * 64, (t + 1) * 64)).toEqual(hashLogits(tokenIds.slice(0, t + 1), 64));
      expect([...result.hidden![2]!.subarray(t * 3, t * 3 + 3)]).toEqual([2, t + 1, tokenIds[t]]);
    }
    expect(result.hidden).toHaveLength(3);
    expect(plain.logits).toEqual(result.logits);
    expect(plain.hidden).toBeUndefined();
    for (const [i, output] of (await Promise.all(running)).entries())
      expect(output.tokenIds).toEqual(greedy(randomIds(i, 30), 30));
    expect((await complete(engine, [...tokenIds, 1], { maxTokens: 1 })).numCachedTokens).toBe(0); // it left nothing behind
    expect(device.steps).toBeGreaterThan(14);
    engine.checkIntegrity();
  });

  it("takes tokens one by one where it is asked to, and gives the same", async () => {
    const { engine, device } = makeEngine();
    const tokenIds = randomIds(7, 9);
    const whole = await engine.forward(tokenIds, { hidden: true });
    const before = device.log.length;
    expect(await engine.forward(tokenIds, { hidden: true, maxNumBatchedTokens: 1 })).toEqual(whole);
    expect(device.log.slice(before).map(({ numTokens }) => numTokens)).toEqual(Array(9).fill(1));
    await engine.forward(tokenIds, { maxNumBatchedTokens: 4 });
    expect(device.log.slice(before + 9).map(({ numTokens }) => numTokens)).toEqual([4, 4, 1]);
    for (const maxNumBatchedTokens of [0, 1.5, Number.NaN])
      await expect(engine.forward(tokenIds, { maxNumBatchedTokens })).rejects.toThrow(
        `maxNumBatchedTokens must be a whole number of at least 1, found ${maxNumBatchedTokens}`,
      );
  });

  it("that cannot take its arrays ends alone", async () => {
    const { engine, device } = makeEngine();
    const step = device.step.bind(device);
    device.step = async (batch, taps) => ({ ...(await step(batch, taps)), taps: new Map() });
    await expect(engine.forward([1, 2, 3])).rejects.toThrow("the engine's program has no tap logits");
    expect((await complete(engine, [1, 2], { maxTokens: 3, ignoreEos: true })).tokenIds).toEqual(greedy([1, 2], 3));
    expect(engine.failure).toBeUndefined();
    engine.checkIntegrity();
  });
});

describe("refusals", () => {
  const makeEngine = engineMaker(1);
  const { engine } = makeEngine({ maxModelLen: 100, numBlocks: 20 });
  const refused = (prompt: number[], params: Partial<SamplingParams> = {}) => {
    try {
      ask(engine, prompt, params);
    } catch (error) {
      expect(error).toBeInstanceOf(RequestError);
      return `${(error as RequestError).status} ${(error as RequestError).param}: ${(error as RequestError).message}`;
    }
    return "accepted";
  };

  it("name the numbers when a prompt does not fit", () => {
    const { engine: roomy } = makeEngine({ maxModelLen: 100 });
    expect(() => ask(roomy, randomIds(1, 100))).toThrow("the prompt of 100 tokens does not fit in the context of 100 tokens");
    expect(() => ask(roomy, randomIds(1, 90), { maxTokens: 11 })).toThrow(
      /90 tokens and maxTokens 11 make 101, more than .* at most 10/,
    );
    expect(() => ask(roomy, randomIds(1, 99))).not.toThrow();
    expect(refused(randomIds(1, 81))).toContain(
      "400 prompt: the prompt of 81 tokens does not fit in the KV cache, which holds 80 tokens",
    );
    expect(refused(randomIds(1, 80))).toBe("accepted");
    expect(refused(randomIds(1, 10), { minTokens: 72 })).toContain("400 minTokens");
  });

  it("name the id that is not in the vocabulary", () => {
    expect(refused([1, 64])).toContain("400 prompt: prompt holds token id 64");
    expect(refused([])).toContain("400 prompt: prompt is empty");
    expect(refused([1.5])).toContain("token id 1.5");
    expect(refused([1], { stopTokenIds: [64] })).toContain("400 stopTokenIds");
    expect(refused([1], { logitBias: { 70: 1 } })).toContain("400 logitBias");
  });

  it("of a forward pass come as rejections", async () => {
    await expect(engine.forward(randomIds(1, 81))).rejects.toThrow("81 tokens do not fit: a forward pass takes at most 80");
    await expect(engine.forward([64])).rejects.toThrow(RequestError);
  });
});

describe.each(DEPTHS)("when things end, at depth %i", (depth) => {
  const makeEngine = engineMaker(depth);

  it("a device failure fails every request and all later calls", async () => {
    const { engine } = makeEngine({
      during: (step) => {
        if (step === 4) throw new Error("out of luck");
      },
    });
    const results = await Promise.allSettled([
      complete(engine, [1, 2], { ignoreEos: true }),
      complete(engine, [3], { ignoreEos: true }),
    ]);
    const late = Promise.allSettled([engine.forward([1])]);
    for (const result of [...results, ...(await late)]) {
      expect(result).toMatchObject({
        status: "rejected",
        reason: { name: "EngineError", message: "the engine failed: out of luck" },
      });
    }
    expect(() => ask(engine, [1])).toThrow(EngineError);
    await engine.drain();
    await engine.close();
  });

  it("a row without a token fails its request alone", async () => {
    const { engine } = makeEngine({
      logits: (context) => (context.length === 5 && context[0] === 1 ? Array(64).fill(Number.NaN) : counting(context)),
    });
    const fails = expect(complete(engine, [1, 2])).rejects.toThrow(/^request r\d+: the model gave no token after 5 tokens/);
    const other = await complete(engine, [2, 2], { maxTokens: 9 });
    expect(other.tokenIds).toHaveLength(9);
    await fails;
    expect(engine.stats()).toMatchObject({ numRunning: 0, kvCacheUsage: 0 });
    engine.checkIntegrity();
  });

  it("close aborts what runs and refuses what comes", async () => {
    const { engine } = makeEngine({ maxNumSeqs: 2 });
    const outputs = [1, 2, 3, 4].map((i) => complete(engine, [i], { ignoreEos: true }));
    const unstarted = ask(engine, [1]);
    for (let t = 0; t < 20; t++) await new Promise((resolve) => setImmediate(resolve));
    const forward = expect(engine.forward(randomIds(1, 50))).rejects.toThrow("the engine is closed");
    await engine.close();
    for (const output of await Promise.all(outputs)) expect(output.finishReason).toBe("abort");
    await forward;
    await expect(collect(unstarted)).rejects.toThrow(EngineError);
    expect(() => ask(engine, [1])).toThrow("the engine is closed");
  });

  it("drain lets what runs end and refuses what comes", async () => {
    const { engine } = makeEngine();
    const output = complete(engine, [1], { maxTokens: 10, ignoreEos: true });
    const drained = engine.drain();
    expect(() => ask(engine, [1])).toThrow(expect.objectContaining({ status: 503 }));
    await drained;
    expect((await output).tokenIds).toHaveLength(10);
  });

  it("a reader that never comes back gets one delta with all there is", async () => {
    const { engine } = makeEngine();
    const stream = ask(engine, [1], { maxTokens: 20, ignoreEos: true });
    await stream.next();
    await engine.drain();
    const rest = await stream.next();
    expect(rest.value?.tokenIds.length).toBeGreaterThan(10);
    expect(rest.value?.finishReason).toBe("length");
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });
});
