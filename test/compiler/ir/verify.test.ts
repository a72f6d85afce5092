import { describe, expect, it } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import type { Node } from "../../../compiler/ir/ops.ts";
import { verifyGraph } from "../../../compiler/ir/verify.ts";

/** A graph whose only layer is what `build` makes of (T, 3, 4) heads. */
function model(build: (g: Graph, heads: Node) => Node): Graph {
  const g = new Graph({ maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16, blockSize: 16 });
  const x = g.embedding(g.input("token_ids"), g.weight("table", { dtype: "f32", shape: [32, 12] }));
  const y = g.scope("layers.0", () => build(g, g.reshape(x, [g.T, 3, 4])));
  g.setLogits(g.gatherRows(g.reshape(y, [g.T, 12]), g.input("sample_rows")));
  return g;
}

describe("verify", () => {
  it("accepts a cache that is stored, then read", () => {
    const good = model((g, x) => g.pagedAttention(x, g.storeKv(g.kvCache(0, "f32", 3, 4), x, x), 1, null));
    expect(() => verifyGraph(good)).not.toThrow();
  });

  it.each<[string, Graph, RegExp]>([
    [
      "a weight used under two types",
      model((g, x) =>
        g.mul(g.plus(x, g.weight("b", { dtype: "f32", shape: [4] })), g.weight("b", { dtype: "bf16", shape: [4] })),
      ),
      /weight at layers\.0 \(.*\): b is used as bf16\(4\) and as f32\(4\)/,
    ],
    [
      "attention over a cache this step does not store into",
      model((g, x) => g.pagedAttention(x, g.kvCache(0, "f32", 3, 4), 1, null)),
      /paged_attention at layers\.0 .*before this step's keys and values are stored/,
    ],
    [
      "two writes to one cache that do not follow one another",
      model((g, x) => {
        const cache = g.kvCache(0, "f32", 3, 4);
        const y = g.pagedAttention(x, g.storeKv(cache, x, x), 1, null);
        return g.pagedAttention(x, g.storeKv(cache, y, y), 1, null);
      }),
      /store_kv at layers\.0 .*the same cache is also written at layers\.0/,
    ],
  ])("refuses %s", (_, graph, message) => {
    expect(() => verifyGraph(graph)).toThrow(message);
  });

  it("refuses logits that are not rows of the sampled tokens", () => {
    const g = new Graph({ maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16, blockSize: 16 });
    g.setLogits(g.embedding(g.input("token_ids"), g.weight("table", { dtype: "f32", shape: [32, 12] })));
    expect(() => verifyGraph(g)).toThrow(/the logits are f32\(T, 12\); expected f32\(S, vocab\)/);
  });
});
