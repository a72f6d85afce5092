/**
 * The engine loop on a device that takes two steps at once and answers late: what comes out is what comes out of one step at a time.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { AsyncEngine } from "../../runtime/async-engine.ts";
import { type SamplingParams, samplingParams } from "../../runtime/sampling-params.ts";
import { ask, collect, complete, counting, engineMaker, greedy, type Output, randomIds } from "../support/engine-requests.ts";
import { FakeDevice, type FakeDeviceOptions, fakeTokenizer, hashLogits } from "../support/fake-device.ts";

const makeEngine = engineMaker(2);
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
/** A device that takes its time over a step: some turns of the event loop. */
const slow: FakeDeviceOptions = {
  during: async () => {
    for (let t = 0; t < 4; t++) await turn();
  },
};

interface Ask {
  readonly prompt: readonly number[];
  readonly params: Partial<SamplingParams>;
  /** Turns of the event loop before it begins, and before it is aborted, if it is. */
  readonly after: number;
  readonly abortAfter: number | undefined;
}

// Prompts that begin alike; ends of every kind; what must wait for its token and what need not.
const asks: fc.Arbitrary<Ask> = fc
  .record({
    shared: fc.nat({ max: 2 }),
    sharedLength: fc.nat({ max: 24 }),
    own: fc.array(fc.integer({ min: 1, max: 63 }), { minLength: 1, maxLength: 20 }),
    maxTokens: fc.integer({ min: 1, max: 30 }),
    minTokens: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat({ max: 8 }) }),
    ignoreEos: fc.boolean(),
    stop: fc.constantFrom([], [], ["a"], ["xy"]),
    stopTokenIds: fc.constantFrom([], [], [5, 6, 7, 8, 9]),
    temperature: fc.constantFrom(0, 0, 1),
    penalty: fc.constantFrom({}, {}, {}, { presencePenalty: 0.5 }, { repetitionPenalty: 1.5 }, { frequencyPenalty: 0.3 }),
    logprobs: fc.constantFrom(null, null, 2),
    n: fc.constantFrom(1, 1, 2),
    after: fc.nat({ max: 40 }),
    abortAfter: fc.option(fc.nat({ max: 60 }), { freq: 3, nil: undefined }),
  })
  .map(({ shared, sharedLength, own, minTokens, penalty, after, abortAfter, ...params }) => ({
    prompt: [...randomIds(100 + shared, 24).slice(0, sharedLength), ...own],
    params: { ...params, ...penalty, minTokens: Math.min(minTokens, params.maxTokens), seed: sharedLength },
    after,
    abortAfter,
  }));

const shapes: fc.Arbitrary<FakeDeviceOptions> = fc.constantFrom<FakeDeviceOptions>(
  {},
  { numBlocks: 30, maxModelLen: 90, maxNumSeqs: 8 },
  { numBlocks: 40, maxModelLen: 90, maxNumBatchedTokens: 16 },
  { numBlocks: 60, maxModelLen: 90, rebuiltBeyond: [20, 40] },
  { blockSize: 1, numBlocks: 120, maxModelLen: 90 },
);

const isPlain = ({ params }: Ask): boolean => {
  const { minTokens, temperature, presencePenalty, repetitionPenalty, frequencyPenalty } = samplingParams(params);
  return minTokens === 0 && temperature === 0 && repetitionPenalty === 1 && presencePenalty === 0 && frequencyPenalty === 0;
};

