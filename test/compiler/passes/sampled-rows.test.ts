import { describe, expect, it } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import type { Node } from "../../../compiler/ir/ops.ts";
import { printGraph } from "../../../compiler/ir/print.ts";
import { runPasses } from "../../../compiler/passes/pass.ts";
import { sampledRows } from "../../../compiler/passes/sampled-rows.ts";

/** A model whose last value before sampling is what `build` makes of an embedding (T, 4). */
function sampling(build: (m: { g: Graph; x: Node; w: (name: string, ...shape: number[]) => Node }) => Node): string {
  const g = new Graph({ maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16, blockSize: 16 });
  const w = (name: string, ...shape: number[]) => g.weight(name, { dtype: "f32", shape });
  const x = g.tap("hidden.0", g.embedding(g.input("token_ids"), w("table", 8, 4)));
  const sampled = g.gatherRows(build({ g, x, w }), g.input("sample_rows"));
  g.setLogits(g.linear(sampled, w("table", 8, 4)));
  return printGraph(runPasses(g, [sampledRows]).graph);
}

describe("sampled-rows", () => {
  it("computes an MLP behind a tapped value for the sampled rows only", () => {
    const text = sampling(({ g, x, w }) =>
      g.plus(x, g.linear(g.silu(g.linear(g.rmsNorm(x, w("n", 4), 1e-6), w("up", 6, 4))), w("down", 4, 6))),
    );
    expect(text).toMatchInlineSnapshot(`
      "%0 = input token_ids : i32(T)
      %1 = weight table : f32(8, 4)
      %2 = embedding %0 %1 : f32(T, 4)
      %3 = weight n : f32(4)
      %4 = input sample_rows : i32(S)
      %5 = gather_rows %2 %4 : f32(S, 4)
      %6 = rms_norm %5 %3 eps=0.000001 : f32(S, 4)
      %7 = weight up : f32(6, 4)
      %8 = linear %6 %7 : f32(S, 6)
      %9 = silu %8 : f32(S, 6)
      %10 = weight down : f32(4, 6)
      %11 = linear %9 %10 : f32(S, 4)
      %12 = add %5 %11 : f32(S, 4)
      %13 = linear %12 %1 : f32(S, 8)
      tap hidden.0 %2
      logits %13
      "
    `);
  });

  it("takes experts along, chosen and sorted for the sampled rows", () => {
    const text = sampling(({ g, x, w }) => {
      const scores = g.softmax(g.linear(x, w("router", 8, 4)));
      const ids = g.topK(scores, 2);
      const y = g.groupedLinear(g.dispatch(x, ids), w("experts", 8, 4, 4), ids);
      return g.plus(x, g.combine(y, g.gatherCols(scores, ids), ids));
    });
    expect(text).toMatch(/top_k %\d+ k=2 : i32\(S, 2\)/);
    expect(text).toMatch(/grouped_linear .* : f32\(2·S, 4\)/);
    expect(text).not.toMatch(/\(2·T|\(T, 8\)/);
  });

  it("leaves where they are: what is looked at, what others read, and what attention mixes", () => {
    const text = sampling(({ g, x, w }) => {
      const looked = g.tap("looked", g.linear(x, w("a", 4, 4)));
      const heads = (name: string) => g.reshape(g.linear(looked, w(name, 4, 4)), [g.T, 1, 4]);
      const mixed = g.pagedAttention(heads("q"), g.storeKv(g.kvCache(0, "f32", 1, 4), heads("k"), heads("v")), 0.5, null);
      return g.plus(looked, g.reshape(mixed, [g.T, 4]));
    });
    expect(text).toMatch(/paged_attention .* : f32\(T, 1, 4\)/);
    expect(text.match(/= gather_rows .* : f32\(S, /g)).toHaveLength(2);
    expect(text).toMatch(/tap looked %\d+/);
    expect(text.match(/= linear .* : f32\(T, 4\)/g)).toHaveLength(4);
  });

  it.each([1, 2])("leaves rows sorted by experts, %i of each token, that something else reads", (k) => {
    const text = sampling(({ g, x, w }) => {
      const ids = g.topK(g.linear(x, w("router", 8, 4)), k);
      const rows = g.dispatch(x, ids);
      const y = (name: string) =>
        g.combine(
          g.groupedLinear(rows, w(name, 8, 4, 4), ids),
          g.softmax(g.gatherCols(g.linear(x, w("router", 8, 4)), ids)),
          ids,
        );
      g.tap("looked", y("a"));
      return g.plus(x, y("b"));
    });
    expect(text).not.toMatch(/(dispatch|grouped_linear) .*S, /);
    expect(text.match(/= combine .* : f32\(T, 4\)/g)).toHaveLength(2);
  });
});
