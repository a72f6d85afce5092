import { describe, expect, it } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import { Interpreter } from "../../../compiler/ir/interpret.ts";
import type { Node } from "../../../compiler/ir/ops.ts";
import { oneSequenceStep } from "../../../compiler/ir/step.ts";
import { printType } from "../../../compiler/ir/tensor-type.ts";
import { expectClose } from "../../support/closeness.ts";
import { seededRandom } from "../../support/seeded-random.ts";

const limits = { maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16, blockSize: 16 };
const T = 5;
const E = 6;
const K = 4;
const N = 3;

const random = seededRandom(7);
const normals = (size: number) => Float32Array.from({ length: size }, () => random.normal());
const values: Record<string, Float32Array> = {
  x: normals(T * K),
  scores: normals(T * E),
  matrices: normals(E * N * K),
  vectors: normals(E * N),
};
const at = (name: string, ...index: [row: number, width: number, column: number]) =>
  values[name]![index[0] * index[1] + index[2]] as number;

/** A graph whose tokens pick their own rows of x (T, K) and scores (T, E). */
function graph() {
  const g = new Graph(limits);
  const rows = (name: string, width: number) =>
    g.embedding(g.input("token_ids"), g.weight(name, { dtype: "f32", shape: [T, width] }));
  return {
    g,
    x: rows("x", K),
    scores: rows("scores", E),
    matrices: g.weight("matrices", { dtype: "f32", shape: [E, N, K] }),
    vectors: g.weight("vectors", { dtype: "f32", shape: [E, N] }),
  };
}
type Parts = ReturnType<typeof graph>;

function run(build: (parts: Parts) => Node): Float32Array | Int32Array {
  const parts = graph();
  const { g, x } = parts;
  g.tap("value", build(parts));
  g.setLogits(g.gatherRows(x, g.input("sample_rows")));
  const step = oneSequenceStep([0, 1, 2, 3, 4], 0, 16, "last");
  return new Interpreter(g, (name) => values[name]!, 1).step(step).taps.get("value")!;
}

/** The k experts of each token with the highest scores, highest first. */
const chosen = (k: number, score = (t: number, e: number) => at("scores", t, E, e)): number[][] =>
  Array.from({ length: T }, (_, t) =>
    Array.from({ length: E }, (_, e) => e)
      .sort((a, b) => score(t, b) - score(t, a))
      .slice(0, k),
  );

/** Expert e's matrix times token t. */
const product = (t: number, e: number): number[] =>
  Array.from({ length: N }, (_, n) =>
    Array.from({ length: K }, (_, i) => at("x", t, K, i) * values.matrices![(e * N + n) * K + i]!).reduce((a, b) => a + b),
  );

/** Pairs of expert and token, as sorted rows are. */
const sorted = (ids: readonly number[][]): [e: number, t: number][] =>
  ids.flatMap((experts, t) => experts.map((e): [number, number] => [e, t])).sort((a, b) => a[0] - b[0] || a[1] - b[1]);

