import { describe, expect, it } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import type { Node } from "../../../compiler/ir/ops.ts";
import { type DType, printType } from "../../../compiler/ir/tensor-type.ts";

const limits = { maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16, blockSize: 16 };

/** A graph with named values of handy types. */
function values() {
  const g = new Graph(limits);
  const w = (dtype: DType, ...shape: number[]) => g.weight(`${dtype}${shape}`, { dtype, shape });
  const x = g.embedding(g.input("token_ids"), w("bf16", 32, 12)); // (T, 12)
  const heads = g.reshape(x, [g.T, 3, 4]);
  const angles = g.ropeAngles(g.input("positions"), [1, 0.1], 1); // (T, 4)
  return { g, w, x, heads, angles, kv: g.kvCache(0, "bf16", 3, 4) };
}
type Values = ReturnType<typeof values>;

describe("result types", () => {
  it.each<[string, (v: Values) => Node, string]>([
    ["an input", ({ g }) => g.input("block_tables"), "i32(B, P)"],
    ["a constant", ({ g }) => g.constant(1), "f32()"],
    ["an embedding, widened", ({ x }) => x, "f32(T, 12)"],
    ["a cast", ({ g, x }) => g.cast(x, "f16"), "f16(T, 12)"],
    ["a sum with a vector", ({ g, x, w }) => g.plus(w("f32", 12), x), "f32(T, 12)"],
    ["a product with a constant", ({ g, x }) => g.mul(g.cast(x, "bf16"), g.constant(2)), "f32(T, 12)"],
    ["a slice", ({ g, x }) => g.slice(x, 1, 2, 5), "f32(T, 5)"],
    ["a concat of weights", ({ g, w }) => g.concat([w("bf16", 2, 8), w("bf16", 3, 8)], 0), "bf16(5, 8)"],
    ["a linear", ({ g, x, w }) => g.linear(x, w("bf16", 7, 12)), "f32(T, 7)"],
    ["a norm of heads", ({ g, heads, w }) => g.rmsNorm(heads, w("f32", 4), 1e-6), "f32(T, 3, 4)"],
    ["a rotation", ({ g, heads, angles }) => g.rope(heads, angles, "half"), "f32(T, 3, 4)"],
    ["angles by length", ({ g }) => g.ropeAngles(g.input("positions"), [1], 1, { invFreq: [0.1], beyond: 9 }), "f32(T, 2)"],
    ["a stored cache", ({ g, heads, kv }) => g.storeKv(kv, heads, heads), "bf16(2, 3, 4)"],
    [
      "an attention",
      ({ g, heads, kv }) => g.pagedAttention(g.concat([heads, heads], 1), g.storeKv(kv, heads, heads), 1, 8),
      "f32(T, 6, 4)",
    ],
    [
      "an attention with sinks",
      ({ g, w, heads, kv }) => g.pagedAttention(heads, g.storeKv(kv, heads, heads), 1, null, w("f32", 3)),
      "f32(T, 3, 4)",
    ],
    ["a layer norm", ({ g, x, w }) => g.layerNorm(x, w("f32", 12), w("f32", 12), 1e-5), "f32(T, 12)"],
    ["a softmax", ({ g, x }) => g.softmax(x), "f32(T, 12)"],
    ["a product with a column", ({ g, x }) => g.mul(g.slice(x, 1, 0, 1), x), "f32(T, 12)"],
    ["a transposed stack of weights", ({ g, w }) => g.transpose(w("bf16", 5, 2, 3)), "bf16(5, 3, 2)"],
    ["picked rows", ({ g, x }) => g.gatherRows(x, g.input("sample_rows")), "f32(S, 12)"],
  ])("of %s", (_, build, type) => {
    expect(printType(build(values()).type)).toBe(type);
  });
});

