import { describe, expect, it } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import type { NodeOf } from "../../../compiler/ir/ops.ts";
import { a, any, matches, op } from "../../../compiler/rewrite/pattern.ts";
import { rewriteGraph, rule } from "../../../compiler/rewrite/rewrite.ts";

function setUp() {
  const g = new Graph({ maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16, blockSize: 16 });
  const x = g.embedding(g.input("token_ids"), g.weight("table", { dtype: "f32", shape: [8, 4] }));
  return { g, x };
}

describe("a pattern", () => {
  it("captures what it names, with types", () => {
    const { g, x } = setUp();
    const pattern = op("mul", [op("silu", [any("gate")]), any("up")], "product");
    const up = g.mul(x, x);
    const [captures] = matches(pattern, g.mul(g.silu(x), up));
    expect(captures).toMatchObject({ gate: x, up });
    rule("typed", pattern, ({ gate, up, product }) => {
      const typed: NodeOf<"mul"> = product;
      return gate === up ? typed : undefined;
    });
    // @ts-expect-error a capture the pattern does not name
    rule("misspelt", pattern, ({ gat }) => gat);
    // @ts-expect-error a linear has two operands
    op("linear", [any("x")]);
    // @ts-expect-error no such op
    a("linera", "x");
  });

  it("matches a commutative op in either order, and a name captured twice only the same node", () => {
    const { g, x } = setUp();
    const pattern = op("mul", [op("silu", [any("x")]), any("x")]);
    expect(matches(pattern, g.mul(x, g.silu(x)))).toHaveLength(1);
    expect(matches(pattern, g.mul(g.silu(x), g.silu(x)))).toHaveLength(0);
  });
});

describe("the driver", () => {
  it("runs to a fixed point and records every firing", () => {
    const { g, x } = setUp();
    g.setLogits(g.gatherRows(g.silu(g.silu(g.silu(x))), g.input("sample_rows")));
    const drop = rule("silu of silu is silu", op("silu", [op("silu", [any("x")])]), ({ x: inner }, into) => into.silu(inner));
    const { graph, firings } = rewriteGraph(g, [drop], "test");
    expect(graph.liveNodes().map((n) => n.op)).toEqual(["input", "weight", "embedding", "silu", "input", "gather_rows"]);
    expect(firings).toHaveLength(2);
    expect(firings[0]).toEqual({
      pass: "test",
      rule: "silu of silu is silu",
      before: "silu(silu(embedding(input token_ids, weight table)))",
      after: "silu(embedding(input token_ids, weight table))",
      origins: [expect.objectContaining({ source: expect.stringMatching(/rewrite\.test\.ts:\d+$/) })],
      ops: new Set(["silu", "embedding", "input", "weight"]),
    });
  });

  it("names a rule that never stops", () => {
    const { g, x } = setUp();
    g.setLogits(g.gatherRows(g.mul(x, g.constant(2)), g.input("sample_rows")));
    const grow = rule("two and two for ever", op("mul", [any("x"), a("constant", "c")]), ({ x: inner, c }, into) =>
      into.mul(into.silu(inner), into.constant(c.attrs.value + 1)),
    );
    expect(() => rewriteGraph(g, [grow], "test")).toThrow(
      /^internal: test: rule "two and two for ever" still fires after \d+ firings$/,
    );
  });

  it("names a rule that changes a shape", () => {
    const { g, x } = setUp();
    g.setLogits(g.gatherRows(g.silu(x), g.input("sample_rows")));
    const broken = rule("half of it", op("silu", [any("x")]), ({ x: inner }, into) => into.slice(inner, 1, 0, 2));
    expect(() => rewriteGraph(g, [broken], "test")).toThrow(/rule "half of it" turned f32\(T, 4\) into f32\(T, 2\)/);
  });

  it("declines when a rule returns undefined or the node itself", () => {
    const { g, x } = setUp();
    g.setLogits(g.gatherRows(g.silu(x), g.input("sample_rows")));
    const rules = [
      rule("never", op("silu", [any("x")]), () => undefined),
      rule("itself", op("silu", [any("x")], "node"), ({ node }) => node),
    ];
    expect(rewriteGraph(g, rules, "test").firings).toEqual([]);
  });
});
