import { describe, expect, it } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import { Interpreter } from "../../../compiler/ir/interpret.ts";
import type { Node } from "../../../compiler/ir/ops.ts";
import { roundBf16, roundF16 } from "../../../compiler/ir/rounding.ts";
import { oneSequenceStep, type StepInputs } from "../../../compiler/ir/step.ts";
import { expectClose } from "../../support/closeness.ts";

const limits = { maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16, blockSize: 4 };

/** Row i of the table is (10 i, 10 i + 1, …). */
const weights: Record<string, Float32Array> = {
  table: Float32Array.from({ length: 32 * 4 }, (_, i) => 10 * Math.floor(i / 4) + (i % 4)),
  gain: Float32Array.of(1, 2, 3, 4),
  spread: Float32Array.of(-4, -1.5, 0, 0.25),
  sinks: Float32Array.of(Math.log(3), 0),
  wide: Float32Array.of(1 + 2 ** -9, 0, 0, 0),
};

function run(build: (g: Graph, x: Node) => Node, step: StepInputs): number[] {
  const g = new Graph(limits);
  const x = g.embedding(g.input("token_ids"), g.weight("table", { dtype: "f32", shape: [32, 4] }));
  g.tap("value", build(g, x));
  g.setLogits(g.gatherRows(x, g.input("sample_rows")));
  return Array.from(new Interpreter(g, (name) => weights[name]!, 8).step(step).taps.get("value")!);
}
const two = oneSequenceStep([1, 2], 0, 4, "last");