describe("a type rule refuses", () => {
  it.each<[string, (v: Values) => Node, RegExp]>([
    [
      "a weight of symbolic shape",
      ({ g }) => g.weight("w", { dtype: "f32", shape: [g.T] }),
      /weight w is \(T\); a checkpoint tensor has whole/,
    ],
    ["a cast of ids", ({ g }) => g.cast(g.input("token_ids"), "f32"), /x is i32\(T\), cast to f32; both must be float/],
    [
      "shapes that do not broadcast",
      ({ g, x, w }) => g.plus(x, w("f32", 11)),
      /a is \(T, 12\) but b is \(11\); the shorter shape must be the end/,
    ],
    ["elements outside a slice's axis", ({ g, x }) => g.slice(x, 1, 8, 5), /elements 8 … 12 of axis 1 do not lie in x \(T, 12\)/],
    ["a slice of tokens", ({ g, x }) => g.slice(x, 0, 0, 1), /axis 0 of x \(T, 12\) must be an existing axis of fixed extent/],
    [
      "a concat of different dtypes",
      ({ g, w }) => g.concat([w("bf16", 2, 8), w("f32", 2, 8)], 0),
      /f32\(2, 8\) and bf16\(2, 8\) must agree/,
    ],
    [
      "a reshape to what is left",
      ({ g, x }) => g.reshape(x, [g.T, -1]),
      /is \(T, -1\); every extent is written out, and none is -1/,
    ],
    ["a reshape to another size", ({ g, x }) => g.reshape(x, [g.T, 5]), /x is \(T, 12\) but the shape asked for is \(T, 5\)/],
    ["an embedding of floats", ({ g, x, w }) => g.embedding(x, w("f32", 2, 2)), /ids are f32\(T, 12\); expected i32\(T\)/],
    [
      "a linear of another width",
      ({ g, x, w }) => g.linear(x, w("f32", 7, 11)),
      /x is \(T, 12\) but weight is \(7, 11\); last extents must match/,
    ],
    ["a gain of another width", ({ g, x, w }) => g.rmsNorm(x, w("f32", 4), 1), /x is \(T, 12\) but gain is \(4\)/],
    [
      "angles wider than a head",
      ({ g, angles, x }) => g.rope(g.reshape(x, [g.T, 4, 3]), angles, "half"),
      /angles rotate 4 elements but a head of x has 3/,
    ],
    [
      "long frequencies that are fewer",
      ({ g }) => g.ropeAngles(g.input("positions"), [1, 0.1], 1, { invFreq: [1], beyond: 9 }),
      /long sequences have 1 frequencies, short ones 2; expected as many/,
    ],
    [
      "long frequencies from the first token on",
      ({ g }) => g.ropeAngles(g.input("positions"), [1], 1, { invFreq: [1], beyond: 0 }),
      /long frequencies hold beyond 0 tokens; expected a whole number of at least 1/,
    ],
    [
      "long frequencies without lengths",
      ({ g }) =>
        g.add("rope_angles", [g.input("positions")], { invFreq: [1], attentionFactor: 1, long: { invFreq: [1], beyond: 9 } }),
      /0 operands follow the positions; expected seq_ids and seq_lens with long frequencies/,
    ],
    [
      "lengths a token",
      ({ g }) => {
        const paging = [g.input("positions"), g.input("seq_lens"), g.input("seq_lens")] as const;
        return g.add("rope_angles", paging, { invFreq: [1], attentionFactor: 1, long: { invFreq: [1], beyond: 9 } });
      },
      /seq_ids are i32\(B\) but positions are i32\(T\); expected one a token/,
    ],
    [
      "keys of another head size",
      ({ g, kv, x }) => {
        const k = g.reshape(x, [g.T, 6, 2]);
        return g.storeKv(kv, k, k);
      },
      /k is \(T, 6, 2\) but the cache holds 3 heads of 4/,
    ],
    [
      "query heads that do not divide",
      ({ g, heads, kv }) => g.pagedAttention(g.slice(heads, 1, 0, 2), g.storeKv(kv, heads, heads), 1, null),
      /q is \(T, 2, 4\) but the cache holds 3 heads of 4/,
    ],
    [
      "a bias of another width",
      ({ g, x, w }) => g.layerNorm(x, w("f32", 12), w("f32", 4), 1),
      /x is \(T, 12\) but bias is \(4\)/,
    ],
    ["a transpose of tokens", ({ g, x }) => g.transpose(x), /x is \(T, 12\); only a weight of two axes or more is transposed/],
    [
      "a column of other rows",
      ({ g, x }) => g.mul(x, g.slice(g.gatherRows(x, g.input("sample_rows")), 1, 0, 1)),
      /a is \(T, 12\) but b is \(S, 1\); .*or have 1 as its last extent/,
    ],
    [
      "sinks of another number of heads",
      ({ g, w, heads, kv }) => g.pagedAttention(heads, g.storeKv(kv, heads, heads), 1, null, w("f32", 2)),
      /sinks are \(2\); expected one score a head, \(3\)/,
    ],
    [
      "an empty window",
      ({ g, heads, kv }) => g.pagedAttention(heads, g.storeKv(kv, heads, heads), 1, 0),
      /window is 0; expected a positive number/,
    ],
    [
      "a cache that is none",
      ({ g, heads }) => g.storeKv(heads, heads, heads),
      /the cache is a reshape; expected kv_cache or store_kv/,
    ],
  ])("%s", (_, build, message) => {
    expect(() => build(values())).toThrow(message);
  });
});
