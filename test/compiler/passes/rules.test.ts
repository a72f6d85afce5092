import { describe, expect, it } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import type { Node } from "../../../compiler/ir/ops.ts";
import { printExpression } from "../../../compiler/ir/print.ts";
import { canonicalizeRules } from "../../../compiler/passes/canonicalize.ts";
import { foldRules } from "../../../compiler/passes/fold.ts";
import { type Rule, rewriteGraph } from "../../../compiler/rewrite/rewrite.ts";

/** The expression that `build` makes, after `rules`: logits need an embedding's rows, so the value is tapped. */
function rewritten(
  rules: readonly Rule[],
  build: (g: Graph, x: Node, w: (name: string, ...shape: number[]) => Node) => Node,
): string {
  const g = new Graph({ maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16, blockSize: 16 });
  const w = (name: string, ...shape: number[]) => g.weight(name, { dtype: "bf16", shape });
  const x = g.embedding(g.input("token_ids"), w("table", 8, 6)); // (T, 6)
  g.tap("value", build(g, x, w));
  g.setLogits(x);
  return printExpression(rewriteGraph(g, rules, "test").graph.taps.get("value")!, 4)
    .replaceAll("embedding(input token_ids, weight table)", "x")
    .replaceAll("weight ", "");
}

const canonical = (build: Parameters<typeof rewritten>[1]) => rewritten(canonicalizeRules, build);
const folded = (build: Parameters<typeof rewritten>[1]) => rewritten(foldRules, build);

describe("canonicalize", () => {
  it("moves constants behind what they are added to or multiplied with", () => {
    expect(canonical((g, x) => g.mul(g.constant(2), g.plus(g.constant(3), x)))).toMatchInlineSnapshot(
      `"mul(add(x, constant 3), constant 2)"`,
    );
  });

  it("moves bounds behind what they bound", () => {
    expect(canonical((g, x) => g.max(g.constant(-7), g.min(g.constant(7), x)))).toMatchInlineSnapshot(
      `"max(min(x, constant 7), constant -7)"`,
    );
  });

  it("declines when the constant is last already or both operands are constants", () => {
    expect(canonical((g, x) => g.plus(x, g.constant(3)))).toMatchInlineSnapshot(`"add(x, constant 3)"`);
    expect(canonical((g) => g.plus(g.constant(1), g.constant(2)))).toMatchInlineSnapshot(`"add(constant 1, constant 2)"`);
  });

  it("joins reshapes, slices and concats of their own kind", () => {
    expect(canonical((g, x) => g.reshape(g.reshape(x, [g.T, 3, 2]), [g.T, 2, 3]))).toMatchInlineSnapshot(`"reshape(x)"`);
    expect(canonical((g, x) => g.slice(g.slice(x, 1, 1, 4), 1, 2, 2))).toMatchInlineSnapshot(`"slice axis=1 3…4(x)"`);
    expect(canonical((g, _, w) => g.concat([g.concat([w("a", 2, 4), w("b", 3, 4)], 0), w("c", 1, 4)], 0))).toMatchInlineSnapshot(
      `"concat axis=0(a, b, c)"`,
    );
  });

  it("declines slices and concats along different axes", () => {
    expect(canonical((g, x) => g.slice(g.slice(g.reshape(x, [g.T, 3, 2]), 1, 0, 2), 2, 1, 1))).toMatchInlineSnapshot(
      `"slice axis=2 1…1(slice axis=1 0…1(reshape(x)))"`,
    );
    expect(canonical((g, _, w) => g.concat([g.concat([w("a", 2, 4), w("b", 2, 4)], 1), w("c", 1, 8)], 0))).toMatchInlineSnapshot(
      `"concat axis=0(concat axis=1(a, b), c)"`,
    );
  });
});

describe("fold", () => {
  it("drops reshapes, slices, casts and concats that change nothing", () => {
    expect(folded((g, x) => g.reshape(x, x.type.shape))).toBe("x");
    expect(folded((g, x) => g.slice(x, 1, 0, 6))).toBe("x");
    expect(folded((g, x) => g.cast(x, "f32"))).toBe("x");
    expect(folded((g, _, w) => g.concat([w("a", 2, 4)], 0))).toBe("a");
  });

  it("drops widening and narrowing back", () => {
    expect(folded((g, x) => g.cast(g.cast(g.cast(x, "bf16"), "f32"), "bf16"))).toMatchInlineSnapshot(`"cast bf16(x)"`);
  });

  it("declines when a cast rounds", () => {
    expect(folded((g, x) => g.cast(g.cast(x, "bf16"), "f32"))).toMatchInlineSnapshot(`"cast f32(cast bf16(x))"`);
    expect(folded((g, x) => g.cast(g.cast(g.cast(x, "bf16"), "f16"), "bf16"))).toMatchInlineSnapshot(
      `"cast bf16(cast f16(cast bf16(x)))"`,
    );
  });

  it("takes a slice of one part of a concat from that part", () => {
    const abc = (g: Graph, w: (name: string, ...shape: number[]) => Node) =>
      g.concat([w("a", 2, 4), w("b", 3, 4), w("c", 1, 4)], 0);
    expect(folded((g, _, w) => g.slice(abc(g, w), 0, 2, 3))).toBe("b");
    expect(folded((g, _, w) => g.slice(abc(g, w), 0, 3, 2))).toMatchInlineSnapshot(`"slice axis=0 1…2(b)"`);
  });

  it("declines when a slice straddles two parts or cuts across another axis", () => {
    const ab = (g: Graph, w: (name: string, ...shape: number[]) => Node) => g.concat([w("a", 2, 4), w("b", 3, 4)], 0);
    expect(folded((g, _, w) => g.slice(ab(g, w), 0, 1, 2))).toMatchInlineSnapshot(`"slice axis=0 1…2(concat axis=0(a, b))"`);
    expect(folded((g, _, w) => g.slice(ab(g, w), 1, 0, 2))).toMatchInlineSnapshot(`"slice axis=1 0…1(concat axis=0(a, b))"`);
  });

  it("computes on constants in f32 and drops neutral ones", () => {
    expect(
      folded((g, x) => g.plus(x, g.max(g.min(g.tanh(g.constant(1)), g.sigmoid(g.constant(9))), g.geluTanh(g.constant(-3))))),
    ).toMatchInlineSnapshot(`"add(x, constant 0.7615941762924194)"`);
    expect(folded((g, x) => g.plus(g.mul(x, g.constant(1)), g.constant(0)))).toBe("x");
    expect(folded((g, x) => g.mul(x, g.plus(g.constant(0.1), g.constant(0.2))))).toMatchInlineSnapshot(
      `"mul(x, constant 0.30000001192092896)"`,
    );
    expect(folded((g, x) => g.plus(x, g.silu(g.mul(g.constant(2), g.constant(3)))))).toMatchInlineSnapshot(
      `"add(x, constant 5.985164165496826)"`,
    );
  });

  it("declines to drop a neutral constant when the sum widens the dtype", () => {
    expect(folded((g, x) => g.plus(g.cast(x, "bf16"), g.constant(0)))).toMatchInlineSnapshot(`"add(cast bf16(x), constant 0)"`);
  });
});
