import { describe, expect, it } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import type { Node } from "../../../compiler/ir/ops.ts";
import { printGraph } from "../../../compiler/ir/print.ts";
import { fuseProjections } from "../../../compiler/passes/fuse-projections.ts";
import { runPasses } from "../../../compiler/passes/pass.ts";

/** The graph after fusing, from its first linear's weights on; `build` taps what must stay alive. */
function fused(build: (g: Graph, x: Node, weight: (name: string, ...shape: number[]) => Node) => void): string {
  const g = new Graph({ maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16, blockSize: 16 });
  const table = g.weight("table", { dtype: "f32", shape: [8, 4] });
  const x = g.embedding(g.input("token_ids"), table);
  build(g, x, (name, ...shape) => g.weight(name, { dtype: "f32", shape }));
  g.setLogits(g.gatherRows(x, g.input("sample_rows")));
  const lines = printGraph(runPasses(g, [fuseProjections]).graph).split("\n");
  return lines.filter((line) => !/table|token_ids|sample_rows|gather_rows|logits/.test(line)).join("\n");
}

describe("fuse-projections", () => {
  it("joins linears of one input, in the order they were built", () => {
    const text = fused((g, x, w) => {
      g.tap("a", g.linear(x, w("wa", 6, 4)));
      g.tap("b", g.linear(x, w("wb", 2, 4)));
    });
    expect(text).toMatchInlineSnapshot(`
      "%2 = embedding %1 %0 : f32(T, 4)
      %3 = weight wa : f32(6, 4)
      %4 = weight wb : f32(2, 4)
      %5 = concat %3 %4 axis=0 : f32(8, 4)
      %6 = linear %2 %5 : f32(T, 8)
      %7 = slice %6 axis=1 0…5 : f32(T, 6)
      %8 = slice %6 axis=1 6…7 : f32(T, 2)
      tap a %7
      tap b %8
      "
    `);
  });

  it("joins biases with them when each has one", () => {
    const text = fused((g, x, w) => {
      g.tap("a", g.plus(g.linear(x, w("wa", 6, 4)), w("ba", 6)));
      g.tap("b", g.plus(g.linear(x, w("wb", 2, 4)), w("bb", 2)));
    });
    expect(text).toMatchInlineSnapshot(`
      "%2 = embedding %1 %0 : f32(T, 4)
      %3 = weight wa : f32(6, 4)
      %4 = weight ba : f32(6)
      %5 = weight wb : f32(2, 4)
      %6 = concat %3 %5 axis=0 : f32(8, 4)
      %7 = linear %2 %6 : f32(T, 8)
      %8 = weight bb : f32(2)
      %9 = concat %4 %8 axis=0 : f32(8)
      %10 = add %7 %9 : f32(T, 8)
      %11 = slice %10 axis=1 0…5 : f32(T, 6)
      %12 = slice %10 axis=1 6…7 : f32(T, 2)
      tap a %11
      tap b %12
      "
    `);
  });

  it("leaves a bias behind its slice when only one has it", () => {
    const text = fused((g, x, w) => {
      g.tap("a", g.plus(g.linear(x, w("wa", 6, 4)), w("ba", 6)));
      g.tap("b", g.linear(x, w("wb", 2, 4)));
    });
    expect(text).toMatchInlineSnapshot(`
      "%2 = embedding %1 %0 : f32(T, 4)
      %3 = weight wa : f32(6, 4)
      %4 = weight wb : f32(2, 4)
      %5 = concat %3 %4 axis=0 : f32(8, 4)
      %6 = linear %2 %5 : f32(T, 8)
      %7 = slice %6 axis=1 0…5 : f32(T, 6)
      %8 = weight ba : f32(6)
      %9 = add %7 %8 : f32(T, 6)
      %10 = slice %6 axis=1 6…7 : f32(T, 2)
      tap a %9
      tap b %10
      "
    `);
  });

  it("leaves a bias behind its slice when the product without it is read too", () => {
    const text = fused((g, x, w) => {
      const a = g.linear(x, w("wa", 6, 4));
      g.tap("product", a);
      g.tap("a", g.plus(a, w("ba", 6)));
      g.tap("b", g.plus(g.linear(x, w("wb", 2, 4)), w("bb", 2)));
    });
    expect(text.match(/= linear/g)).toHaveLength(1);
    expect(text.match(/= concat/g)).toHaveLength(1);
    expect(text.match(/= add %\d+ %\d+ : f32\(T, [26]\)/g)).toHaveLength(2);
  });

  it("puts gate before up whichever was built first, and leaves their biases behind the slices", () => {
    const text = fused((g, x, w) => {
      const up = g.plus(g.linear(x, w("up", 6, 4)), w("up.bias", 6));
      const gate = g.plus(g.linear(x, w("gate", 6, 4)), w("gate.bias", 6));
      g.tap("out", g.mul(up, g.silu(gate)));
    });
    expect(text).toMatchInlineSnapshot(`
      "%2 = embedding %1 %0 : f32(T, 4)
      %3 = weight up : f32(6, 4)
      %4 = weight gate : f32(6, 4)
      %5 = concat %4 %3 axis=0 : f32(12, 4)
      %6 = linear %2 %5 : f32(T, 12)
      %7 = slice %6 axis=1 6…11 : f32(T, 6)
      %8 = weight up.bias : f32(6)
      %9 = add %7 %8 : f32(T, 6)
      %10 = slice %6 axis=1 0…5 : f32(T, 6)
      %11 = weight gate.bias : f32(6)
      %12 = add %10 %11 : f32(T, 6)
      %13 = silu %12 : f32(T, 6)
      %14 = mul %9 %13 : f32(T, 6)
      tap out %14
      "
    `);
  });

  it("declines when inputs, dtypes differ or a weight is read elsewhere too", () => {
    const text = fused((g, x, w) => {
      g.tap("a", g.linear(x, w("wa", 4, 4)));
      g.tap("b", g.linear(g.silu(x), w("wb", 4, 4)));
      g.tap("c", g.linear(x, g.weight("wc", { dtype: "bf16", shape: [4, 4] })));
      g.tap("d", g.linear(x, g.weight("table", { dtype: "f32", shape: [8, 4] })));
    });
    expect(text).not.toContain("concat");
  });
});