describe("two steps at a time", () => {
  it("give the same outputs as one at a time, whatever arrives, ends or is aborted", async () => {
    let numPlaceholders = 0;
    let numPreemptions = 0;
    const property = fc.asyncProperty(
      fc.array(asks, { minLength: 1, maxLength: 16 }),
      shapes,
      fc.array(fc.nat({ max: 3 }), { minLength: 1, maxLength: 8 }),
      fc.boolean(),
      async (requests, shape, delays, enablePrefixCaching) => {
        const late: FakeDeviceOptions = {
          ...shape,
          during: async (step) => {
            for (let t = delays[step % delays.length]!; t > 0; t--) await turn();
          },
        };
        const { engine, device } = makeEngine(late, { enablePrefixCaching });
        const outputs = await Promise.all(
          requests.map(async ({ prompt, params, after, abortAfter }) => {
            for (let t = after; t > 0; t--) await turn();
            const controller = new AbortController();
            const output = collect(ask(engine, prompt, params, controller.signal), params.n);
            if (abortAfter !== undefined) {
              for (let t = abortAfter; t > 0; t--) await turn();
              controller.abort();
            }
            return output;
          }),
        );
        await engine.drain();
        engine.checkIntegrity();
        const stats = engine.stats();
        expect(stats).toMatchObject({ numRunning: 0, numWaiting: 0, kvCacheUsage: 0, steps: device.steps });
        const numTokens = outputs.flat().reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
        expect(stats.generationTokens).toBe(numTokens);
        numPlaceholders += device.numPlaceholders;
        numPreemptions += stats.numPreemptions;

        const { engine: oneByOne } = engineMaker(1)({ ...shape, numBlocks: 512 });
        for (const [r, request] of requests.entries()) {
          const expected = await collect(ask(oneByOne, request.prompt, request.params), request.params.n);
          for (const [i, output] of outputs[r]!.entries()) {
            expectBeginning(output, expected[i]!);
            if (isPlain(request))
              expect(output.tokenIds).toEqual(greedy(request.prompt, output.tokenIds.length, shape.rebuiltBeyond));
          }
        }
      },
    );
    await fc.assert(property, { numRuns: 100 });
    expect(numPlaceholders).toBeGreaterThan(1000);
    expect(numPreemptions).toBeGreaterThan(10);
  });

  /** `output` is `whole`, or what an abort left of it. */
  function expectBeginning(output: Output, whole: Output): void {
    const { text, numCachedTokens, ...rest } = output;
    const { text: wholeText, numCachedTokens: _, ...wholeRest } = whole;
    const length = output.tokenIds.length;
    if (output.finishReason !== "abort") {
      expect({ text, ...rest }).toEqual({ text: wholeText, ...wholeRest });
    } else {
      expect(output.tokenIds).toEqual(whole.tokenIds.slice(0, length));
      expect(output.logprobs).toEqual(whole.logprobs.slice(0, length));
      expect(length).toBeLessThan(whole.tokenIds.length);
    }
    expect(numCachedTokens).toBeLessThan(512);
  }

  it("are in flight throughout a plain decode, every token but the last computed before anyone has seen it", async () => {
    const { engine, device } = makeEngine(slow);
    const submitted: number[] = [];
    const step = device.step.bind(device);
    device.step = (batch, taps) => {
      submitted.push(device.steps);
      return step(batch, taps);
    };
    const prompts = [5, 9, 14].map((length) => randomIds(length, length));
    const outputs = await Promise.all(prompts.map((prompt) => complete(engine, prompt, { maxTokens: 20, ignoreEos: true })));
    expect(outputs.map(({ tokenIds }) => tokenIds)).toEqual(prompts.map((prompt) => greedy(prompt, 20)));
    expect(device).toMatchObject({ steps: 20, mostInFlight: 2, numPlaceholders: 3 * 19 });
    // Step n + 1 was handed over when step n − 1 had run and step n had not.
    expect(submitted).toEqual([0, ...Array.from({ length: 19 }, (_, n) => n)]);
    expect(engine.stats()).toMatchObject({ steps: 20, generationTokens: 60 });
  });

  it("leave no gap between a step and the next, however long the host looks at results", async () => {
    const events: string[] = [];
    const { engine, device } = makeEngine(slow);
    const step = device.step.bind(device);
    let numSubmitted = 0;
    device.step = async (batch, taps) => {
      const n = ++numSubmitted;
      events.push(`submit ${n}`);
      const result = await step(batch, taps);
      events.push(`done ${n}`);
      return result;
    };
    for await (const _ of ask(engine, [1], { maxTokens: 12, ignoreEos: true })) {
      await turn();
    }
    for (let n = 1; n < 12; n++) expect(events.indexOf(`submit ${n + 1}`)).toBeLessThan(events.indexOf(`done ${n}`));
  });

  it("are one at a time for a request with a penalty, and for its last token", async () => {
    const { engine, device } = makeEngine(slow);
    await complete(engine, randomIds(1, 9), { maxTokens: 10, presencePenalty: 0.5, ignoreEos: true });
    await complete(engine, randomIds(1, 9), { maxTokens: 1, ignoreEos: true });
    expect(device).toMatchObject({ steps: 11, mostInFlight: 1, numPlaceholders: 0 });
  });

  it("run one step too far where EOS or a stop string ends an output, of which nothing is seen", async () => {
    for (const params of [{}, { stop: ["l"], ignoreEos: true }]) {
      const { engine, device } = makeEngine({ logits: counting });
      const output = await complete(engine, [61], params);
      await engine.drain();
      expect(output).toMatchObject({ tokenIds: "stop" in params ? [62, 63] : [62, 63, 0], finishReason: "stop" });
      expect(device.steps).toBe(output.tokenIds.length + 1);
      expect(engine.stats()).toMatchObject({ generationTokens: output.tokenIds.length, kvCacheUsage: 0 });
    }
  });

  it("survive a row without a token, which the next step computes on", async () => {
    const { engine, device } = makeEngine({
      ...slow,
      logits: (context) => (context.length === 8 && context[0] === 1 ? Array(64).fill(Number.NaN) : hashLogits(context, 64)),
    });
    const fails = expect(complete(engine, [1, 2, 3], { maxTokens: 20, ignoreEos: true })).rejects.toThrow(
      "the model gave no token",
    );
    const other = await complete(engine, [2, 2], { maxTokens: 15, ignoreEos: true });
    await fails;
    expect(other.tokenIds).toEqual(greedy([2, 2], 15));
    expect(device.mostInFlight).toBe(2);
    engine.checkIntegrity();
  });

  it("find what a request generated in the prefix cache, its blocks filled by placeholders included", async () => {
    const { engine, device } = makeEngine();
    const prompt = randomIds(1, 10);
    const { tokenIds } = await complete(engine, prompt, { maxTokens: 20, ignoreEos: true });
    expect(device.numPlaceholders).toBe(19);
    const next = [...prompt, ...tokenIds, 5];
    const output = await complete(engine, next, { maxTokens: 5, ignoreEos: true });
    expect(output).toMatchObject({ numCachedTokens: 28, tokenIds: greedy(next, 5) });
  });

  it("both end before close does, and before drain does", async () => {
    for (const end of ["close", "drain"] as const) {
      const { engine, device } = makeEngine(slow);
      const output = complete(engine, [1, 2], { maxTokens: 40, ignoreEos: true });
      let inFlight = 0;
      const step = device.step.bind(device);
      device.step = (batch, taps) => {
        inFlight++;
        return step(batch, taps).finally(() => inFlight--);
      };
      while (inFlight < 2) await turn();
      await engine[end]();
      expect(inFlight).toBe(0);
      expect((await output).finishReason).toBe(end === "close" ? "abort" : "length");
    }
  });

  it("both end before a failed engine is closed", async () => {
    let numEnded = 0;
    const device = new FakeDevice({ depth: 2, ...slow }); // whoever looks at a failed engine finds it in pieces
    const step = device.step.bind(device);
    device.step = async (batch, taps) => {
      const result = await step(batch, taps);
      if (++numEnded === 4) throw new Error("out of luck");
      return result;
    };
    const engine = new AsyncEngine(device, fakeTokenizer(), { eosTokenIds: [], numLayers: 2 });
    await expect(complete(engine, [1, 2], { maxTokens: 40, ignoreEos: true })).rejects.toThrow("out of luck");
    await engine.close();
    expect(numEnded).toBe(5);
  });
});