describe("the interpreter", () => {
  it("slices, joins and views along any axis", () => {
    expect(run((g, x) => g.slice(x, 1, 1, 2), two)).toEqual([11, 12, 21, 22]);
    expect(run((g, x) => g.concat([g.slice(x, 1, 3, 1), x], 1), two)).toEqual([13, 10, 11, 12, 13, 23, 20, 21, 22, 23]);
    expect(run((g, x) => g.slice(g.reshape(x, [g.T, 2, 2]), 2, 1, 1), two)).toEqual([11, 13, 21, 23]);
    expect(run((g, x) => g.slice(g.reshape(x, [g.T, 2, 2]), 1, 1, 1), two)).toEqual([12, 13, 22, 23]);
  });

  it("transposes weights, each matrix of a stack", () => {
    const table = (g: Graph) => g.weight("gain", { dtype: "f32", shape: [4] });
    const square = (g: Graph) => g.transpose(g.reshape(table(g), [2, 2]));
    expect(run((g, x) => g.plus(g.mul(x, g.constant(0)), g.reshape(square(g), [4])), two).slice(0, 4)).toEqual([1, 3, 2, 4]);
    const stack = (g: Graph) =>
      g.transpose(g.reshape(g.slice(g.weight("table", { dtype: "f32", shape: [32, 4] }), 0, 0, 2), [2, 2, 2]));
    expect(run((g, x) => g.linear(g.slice(x, 1, 0, 1), g.reshape(stack(g), [8, 1])), oneSequenceStep([1], 0, 4, "last"))).toEqual(
      [0, 2, 1, 3, 10, 12, 11, 13].map((v) => 10 * v),
    );
  });

  it("takes the smaller, the larger, and functions of one value", () => {
    const at = [-4, -1.5, 0, 0.25];
    const spread = (g: Graph, x: Node) => g.plus(g.mul(x, g.constant(0)), g.weight("spread", { dtype: "f32", shape: [4] }));
    const value = (f: (g: Graph, x: Node) => Node) => run((g, x) => f(g, spread(g, x)), oneSequenceStep([1], 0, 4, "last"));
    const close = (f: (g: Graph, x: Node) => Node, of: (x: number) => number) => expectClose(value(f), at.map(of), 1e-6);
    expect(value((g, x) => g.min(x, g.constant(-1)))).toEqual([-4, -1.5, -1, -1]);
    expect(value((g, x) => g.max(x, g.constant(0)))).toEqual([0, 0, 0, 0.25]);
    close(
      (g, x) => g.sigmoid(x),
      (x) => 0.5 + 0.5 * Math.tanh(x / 2),
    );
    close(
      (g, x) => g.tanh(x),
      (x) => 1 - 2 / (Math.exp(2 * x) + 1),
    );
    close(
      (g, x) => g.silu(x),
      (x) => x * (0.5 + 0.5 * Math.tanh(x / 2)),
    );
    close(
      (g, x) => g.geluTanh(x),
      (x) => x / (1 + Math.exp(-2 * 0.7978845608 * (x + 0.044715 * x * x * x))),
    );
  });

  it("repeats a column over a row", () => {
    expect(run((g, x) => g.mul(g.slice(x, 1, 0, 1), x), two)).toEqual([100, 110, 120, 130, 400, 420, 440, 460]);
    expect(run((g, x) => g.plus(x, g.slice(x, 1, 1, 1)), two)).toEqual([21, 22, 23, 24, 41, 42, 43, 44]);
  });

  it("norms a layer to mean 0 and deviation 1 before gain and bias", () => {
    const normed = run(
      (g, x) =>
        g.layerNorm(x, g.weight("gain", { dtype: "f32", shape: [4] }), g.weight("spread", { dtype: "f32", shape: [4] }), 0),
      two,
    );
    // Every row is its first element plus 0, 1, 2, 3: mean 1.5, variance 1.25.
    const row = [-1.5, -0.5, 0.5, 1.5].map((d, i) => (d / Math.sqrt(1.25)) * (i + 1) + weights.spread![i]!);
    expectClose(normed, [...row, ...row], 1e-6);
  });

  it("gives a sink its share of the softmax and no value", () => {
    // Keys are zero, so every token seen weighs e⁰ = 1, and the sink of each head eˢ.
    const attend = (g: Graph, x: Node) => {
      const v = g.reshape(x, [g.T, 2, 2]);
      const kv = g.storeKv(g.kvCache(0, "f32", 2, 2), g.mul(v, g.constant(0)), v);
      return g.reshape(g.pagedAttention(v, kv, 1, null, g.weight("sinks", { dtype: "f32", shape: [2] })), [g.T, 4]);
    };
    const of = (sum: number, count: number, sink: number) => sum / (count + sink);
    const expected = [
      of(10, 1, 3),
      of(11, 1, 3),
      of(12, 1, 1),
      of(13, 1, 1),
      of(30, 2, 3),
      of(32, 2, 3),
      of(34, 2, 1),
      of(36, 2, 1),
    ];
    expectClose(run(attend, two), expected, 1e-6);
  });

  it("rounds weights and casts to their dtype", () => {
    const bf16 = (g: Graph) => g.weight("wide", { dtype: "bf16", shape: [4] });
    expect(run((g, x) => g.plus(g.mul(x, g.constant(0)), bf16(g)), oneSequenceStep([1], 0, 4, "last"))[0]).toBe(1);
    expect(run((g, x) => g.cast(g.mul(x, g.constant(0.1)), "bf16"), two).map(roundBf16)).toEqual(
      [1, 1.1, 1.2, 1.3, 2, 2.1, 2.2, 2.3].map(roundBf16),
    );
  });

  it("rotates pairs half a head apart, or side by side", () => {
    const quarter = [Math.PI / 2]; // position 1 turns the first pair by 90°
    const rotate = (style: "half" | "interleaved") =>
      run((g, x) => g.rope(g.reshape(x, [g.T, 1, 4]), g.ropeAngles(g.input("positions"), [...quarter, 0], 1), style), two)
        .slice(4)
        .map(Math.round);
    expect(rotate("half")).toEqual([-22, 21, 20, 23]);
    expect(rotate("interleaved")).toEqual([-21, 20, 22, 23]);
  });

  it("leaves what lies beyond the rotated part of a head alone", () => {
    const angles = (g: Graph) => g.ropeAngles(g.input("positions"), [Math.PI], 1);
    const y = run((g, x) => g.rope(g.reshape(x, [g.T, 1, 4]), angles(g), "half"), two);
    expect(y.slice(4).map(Math.round)).toEqual([-20, -21, 22, 23]);
  });

  it("turns by the frequencies of a sequence's whole length, however little of it a step computes", () => {
    const turn = (length: number) =>
      run(
        (g) => g.ropeAngles(g.input("positions"), [Math.PI], 3, { invFreq: [Math.PI / 2], beyond: 5 }),
        oneSequenceStep([7, 8], 1, 4, "last", length),
      ).map((x) => Math.round(x) + 0);
    expect(turn(5)).toEqual([-3, 0, 3, 0]); // cos and sin of π, of 2 π
    expect(turn(6)).toEqual([0, 3, -3, 0]);
  });

  it("lets each sequence see its own past only, through its own blocks, no further than its window", () => {
    // Two sequences interleaved in memory: blocks 3, 0 and block 5. Keys are zero, so attention averages what it sees.
    const attend = (window: number | null) => {
      const g = new Graph(limits);
      const x = g.embedding(g.input("token_ids"), g.weight("table", { dtype: "f32", shape: [32, 4] }));
      const v = g.reshape(x, [g.T, 1, 4]);
      const kv = g.storeKv(g.kvCache(0, "f32", 1, 4), g.mul(v, g.constant(0)), v);
      g.setLogits(g.gatherRows(g.reshape(g.pagedAttention(v, kv, 1, window), [g.T, 4]), g.input("sample_rows")));
      const interpreter = new Interpreter(g, (name) => weights[name]!, 8);
      const step = (ids: number[], positions: number[], seqs: number[], rows: number[]) =>
        interpreter.step({
          binding: { T: ids.length, B: 2, S: rows.length, P: 2 },
          arrays: {
            token_ids: Int32Array.from(ids),
            positions: Int32Array.from(positions),
            seq_ids: Int32Array.from(seqs),
            seq_lens: Int32Array.of(5, 2),
            block_tables: Int32Array.of(3, 0, 5, 5),
            sample_rows: Int32Array.from(rows),
          },
        }).logits;
      step([1, 2, 3, 9], [0, 1, 2, 0], [0, 0, 0, 1], [3]);
      const logits = step([4, 5, 11], [3, 4, 1], [0, 0, 1], [1, 2]);
      return [logits[0], logits[4]]; // element 0 of each sampled row: 10 × the mean id seen
    };
    expect(attend(null)).toEqual([30, 100]);
    expect(attend(2)).toEqual([45, 100]);
    expect(attend(1)).toEqual([50, 110]);
  });

  it("says which id, row, input or weight does not fit", () => {
    const ids = oneSequenceStep([32], 0, 4, "last");
    expect(() => run((_, x) => x, ids)).toThrow(/token_ids\[0\] is 32; expected 0 … 31/);
    const short = { ...two, arrays: { ...two.arrays, positions: Int32Array.of(0) } };
    expect(() => run((g) => g.ropeAngles(g.input("positions"), [1], 1), short)).toThrow(
      /input positions holds 1 elements; i32\(T\) has 2/,
    );
    const gain = (g: Graph, x: Node) => g.plus(x, g.slice(g.weight("table", { dtype: "f32", shape: [5] }), 0, 0, 4));
    expect(() => run(gain, two)).toThrow(/weight table holds 128 elements; f32\(5\) has 5/);
  });
});

