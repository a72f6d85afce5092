import { afterAll, describe, expect, it } from "vitest";
import { MAX_LOGPROBS } from "../../runtime/batch.ts";
import { testAddon } from "./kernel-library.ts";
import { distribution, draw, logSumExp, penalized, philox, plainRow, type Row } from "./reference-sampler.ts";
import { SampleKernel } from "./sample-kernel.ts";

/** Standard normal numbers times `scale`, from the generator under test's own reference. */
function normals(n: number, seed: number, scale = 3): Float32Array {
  return Float32Array.from({ length: n }, (_, i) => {
    const [a, b] = philox([i, 1, 0, 0], [seed, 77]).map((word) => (word + 0.5) / 2 ** 32) as [number, number];
    return scale * Math.sqrt(-2 * Math.log(a)) * Math.cos(2 * Math.PI * b);
  });
}

const { features, arch } = testAddon().cpuFacts();
// Every vector width that this machine runs: the text picks 4, 8 or 16 lanes by what the compiler targets.
const variants: [name: string, flags: string[]][] = [["baseline", []]];
const isInstrumented = process.env.INGOT_TEST_CXXFLAGS !== undefined; // then one width is enough: the text is the same
if (!isInstrumented && arch === "x64" && features.includes("avx2")) variants.push(["avx2", ["-mavx2", "-mfma"]]);
if (!isInstrumented && arch === "x64" && features.includes("avx512bw"))
  variants.push(["avx512", ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"]]);

it("the reference generator gives the published Philox4x32-10 vectors", () => {
  expect(philox([0, 0, 0, 0], [0, 0])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  expect(philox([-1, -1, -1, -1], [-1, -1])).toEqual([0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
});

describe.each(variants)("the sampling kernel (%s)", (_, flags) => {
  const kernels = new Map<number, SampleKernel>();
  const kernel = (vocab: number): SampleKernel => {
    const made = kernels.get(vocab) ?? new SampleKernel(vocab, flags);
    kernels.set(vocab, made);
    return made;
  };
  afterAll(async () => {
    for (const made of kernels.values()) await made.close();
  });

  /** Draws `count` tokens of one row, counter by counter; returns how often each was drawn. */
  async function counts(logits: Float32Array, row: Row, count: number): Promise<number[]> {
    const seen = new Array<number>(logits.length).fill(0);
    const perRun = Math.min(500, count);
    for (let start = 0; start < count; start += perRun) {
      const rows = Array.from({ length: perRun }, (_, i) => ({ ...row, counter: start + i }));
      const { ids } = await kernel(logits.length).sample(rows, () => logits);
      for (const id of ids) seen[id]!++;
    }
    return seen;
  }

  it.each(isInstrumented ? [17] : [1, 5, 16, 17, 64, 100, 1003])(
    "takes the largest of %i logits, the first of equals, when greedy",
    async (vocab) => {
      const rows = Array.from({ length: 40 }, (_, seed) => normals(vocab, seed));
      // Rounded to whole numbers, many share the maximum.
      const logits = rows.map((row, i) => (i % 2 ? row.map((l) => Math.round(l / 3)) : row));
      const { ids } = await kernel(vocab).sample(
        rows.map(() => plainRow),
        (r) => logits[r]!,
      );
      expect([...ids]).toEqual(logits.map((row) => row.indexOf(Math.max(...row))));
    },
  );

  it("draws from the softmax at the temperature: chi-square over 100,000 draws", async () => {
    const logits = normals(40, 5, 1.5);
    const row: Row = { ...plainRow, temperature: 0.8, seed: [123, 456] };
    const expected = distribution(logits, row).map((p) => p * 100_000);
    const seen = await counts(logits, row, 100_000);
    expect(Math.min(...expected)).toBeGreaterThan(5);
    const chiSquare = seen.reduce((sum, n, i) => sum + (n - expected[i]!) ** 2 / expected[i]!, 0);
    expect(chiSquare).toBeLessThan(73.4); // 39 degrees of freedom, p = 0.0007
    expect(chiSquare).toBeGreaterThan(13); // nor better than chance
  });

  const cuts: Partial<Row>[] = [
    { topK: 1 },
    { topK: 7 },
    { topK: 50 },
    { topK: 400 },
    { topP: 0.3 },
    { topP: 0.9 },
    { topP: 0.999 },
    { topP: 1e-6 },
    { minP: 0.05 },
    { minP: 1 },
    { topK: 30, topP: 0.8 },
    { topK: 60, topP: 0.95, minP: 0.1 },
    { topP: 0.7, minP: 0.2 },
    { topK: 100_000, topP: 0.5 },
  ];
  it.each(isInstrumented ? [97] : [97, 1003])(
    "keeps exactly the tokens that top-k, top-p and min-p leave of %i",
    async (vocab) => {
      for (const [i, cut] of cuts.entries()) {
        const logits = normals(vocab, 100 + i, 1);
        const row: Row = { ...plainRow, temperature: 1.3, seed: [i, 9], ...cut };
        const expected = distribution(logits, row);
        const rarest = Math.min(...expected.filter((p) => p > 0));
        const seen = await counts(logits, row, Math.min(20_000, Math.ceil(12 / rarest)));
        const kept = (n: number) => n > 0;
        // Enough draws to see the rarest token; where that is too many, at least none outside.
        if (12 / rarest <= 20_000) expect(seen.map(kept), JSON.stringify(cut)).toEqual(expected.map(kept));
        else expect(seen.every((n, id) => n === 0 || expected[id]! > 0)).toBe(true);
      }
    },
  );

  it.each(isInstrumented ? [1003] : [33, 1003, 5000])("draws the very token the reference draws, of %i", async (vocab) => {
    const rows = Array.from({ length: 140 }, (_, i): Row => {
      const seed: Row["seed"] = [(i * 2654435761) | 0, -i];
      return { ...plainRow, temperature: [0.2, 1, 5][i % 3]!, seed, counter: i * 7, ...cuts[i % cuts.length] };
    });
    const logits = rows.map((_, i) => normals(vocab, i));
    const { ids } = await kernel(vocab).sample(rows, (r) => logits[r]!);
    expect([...ids]).toEqual(rows.map((row, r) => draw(distribution(logits[r]!, row), row)));
  });

  it("keeps or drops equal logits together", async () => {
    const logits = Float32Array.from([3, 1, 3, 2, 3, 2, 0, 2, 3, -1, 2]);
    const support = async (cut: Partial<Row>) =>
      (await counts(logits, { ...plainRow, temperature: 1, ...cut }, 500)).flatMap((n, id) => (n > 0 ? [id] : []));
    expect(await support({ topK: 2 })).toEqual([0, 2, 4, 8]);
    expect(await support({ topK: 5 })).toEqual([0, 2, 3, 4, 5, 7, 8, 10]);
    expect(await support({ topP: 0.1 })).toEqual([0, 2, 4, 8]);
    expect(await support({ topP: 0.8 })).toEqual([0, 2, 3, 4, 5, 7, 8, 10]);
    expect(
      await counts(new Float32Array(64), { ...plainRow, temperature: 1, topK: 3, topP: 0.2 }, 1000).then(
        (c) => c.filter((n) => n > 0).length,
      ),
    ).toBe(64);
  });

  it("never draws a banned token, at any temperature", async () => {
    const logits = normals(97, 3, 1);
    const allowed = [4, 50, 96];
    const bias = Array.from({ length: 97 }, (_, id) => [id, allowed.includes(id) ? 0 : Number.NEGATIVE_INFINITY] as const);
    for (const cut of [
      { temperature: 0 },
      { temperature: 100 },
      { temperature: 1, topK: 20 },
      { temperature: 1, topP: 0.9999 },
    ]) {
      const seen = await counts(logits, { ...plainRow, ...cut, bias }, 200);
      expect(allowed.reduce((sum, id) => sum + seen[id]!, 0)).toBe(200);
    }
  });

  it("says −1 for a row with NaN or +∞ or nothing allowed, and serves the rows beside it", async () => {
    const rows = [0, 1, 1, 0.5, 1].map((temperature): Row => ({ ...plainRow, temperature, topK: 5, numLogprobs: 3 }));
    const logits = rows.map((_, r) => normals(1003, r));
    logits[1]![1002] = Number.NaN;
    logits[2]![7] = Number.POSITIVE_INFINITY;
    logits[3]!.fill(Number.NEGATIVE_INFINITY);
    const { ids, logprobs, topIds } = await kernel(1003).sample(rows, (r) => logits[r]!);
    expect(ids[0]).toBe(logits[0]!.indexOf(Math.max(...logits[0]!)));
    expect([...ids.slice(1, 4)]).toEqual([-1, -1, -1]);
    expect(ids[4]).toBe(draw(distribution(logits[4]!, rows[4]!), rows[4]!));
    expect([...logprobs].map(Number.isNaN)).toEqual([false, true, true, true, false]);
    expect(topIds[MAX_LOGPROBS]).toBe(-1);
  });

  it("applies bias, then repetition, frequency and presence penalties, as the reference does", async () => {
    const rows = Array.from({ length: 60 }, (_, i): Row => {
      const tokens = Array.from({ length: 30 }, (_, k) => [(k * 33 + i) % 1003, k % 4] as const);
      const bias = [[(i * 91) % 1003, 5 - (i % 10)] as const, [(i * 17) % 1003, Number.NEGATIVE_INFINITY] as const];
      const penalties = {
        repetitionPenalty: [1, 1.3, 0.5][i % 3]!,
        presencePenalty: (i % 5) / 2 - 1,
        frequencyPenalty: (i % 7) / 5 - 0.5,
      };
      return { ...plainRow, ...penalties, tokens, bias, numLogprobs: 21 };
    });
    const logits = rows.map((_, i) => normals(1003, 300 + i, 2));
    const { ids, logprobs, topIds, topLogprobs } = await kernel(1003).sample(rows, (r) => logits[r]!);
    rows.forEach((row, r) => {
      const l = penalized(logits[r]!, row);
      const lse = logSumExp(l);
      const best = [...l.keys()].sort((a, b) => l[b]! - l[a]! || a - b).slice(0, MAX_LOGPROBS);
      expect(ids[r]).toBe(best[0]);
      expect(logprobs[r]).toBeCloseTo(l[best[0]!]! - lse, 4);
      expect([...topIds.slice(r * MAX_LOGPROBS, (r + 1) * MAX_LOGPROBS)]).toEqual(best);
      for (const [k, id] of best.entries()) expect(topLogprobs[r * MAX_LOGPROBS + k]).toBeCloseTo(l[id]! - lse, 4);
    });
  });

  it("gives log-probabilities before temperature and cuts, and only as many as asked for", async () => {
    const logits = normals(1003, 8);
    const wanted = [0, 1, 2, 6, 21];
    const rows = wanted.map((numLogprobs): Row => ({ ...plainRow, temperature: 2, topK: 3, seed: [4, 4], numLogprobs }));
    const { ids, logprobs, topIds, topLogprobs } = await kernel(1003).sample(rows, () => logits);
    const lse = logSumExp(logits);
    expect(logprobs[0]).toBeNaN();
    wanted.forEach((n, r) => {
      if (n > 0) expect(logprobs[r]).toBeCloseTo(logits[ids[r]!]! - lse, 5);
      const alternatives = [...topIds.slice(r * MAX_LOGPROBS, (r + 1) * MAX_LOGPROBS)].filter((id) => id >= 0);
      expect(alternatives).toHaveLength(Math.max(0, n - 1));
      const values = [...topLogprobs.slice(r * MAX_LOGPROBS, r * MAX_LOGPROBS + alternatives.length)];
      expect(values).toEqual(values.toSorted((a, b) => b - a));
    });
    const few = await kernel(5).sample([{ ...plainRow, numLogprobs: 21 }], () => [1, 5, 2, 5, Number.NEGATIVE_INFINITY]);
    expect([...few.topIds]).toEqual([1, 3, 2, 0, ...Array(16).fill(-1)]);
  });

  it("draws the same token for the same seed and counter, alone or among other rows", async () => {
    const logits = Array.from({ length: 64 }, (_, i) => normals(1003, i));
    const rows = logits.map(
      (_, i): Row => ({ ...plainRow, temperature: 1, seed: [i % 8, 1], counter: i >> 3, ...cuts[i % cuts.length] }),
    );
    const together = await kernel(1003).sample(rows, (r) => logits[r]!);
    for (const r of [0, 13, 40, 63]) {
      const alone = await kernel(1003).sample([rows[r]!], () => logits[r]!);
      expect(alone.ids[0]).toBe(together.ids[r]);
    }
    const other = await kernel(1003).sample(
      rows.map((row) => ({ ...row, seed: [row.seed[0], 2] as const })),
      (r) => logits[r]!,
    );
    expect([...other.ids]).not.toEqual([...together.ids]);
  });

  it("keeps its cuts exact at a published vocabulary of 151,936 tokens", async () => {
    const logits = normals(151_936, 1);
    const big = kernel(151_936);
    for (const cut of [
      { topK: 50 },
      { topK: 3000 },
      { topP: 0.9 },
      { topP: 0.9, temperature: 20 },
      { topK: 40, topP: 0.95, minP: 0.05 },
    ]) {
      const row: Row = { ...plainRow, temperature: 1, ...cut };
      const probabilities = distribution(logits, row);
      const rows = Array.from({ length: 24 }, (_, i): Row => ({ ...row, seed: [i, 0] }));
      const { ids } = await big.sample(rows, () => logits);
      expect([...ids]).toEqual(rows.map((r) => draw(probabilities, r)));
    }
  });
});
