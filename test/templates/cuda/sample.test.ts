/** The sampler as CUDA text on the emulator, under its checker, against the reference sampler in double precision. */
import { expect, it } from "vitest";
import { cudaDialects } from "../../../compiler/codegen/cuda/dialect.ts";
import { renderCudaKernel } from "../../../compiler/codegen/cuda/render.ts";
import { scheduleCudaKernel } from "../../../compiler/schedule/cuda.ts";
import { MAX_LOGPROBS } from "../../../runtime/batch.ts";
import { distribution, draw, logSumExp, penalized, plainRow, type Row } from "../../native/reference-sampler.ts";
import { sampleArrays } from "../../native/sample-kernel.ts";
import { buffer, randomSource } from "../../support/kernel-specs.ts";
import { runSimt, type SimtOptions } from "../../support/simt-kernel.ts";

const random = randomSource(11);
const normals = (n: number, scale = 3) => Float32Array.from({ length: n }, () => scale * random.normal());

function sample(
  vocab: number,
  rows: readonly Row[],
  logits: (row: number) => Float32Array,
  options: SimtOptions = { checked: true },
) {
  const spec = {
    kind: "sample",
    name: `sample_${vocab}`,
    nodes: [],
    logits: buffer("logits", vocab, "f32", "S"),
    vocabSize: vocab,
  } as const;
  const schedule = scheduleCudaKernel(spec, cudaDialects.sm_80, 64);
  const { all, floats, ints, tokens } = sampleArrays(rows, vocab, logits);
  const n = rows.length;
  const bytes = (a: Int32Array | Float32Array) => new Uint8Array(a.buffer);
  const poison = (words: number) => new Uint8Array(4 * words).fill(0xff);
  const outputs = [poison(n), poison(n), poison(n * MAX_LOGPROBS), poison(n * MAX_LOGPROBS)];
  const args = [...[all, floats, ints, tokens].map(bytes), ...outputs, bytes(Int32Array.of(n))];
  const launch = { grid: n + 1, threads: schedule.threads, sharedBytes: schedule.sharedBytes, args };
  const after = runSimt(renderCudaKernel(spec, schedule), [launch], options).args[0]!;
  const at = (i: number) => new Uint8Array(after[i]!).buffer;
  return {
    ids: new Int32Array(at(4)),
    logprobs: new Float32Array(at(5)),
    topIds: new Int32Array(at(6)),
    topLogprobs: new Float32Array(at(7)),
  };
}

const cuts: Partial<Row>[] = [
  {},
  { topK: 1 },
  { topK: 7 },
  { topK: 400 },
  { topP: 0.3 },
  { topP: 0.999 },
  { topP: 1e-6 },
  { minP: 0.05 },
  { topK: 60, topP: 0.95, minP: 0.1 },
  { topP: 0.7, minP: 0.2 },
];

it.each([5, 100, 2500])("takes the largest of %i logits, the first of equals, when greedy", (vocab) => {
  const logits = Array.from({ length: 4 }, (_, i) => (i % 2 ? normals(vocab).map((l) => Math.round(l / 3)) : normals(vocab)));
  const { ids } = sample(
    vocab,
    logits.map(() => plainRow),
    (r) => logits[r]!,
  );
  expect([...ids]).toEqual(logits.map((row) => row.indexOf(Math.max(...row))));
});

it.each(["forward", "random"] as const)("draws the very token the reference draws, cut or not, threads in %s order", (order) => {
  const rows = Array.from({ length: 30 }, (_, i): Row => {
    const seed: Row["seed"] = [(i * 2654435761) | 0, -i];
    return { ...plainRow, temperature: [0.2, 1, 5][i % 3]!, seed, counter: i * 7, ...cuts[i % cuts.length] };
  });
  const logits = rows.map(() => normals(1003));
  const { ids } = sample(1003, rows, (r) => logits[r]!, { order, checked: order === "forward" });
  expect([...ids]).toEqual(rows.map((row, r) => draw(distribution(logits[r]!, row), row)));
});