describe("rounding", () => {
  it("keeps every bf16 and f16 value, and takes ties to even", () => {
    expect(roundBf16(1 + 2 ** -8)).toBe(1);
    expect(roundBf16(1 + 3 * 2 ** -8)).toBe(1 + 2 ** -6);
    expect(roundF16(1 + 2 ** -11)).toBe(1);
    expect(roundF16(1 + 3 * 2 ** -11)).toBe(1 + 2 ** -9);
    expect(roundF16(2 ** -25)).toBe(0);
    expect(roundF16(3 * 2 ** -25)).toBe(2 ** -23);
    expect([-(2 ** -25), -(2 ** -30), -0].map(roundF16)).toEqual([-0, -0, -0]);
    expect([-(2 ** -149), -0].map(roundBf16)).toEqual([-0, -0]);
    expect([65504, 65519, 65520].map(roundF16)).toEqual([65504, 65504, Number.POSITIVE_INFINITY]);
    expect([roundBf16(Number.NaN), roundBf16(-Infinity), roundF16(Number.NaN)]).toEqual([Number.NaN, -Infinity, Number.NaN]);
    for (let i = -300; i < 300; i++)
      expect(roundBf16(i * 2 ** (i % 60) * 0.25)).toBe(roundBf16(roundBf16(i * 2 ** (i % 60) * 0.25)));
  });
});