describe("ops of experts", () => {
  it("choose the k best of each row, of equal ones the lower", () => {
    expect([...run(({ g, scores }) => g.topK(scores, 3))]).toEqual(chosen(3).flat());
    const flat = run(({ g, scores }) => g.topK(g.mul(scores, g.constant(0)), 3));
    expect([...flat]).toEqual(Array.from({ length: T }, () => [0, 1, 2]).flat());
  });

  it("keep only the groups whose best experts together score highest", () => {
    const limited = run(({ g, scores }) => g.groupLimit(scores, 3, 2, 2));
    for (let t = 0; t < T; t++) {
      const worth = [0, 1, 2].map((group) => at("scores", t, E, 2 * group) + at("scores", t, E, 2 * group + 1));
      const worst = worth.indexOf(Math.min(...worth));
      for (let e = 0; e < E; e++) {
        const expected = Math.floor(e / 2) === worst ? Number.NEGATIVE_INFINITY : at("scores", t, E, e);
        expect(limited[t * E + e]).toBe(expected);
      }
    }
  });

  it("judge a group by its best alone where `best` says so", () => {
    const limited = run(({ g, scores }) => g.groupLimit(scores, 2, 1, 1));
    const inBest = chosen(1).map(([e]) => Math.floor((e as number) / 3));
    expect([...limited].map(Number.isFinite)).toEqual(inBest.flatMap((g) => [0, 0, 0, 1, 1, 1].map((i) => i === g)));
  });

  it("weigh by a softmax, by what was gathered, or so that a row sums to 1", () => {
    const softmax = run(({ g, scores }) => g.softmax(scores));
    const exp = (t: number, e: number) => Math.exp(at("scores", t, E, e));
    const sums = Array.from({ length: T }, (_, t) => [0, 1, 2, 3, 4, 5].reduce((sum, e) => sum + exp(t, e), 0));
    expectClose(
      softmax,
      Array.from({ length: T * E }, (_, i) => exp(Math.floor(i / E), i % E) / sums[Math.floor(i / E)]!),
      1e-6,
    );
    const gathered = run(({ g, scores }) => g.gatherCols(scores, g.topK(scores, 2)));
    expect([...gathered]).toEqual(chosen(2).flatMap((ids, t) => ids.map((e) => at("scores", t, E, e))));
    const half = run(({ g, scores }) => g.renormalize(g.sigmoid(g.mul(scores, g.constant(0))), 3));
    expectClose(half, new Array(T * E).fill(0.5 / (0.5 * E + 3)), 1e-6);
  });

  it("sort rows by expert and then by token, each once for each of its experts", () => {
    const rows = run(({ g, x, scores }) => g.dispatch(x, g.topK(scores, 2)));
    const expected = sorted(chosen(2)).flatMap(([, t]) => [0, 1, 2, 3].map((i) => at("x", t, K, i)));
    expect([...rows]).toEqual(expected);
  });

  it("multiply each sorted row with its own expert's matrix, and find its vector", () => {
    const products = run(({ g, x, scores, matrices }) => {
      const ids = g.topK(scores, 2);
      return g.groupedLinear(g.dispatch(x, ids), matrices, ids);
    });
    expectClose(
      products,
      sorted(chosen(2)).flatMap(([e, t]) => product(t, e)),
      1e-6,
    );
    const vectors = run(({ g, scores, vectors: v }) => g.expertRows(v, g.topK(scores, 2)));
    expect([...vectors]).toEqual(sorted(chosen(2)).flatMap(([e]) => [0, 1, 2].map((n) => at("vectors", e, N, n))));
  });

  it("bring rows back to their tokens, weighted and summed, whatever the number of experts", () => {
    for (const k of [1, 2, E]) {
      const mixed = run(({ g, x, scores, matrices }) => {
        const ids = g.topK(scores, k);
        return g.combine(g.groupedLinear(g.dispatch(x, ids), matrices, ids), g.gatherCols(scores, ids), ids);
      });
      const expected = chosen(k).flatMap((ids, t) =>
        [0, 1, 2].map((n) => ids.reduce((sum, e) => sum + at("scores", t, E, e) * product(t, e)[n]!, 0)),
      );
      expectClose(mixed, expected, 1e-6, `k = ${k}`);
    }
  });

  it.each<[string, (p: Parts) => Node, string]>([
    ["choice", ({ g, scores }) => g.topK(scores, 2), "i32(T, 2)"],
    ["sorted rows", ({ g, x, scores }) => g.dispatch(x, g.topK(scores, 2)), "f32(2·T, 4)"],
    [
      "grouped product",
      ({ g, x, scores, matrices }) => g.groupedLinear(g.dispatch(x, g.topK(scores, 2)), matrices, g.topK(scores, 2)),
      "f32(2·T, 3)",
    ],
    ["vectors of experts", ({ g, scores, vectors }) => g.expertRows(vectors, g.topK(scores, 2)), "f32(2·T, 3)"],
    [
      "combination",
      ({ g, x, scores }) => {
        const ids = g.topK(scores, 2);
        return g.combine(g.dispatch(x, ids), g.gatherCols(scores, ids), ids);
      },
      "f32(T, 4)",
    ],
  ])("have a type: %s", (_, build, type) => {
    expect(printType(build(graph()).type)).toBe(type);
  });

  it.each<[string, (p: Parts) => Node, RegExp]>([
    ["more than there are", ({ g, scores }) => g.topK(scores, 7), /k is 7; expected 1 … 6, the columns of x/],
    ["none", ({ g, scores }) => g.topK(scores, 0), /k is 0; expected 1 … 6/],
    ["unequal groups", ({ g, scores }) => g.groupLimit(scores, 4, 1, 1), /6 experts do not form 4 equal groups/],
    ["judges that are too many", ({ g, scores }) => g.groupLimit(scores, 3, 1, 3), /of which the 3 best experts judge/],
    ["more groups than there are", ({ g, scores }) => g.groupLimit(scores, 2, 3, 1), /3 groups remain/],
    [
      "ids that no top_k made",
      ({ g, x }) => g.dispatch(x, g.input("token_ids")),
      /ids are a input; expected the top_k that chose the experts/,
    ],
    [
      "rows that were not dispatched",
      ({ g, x, scores, matrices }) => g.groupedLinear(x, matrices, g.topK(scores, 2)),
      /x is \(T, 4\) but ids are \(T, 2\); expected the 2·T rows of a dispatch/,
    ],
    [
      "rows dispatched for another number of experts",
      ({ g, x, scores, matrices }) => g.groupedLinear(g.dispatch(x, g.topK(scores, 3)), matrices, g.topK(scores, 2)),
      /x is \(3·T, 4\)/,
    ],
    [
      "matrices of another number of experts",
      ({ g, x, matrices }) => {
        const ids = g.topK(x, 2);
        return g.groupedLinear(g.dispatch(x, ids), matrices, ids);
      },
      /ids choose among 4 experts, but weight has 6/,
    ],
    [
      "matrices of another width",
      ({ g, scores, matrices }) => {
        const ids = g.topK(scores, 2);
        return g.groupedLinear(g.dispatch(scores, ids), matrices, ids);
      },
      /x is \(2·T, 6\) but weight is \(6, 3, 4\); last extents must match/,
    ],
    ["a flat weight", ({ g, x, scores, vectors }) => grouped(g, x, scores, vectors), /weight is \(6, 3\); expected \(E, N, K\)/],
    [
      "weights of another number of experts",
      ({ g, x, scores }) => {
        const ids = g.topK(scores, 2);
        return g.combine(g.dispatch(x, ids), scores, ids);
      },
      /weights are \(T, 6\) but ids are \(T, 2\); expected one weight an expert/,
    ],
    [
      "rows sorted by other experts",
      ({ g, x, scores, matrices }) => {
        const ids = g.topK(scores, 2);
        return g.groupedLinear(g.silu(g.dispatch(x, g.topK(g.sigmoid(scores), 2))), matrices, ids);
      },
      /x has rows in another order than these ids sort them/,
    ],
    [
      "a vector of other experts added to sorted rows",
      ({ g, x, scores, matrices, vectors }) => {
        const ids = g.topK(scores, 2);
        const y = g.groupedLinear(g.dispatch(x, ids), matrices, ids);
        return g.combine(g.plus(y, g.expertRows(vectors, g.topK(g.sigmoid(scores), 2))), g.gatherCols(scores, ids), ids);
      },
      /x has rows in another order/,
    ],
    [
      "rows of tokens where each has one expert",
      ({ g, x, scores, matrices }) => g.groupedLinear(x, matrices, g.topK(scores, 1)),
      /x has rows in another order/,
    ],
    [
      "rows of another step",
      ({ g, x, scores }) => g.dispatch(g.gatherRows(x, g.input("sample_rows")), g.topK(scores, 2)),
      /x is \(S, 4\) but ids are \(T, 2\); expected one row of ids a token/,
    ],
  ])("refuse %s", (_, build, message) => {
    expect(() => build(graph())).toThrow(message);
  });
});

function grouped(g: Graph, x: Node, scores: Node, w: Node): Node {
  const ids = g.topK(scores, 2);
  return g.groupedLinear(g.dispatch(x, ids), w, ids);
}
