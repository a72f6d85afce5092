import { describe, expect, it } from "vitest";
import { addPolynomials, costsOf, type Polynomial, polynomialToRpn } from "../../../compiler/ir/costs.ts";
import { Graph } from "../../../compiler/ir/graph.ts";
import type { Node } from "../../../compiler/ir/ops.ts";

const binding = { T: 5, B: 2, S: 3, P: 4 };

function values() {
  const g = new Graph({ maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16, blockSize: 16 });
  const x = g.embedding(g.input("token_ids"), g.weight("table", { dtype: "bf16", shape: [32, 12] }));
  const heads = g.reshape(x, [g.T, 3, 4]);
  return { g, x, heads };
}

/** FLOPs and bytes of nodes computed together. */
function costs(nodes: readonly Node[], result = nodes.at(-1) as Node) {
  const { flops, bytes } = costsOf(nodes, [result], 16);
  return [evaluate(flops), evaluate(bytes)];
}

const evaluate = (polynomial: Polynomial): number =>
  polynomial.reduce((sum, { coefficient, symbols }) => sum + symbols.reduce((p, s) => p * binding[s], coefficient), 0);

describe("costs", () => {
  it("of a linear are two operations a multiply-add, and weights read once whatever T is", () => {
    const { g, x } = values();
    const linear = g.linear(x, g.weight("w", { dtype: "bf16", shape: [7, 12] }));
    expect(costs([linear])).toEqual([2 * 5 * 12 * 7, 2 * 7 * 12 + 4 * 5 * 12 + 4 * 5 * 7]);
  });

  it("of nodes computed together leave out what stays between them and count a value that two of them read once", () => {
    const { g, x } = values();
    const [gate, up] = [g.silu(x), g.mul(g.silu(x), x)];
    expect(costs([gate])).toEqual([4 * 60, 2 * 4 * 60]);
    expect(costs([gate, up])).toEqual([5 * 60, 2 * 4 * 60]);
  });

  it("of slices count the parts they read", () => {
    const { g, x } = values();
    const [a, b] = [g.slice(x, 1, 0, 4), g.slice(x, 1, 4, 4)];
    expect(costs([a, b, g.plus(a, b)])).toEqual([5 * 4, 4 * 5 * (4 + 4) + 4 * 5 * 4]);
  });

  it("of lookups count the rows they pick, not the table", () => {
    const { g, x } = values();
    expect(costs([x])).toEqual([0, 4 * 5 + 5 * 12 * (2 + 4)]);
    expect(costs([g.gatherRows(x, g.input("sample_rows"))])).toEqual([0, 4 * 3 + 3 * 12 * (4 + 4)]);
  });

  it("of experts read the matrices of those that a step can have, be it of tokens or of sampled rows", () => {
    const { g, x } = values();
    const w = g.weight("w", { dtype: "bf16", shape: [6, 7, 12] });
    for (const [rows, symbol] of [
      [x, "T"],
      [g.gatherRows(x, g.input("sample_rows")), "S"],
    ] as const) {
      const ids = g.topK(g.linear(rows, g.weight("router", { dtype: "f32", shape: [6, 12] })), 2);
      const { flops, bytes } = costsOf([g.groupedLinear(g.dispatch(rows, ids), w, ids)], [], 16);
      expect(flops).toEqual([{ coefficient: 2 * 2 * 7 * 12, symbols: [symbol] }]);
      expect(polynomialToRpn(bytes).join(" ")).toContain(`${2 * 7 * 12} ${symbol} 2 mul 6 min mul`);
    }
  });

  it("of angles by length count the lengths", () => {
    const { g } = values();
    const angles = (long: { invFreq: number[]; beyond: number } | null) => g.ropeAngles(g.input("positions"), [1], 1, long);
    expect(costs([angles(null)])).toEqual([2 * 5 * 2, 4 * 5 + 4 * 5 * 2]);
    expect(costs([angles({ invFreq: [1], beyond: 9 })])).toEqual([2 * 5 * 2, 4 * 5 + 4 * 5 * 2 + 4 * 5 + 4 * 2]);
  });

  it("of attention cover whole block tables, of a store the tokens of the step", () => {
    const { g, heads } = values();
    const store = g.storeKv(g.kvCache(0, "bf16", 3, 4), heads, heads);
    const tables = 4 * 2 * 4;
    const paging = 2 * 4 * 5 + tables;
    expect(costs([store])).toEqual([0, 4 * 60 + 2 * 2 * 60 + paging]);
    const attention = g.pagedAttention(heads, store, 1, null);
    expect(costs([attention])).toEqual([4 * 60 * (4 * 16), 2 * 4 * 60 + 2 * 4 * 16 * (2 * 12) * 2 + paging]);
  });

  it("merge equal products of symbols and drop what cancels", () => {
    const tb = addPolynomials([{ coefficient: 2, symbols: ["T", "B"] }], [{ coefficient: 3, symbols: ["B", "T"] }]);
    expect(tb).toEqual([{ coefficient: 5, symbols: ["B", "T"] }]);
    expect(addPolynomials(tb, [{ coefficient: -5, symbols: ["T", "B"] }])).toEqual([]);
  });

  it("are written in reverse Polish", () => {
    expect(
      polynomialToRpn([
        { coefficient: 3, symbols: ["T", "P"] },
        { coefficient: 7, symbols: [] },
      ]),
    ).toEqual([3, "T", "mul", "P", "mul", 7, "add"]);
    expect(polynomialToRpn([])).toEqual([0]);
  });
});