it.each(["forward", "reverse", "random", "greedy"] as const)(
  "cuts rows of every scale where the reference cuts them, threads in %s order",
  (order) => {
    const vocab = 9001; // more than a thread has on its way at once
    const some = (of: (i: number) => boolean, to: number) => (l: number, i: number) => (of(i) ? to : l);
    const logits = [
      normals(vocab, 1).map((l) => l - 40),
      normals(vocab, 1e-3), // cut next to 0
      normals(vocab, 1e-3).map((l) => l + 20),
      normals(vocab, 300),
      normals(vocab).map((l) => Math.round(l)),
      normals(vocab)
        .map((l) => Math.min(0, Math.round(l)))
        .map(some((i) => i % 3 === 0, -0)),
      normals(vocab)
        .map((l) => Math.min(0, Math.round(l)))
        .map(some((i) => i % 3 > 0, -0)),
      normals(vocab, 0).map(some((i) => i === 77, 1e-40)),
      normals(vocab).map(some((i) => i % 5 > 0, -1e9)),
      normals(vocab).map(some((i) => i % 500 !== 0, Number.NEGATIVE_INFINITY)),
    ];
    // Fractions that f32 holds: of rows so flat, what is a token more or less.
    const kinds: Partial<Row>[] = [{ topK: 50 }, { topK: 4000, topP: 0.875 }, { topP: 0.625 }, { topK: 8999, minP: 0.25 }];
    const rows = logits.flatMap((_, l) =>
      kinds.map((cut, i): Row => ({ ...plainRow, temperature: [1, 0.75, 2][l % 3]!, seed: [l, i], counter: 3 * i, ...cut })),
    );
    const of = (r: number) => logits[Math.floor(r / kinds.length)]!;
    const { ids } = sample(vocab, rows, of, { order, checked: order !== "greedy" });
    expect([...ids]).toEqual(rows.map((row, r) => draw(distribution(of(r), row), row)));
  },
);

it("keeps or drops equal logits together", () => {
  const logits = Float32Array.from([3, 1, 3, 2, 3, 2, 0, 2, 3, -1, 2]);
  const drawn = (cut: Partial<Row>) => {
    const rows = Array.from({ length: 100 }, (_, counter): Row => ({ ...plainRow, temperature: 1, counter, ...cut }));
    return [...new Set(sample(11, rows, () => logits, {}).ids)].sort((a, b) => a - b);
  };
  expect(drawn({ topK: 2 })).toEqual([0, 2, 4, 8]);
  expect(drawn({ topP: 0.8 })).toEqual([0, 2, 3, 4, 5, 7, 8, 10]);
});

it("says −1 for a row with NaN or +∞ or nothing allowed, and serves the rows beside it", () => {
  const rows = [0, 1, 1, 0.5, 1].map((temperature): Row => ({ ...plainRow, temperature, topK: 5, numLogprobs: 3 }));
  const logits = rows.map(() => normals(1003));
  logits[1]![1002] = Number.NaN;
  logits[2]![7] = Number.POSITIVE_INFINITY;
  logits[3]!.fill(Number.NEGATIVE_INFINITY);
  const { ids, logprobs, topIds } = sample(1003, rows, (r) => logits[r]!);
  expect(ids[0]).toBe(logits[0]!.indexOf(Math.max(...logits[0]!)));
  expect([...ids.slice(1, 4)]).toEqual([-1, -1, -1]);
  expect(ids[4]).toBe(draw(distribution(logits[4]!, rows[4]!), rows[4]!));
  expect([...logprobs].map(Number.isNaN)).toEqual([false, true, true, true, false]);
  expect(topIds[MAX_LOGPROBS]).toBe(-1);
});

it("applies bias and penalties, and gives log-probabilities before temperature, as the reference does", () => {
  const rows = Array.from({ length: 12 }, (_, i): Row => {
    const tokens = Array.from({ length: 30 }, (_, k) => [(k * 33 + i) % 1003, k % 4] as const);
    const bias = [[(i * 91) % 1003, 5 - (i % 10)] as const, [(i * 17 + 1) % 1003, Number.NEGATIVE_INFINITY] as const];
    const penalties = {
      repetitionPenalty: [1, 1.3, 0.5][i % 3]!,
      presencePenalty: (i % 5) / 2 - 1,
      frequencyPenalty: (i % 7) / 5 - 0.5,
    };
    return { ...plainRow, ...penalties, tokens, bias, numLogprobs: [21, 6, 1][i % 3]! };
  });
  const logits = rows.map(() => normals(1003, 2));
  const { ids, logprobs, topIds, topLogprobs } = sample(1003, rows, (r) => logits[r]!);
  rows.forEach((row, r) => {
    const l = penalized(logits[r]!, row);
    const lse = logSumExp(l);
    const best = [...l.keys()].sort((a, b) => l[b]! - l[a]! || a - b).slice(0, row.numLogprobs - 1);
    expect(ids[r]).toBe([...l].indexOf(Math.max(...l)));
    expect(logprobs[r]).toBeCloseTo(l[ids[r]!]! - lse, 4);
    const own = [...topIds.slice(r * MAX_LOGPROBS, (r + 1) * MAX_LOGPROBS)].filter((id) => id >= 0);
    expect(own).toEqual(best.slice(0, MAX_LOGPROBS));
    for (const [k, id] of own.entries()) expect(topLogprobs[r * MAX_LOGPROBS + k]).toBeCloseTo(l[id]! - lse, 4);
  });
});
