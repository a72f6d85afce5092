import { describe, expect, it } from "vitest";
import { PythonRandom } from "../../../runtime/bench/python-random.ts";
import { fixedWorkload, NANO_VLLM, nanoVllmWorkload, summarizeWorkload } from "../../../runtime/bench/workload.ts";

describe("PythonRandom", () => {
  // python3 -c "import random; random.seed(S); print([random.randint(0, 10**6) for _ in range(5)], [random.randint(-5, 4000000000) for _ in range(3)])"
  it.each([
    [0, [885440, 403958, 794772, 933488, 441001], [173879087, 1112038965, 2195908189]],
    [1, [140891, 596853, 888598, 841235, 800875], [271041740, 1095513143, 506456964]],
    [123456789, [672557, 463751, 568526, 744442, 946644], [3621740333, 3939616292, 3486370658]],
    [4294967295, [666220, 649664, 213070, 225803, 636870], [2243681743, 1251276546, 2590083318]],
    [1099511627781, [528881, 542031, 281652, 696042, 970757], [117802115, 2280452548, 3257480341]],
    [-3, [249523, 621429, 570665, 136758, 387926], [3933953008, 2593816824, 2036044441]],
  ])("draws what CPython draws after seed(%i)", (seed, small, large) => {
    const random = new PythonRandom(seed);
    expect(small.map(() => random.randint(0, 1_000_000))).toEqual(small);
    expect(large.map(() => random.randint(-5, 4_000_000_000))).toEqual(large);
  });

  it("keeps agreeing past the generator's first 624 words", () => {
    const random = new PythonRandom(0);
    let last = 0;
    for (let i = 0; i < 5000; i++) last = random.randint(0, 999);
    expect(last).toBe(859);
  });

  it("refuses an empty range, a range of 2^32 values and a seed that is no integer", () => {
    const random = new PythonRandom(0);
    expect(() => random.randint(2, 1)).toThrow(RangeError);
    expect(() => random.randint(0, 2 ** 32 - 1)).toThrow(RangeError);
    expect(() => new PythonRandom(0.5)).toThrow(RangeError);
  });
});

describe("the Nano-vLLM workload", () => {
  const requests = nanoVllmWorkload();
  const P = requests.map((r) => r.promptTokenIds.length);
  const O = requests.map((r) => r.outputTokens);
  const sum = (xs: readonly number[]) => xs.reduce((a, b) => a + b, 0);

  it("has the published lengths and ids", () => {
    expect(P.slice(0, 5)).toEqual([964, 724, 484, 508, 316]);
    expect(requests[0]?.promptTokenIds.slice(0, 3)).toEqual([6311, 6890, 663]);
    expect(O.slice(0, 3)).toEqual([845, 312, 607]);
  });

  it("has the published totals and extremes", () => {
    expect([requests.length, sum(P), sum(O), sum(P.map((p) => p * p))]).toEqual([256, 142_827, 133_966, 98_260_697]);
    expect([Math.min(...P), Math.max(...P), Math.min(...O), Math.max(...O)]).toEqual([107, 1024, 103, 1024]);
    expect(Math.max(...P.map((p, i) => p + (O[i] ?? 0)))).toBe(2011);
  });

  it("has the published hash of its lengths", () => {
    expect(summarizeWorkload(requests).sha256).toMatch(/^3bb7b7286d9a6c92[0-9a-f]{40}53ffcfda$/);
  });

  it("takes the published number of decode steps, tokens and KV reads", () => {
    // A(t) sequences still decode at step t and each reads its prompt and what it has generated.
    let steps = 0;
    let tokens = 0;
    let reads = 0;
    for (let t = 1; t < Math.max(...O); t++) {
      const active = requests.filter((r) => t < r.outputTokens);
      steps += 1;
      tokens += active.length;
      reads += sum(active.map((r) => r.promptTokenIds.length + t));
    }
    expect([steps, tokens, reads]).toEqual([1023, 133_710, 120_795_204]);
  });

  it("scales down without changing its order of draws", () => {
    const small = nanoVllmWorkload({ ...NANO_VLLM, numSeqs: 3 });
    expect(small.map((r) => r.promptTokenIds)).toEqual(requests.slice(0, 3).map((r) => r.promptTokenIds));
    const narrow = nanoVllmWorkload({ ...NANO_VLLM, inputTokens: { low: 4, high: 9 }, maxTokenId: 6 });
    expect(narrow.every((r) => r.promptTokenIds.length >= 4 && r.promptTokenIds.length <= 9)).toBe(true);
    expect(new Set(narrow.flatMap((r) => r.promptTokenIds))).toEqual(new Set([0, 1, 2, 3, 4, 5, 6]));
  });
});

describe("a fixed workload", () => {
  it("has the lengths asked for and another prompt for each request and seed", () => {
    const options = { numSeqs: 4, inputTokens: 16, outputTokens: 8, maxTokenId: 1000, seed: 7 };
    const requests = fixedWorkload(options);
    expect(requests.map((r) => [r.promptTokenIds.length, r.outputTokens])).toEqual(Array(4).fill([16, 8]));
    const prompts = [...requests, ...fixedWorkload({ ...options, seed: 8 })].map((r) => r.promptTokenIds.join());
    expect(new Set(prompts).size).toBe(8);
  });
});
