import { describe, expect, it } from "vitest";
import { addPolynomials, evaluatePolynomial, nodeCosts, polynomialToRpn } from "../../../compiler/ir/costs.ts";
import { Graph } from "../../../compiler/ir/graph.ts";

const binding = { T: 5, B: 2, S: 3, P: 4 };

function values() {
  const g = new Graph({ maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16, blockSize: 16 });
  const x = g.embedding(g.input("token_ids"), g.weight("table", { dtype: "bf16", shape: [32, 12] }));
  const heads = g.reshape(x, [g.T, 3, 4]);
  return { g, x, heads };
}

describe("costs", () => {
  it("of a linear are two operations a multiply-add, and weights read once whatever T is", () => {
    const { g, x } = values();
    const { flops, bytes } = nodeCosts(g.linear(x, g.weight("w", { dtype: "bf16", shape: [7, 12] })), 16);
    expect(evaluatePolynomial(flops, binding)).toBe(2 * 5 * 12 * 7);
    expect(evaluatePolynomial(bytes, binding)).toBe(2 * 7 * 12 + 4 * 5 * 12 + 4 * 5 * 7);
  });

  it("of an embedding count the rows it picks, not the table", () => {
    const { x } = values();
    expect(evaluatePolynomial(nodeCosts(x, 16).bytes, binding)).toBe(5 * 12 * (2 + 4));
  });

  it("of attention cover whole block tables", () => {
    const { g, heads } = values();
    const attention = g.pagedAttention(heads, g.storeKv(g.kvCache(0, "bf16", 3, 4), heads, heads), 1, null);
    const { flops, bytes } = nodeCosts(attention, 16);
    expect(evaluatePolynomial(flops, binding)).toBe(4 * 5 * 12 * (4 * 16));
    expect(evaluatePolynomial(bytes, binding)).toBe(2 * 5 * 12 * 4 + 2 * 4 * 16 * (2 * 12) * 2);
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
