import { describe, expect, it } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import type { Node } from "../../../compiler/ir/ops.ts";
import { printGraph } from "../../../compiler/ir/print.ts";
import { fuseProjections } from "../../../compiler/passes/fuse-projections.ts";
import { runPasses } from "../../../compiler/passes/pass.ts";

interface Building {
  readonly g: Graph;
  /** (T, 4) */
  readonly x: Node;
  readonly w: (name: string, ...shape: number[]) => Node;
  /** Attention over rows q (T, 6), k and v (T, 2), in heads of 2. */
  readonly attend: (q: Node, k: Node, v: Node) => Node;
}

/** The graph after fusing; `build` taps what must stay alive. */
function fused(build: (b: Building) => void): string {
  const g = new Graph({ maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16, blockSize: 16 });
  const x = g.embedding(g.input("token_ids"), g.weight("table", { dtype: "f32", shape: [8, 4] }));
  const attend = (q: Node, k: Node, v: Node) => {
    const heads = (y: Node, n: number) => g.reshape(y, [g.T, n, 2]);
    return g.tap(
      "attended",
      g.pagedAttention(heads(q, 3), g.storeKv(g.kvCache(0, "f32", 1, 2), heads(k, 1), heads(v, 1)), 1, null),
    );
  };
  build({ g, x, w: (name, ...shape) => g.weight(name, { dtype: "f32", shape }), attend });
  g.setLogits(g.gatherRows(x, g.input("sample_rows")));
  const lines = printGraph(runPasses(g, [fuseProjections]).graph).split("\n");
  return lines.filter((line) => !/table|input|sample_rows|gather_rows|logits|kv_cache|store_kv|attention/.test(line)).join("\n");
}

describe("fuse-projections", () => {
  it("joins q, k and v of one attention, whichever was built first", () => {
    const text = fused(({ g, x, w, attend }) => {
      const v = g.linear(x, w("v", 2, 4));
      attend(g.linear(x, w("q", 6, 4)), g.linear(x, w("k", 2, 4)), v);
    });
    expect(text).toMatchInlineSnapshot(`
      "%2 = embedding %0 %1 : f32(T, 4)
      %3 = weight v : f32(2, 4)
      %4 = weight q : f32(6, 4)
      %5 = weight k : f32(2, 4)
      %6 = concat %4 %5 %3 axis=0 : f32(10, 4)
      %7 = linear %2 %6 : f32(T, 10)
      %8 = slice %7 axis=1 8…9 : f32(T, 2)
      %9 = slice %7 axis=1 0…5 : f32(T, 6)
      %10 = slice %7 axis=1 6…7 : f32(T, 2)
      %11 = reshape %9 : f32(T, 3, 2)
      %13 = reshape %10 : f32(T, 1, 2)
      %14 = reshape %8 : f32(T, 1, 2)
      tap attended %19
      "
    `);
  });

  it("joins their biases when each has one, on either side", () => {
    const text = fused(({ g, x, w, attend }) => {
      const [q, k, v] = (["q", "k", "v"] as const).map((n) => g.linear(x, w(n, n === "q" ? 6 : 2, 4))) as [Node, Node, Node];
      attend(g.plus(q, w("qb", 6)), g.plus(w("kb", 2), k), g.plus(v, w("vb", 2)));
    });
    expect(text).toMatchInlineSnapshot(`
      "%2 = embedding %0 %1 : f32(T, 4)
      %3 = weight q : f32(6, 4)
      %4 = weight k : f32(2, 4)
      %5 = weight v : f32(2, 4)
      %6 = weight qb : f32(6)
      %7 = concat %3 %4 %5 axis=0 : f32(10, 4)
      %8 = linear %2 %7 : f32(T, 10)
      %9 = weight kb : f32(2)
      %10 = weight vb : f32(2)
      %11 = concat %6 %9 %10 axis=0 : f32(10)
      %12 = add %8 %11 : f32(T, 10)
      %13 = slice %12 axis=1 0…5 : f32(T, 6)
      %14 = slice %12 axis=1 6…7 : f32(T, 2)
      %15 = slice %12 axis=1 8…9 : f32(T, 2)
      %16 = reshape %13 : f32(T, 3, 2)
      %18 = reshape %14 : f32(T, 1, 2)
      %19 = reshape %15 : f32(T, 1, 2)
      tap attended %24
      "
    `);
  });

  it("declines when one of the three has no bias, when a product without its bias is read too, when whole rows are normalized", () => {
    const cases: ((b: Building) => void)[] = [
      ({ g, x, w, attend }) =>
        attend(g.plus(g.linear(x, w("q", 6, 4)), w("qb", 6)), g.linear(x, w("k", 2, 4)), g.linear(x, w("v", 2, 4))),
      ({ g, x, w, attend }) => {
        const biased = (name: string, n: number) => g.plus(g.tap(name, g.linear(x, w(name, n, 4))), w(`${name}b`, n));
        attend(biased("q", 6), biased("k", 2), biased("v", 2));
      },
      ({ g, x, w, attend }) =>
        attend(g.rmsNorm(g.linear(x, w("q", 6, 4)), w("qn", 6), 1e-6), g.linear(x, w("k", 2, 4)), g.linear(x, w("v", 2, 4))),
    ];
    for (const build of cases) {
      const text = fused(build);
      expect(text.match(/= linear/g)).toHaveLength(3);
      expect(text).not.toMatch(/concat|slice/);
    }
  });

  it("puts gate before up whichever was built first, and leaves their biases behind the slices", () => {
    const text = fused(({ g, x, w }) => {
      const up = g.plus(g.linear(x, w("up", 6, 4)), w("up.bias", 6));
      const gate = g.plus(w("gate.bias", 6), g.linear(x, w("gate", 6, 4)));
      g.tap("out", g.mul(up, g.silu(gate)));
    });
    expect(text).toMatchInlineSnapshot(`
      "%2 = embedding %0 %1 : f32(T, 4)
      %3 = weight up : f32(6, 4)
      %4 = weight gate : f32(6, 4)
      %5 = concat %4 %3 axis=0 : f32(12, 4)
      %6 = linear %2 %5 : f32(T, 12)
      %7 = slice %6 axis=1 6…11 : f32(T, 6)
      %8 = weight up.bias : f32(6)
      %9 = add %7 %8 : f32(T, 6)
      %10 = weight gate.bias : f32(6)
      %11 = slice %6 axis=1 0…5 : f32(T, 6)
      %12 = add %10 %11 : f32(T, 6)
      %13 = silu %12 : f32(T, 6)
      %14 = mul %9 %13 : f32(T, 6)
      tap out %14
      "
    `);
  });

  it("declines when gate or up is looked at or read by something else, or their sizes differ", () => {
    const text = fused(({ g, x, w }) => {
      const linear = (name: string, n = 6) => g.linear(x, w(name, n, 4));
      g.tap("looked at", g.mul(g.silu(g.tap("a", linear("a"))), linear("b")));
      const read = linear("d");
      g.tap("read elsewhere", g.mul(g.silu(linear("c")), read));
      g.tap("elsewhere", g.linear(read, w("g", 4, 6)));
      g.tap("one for all", g.mul(g.silu(linear("e")), g.linear(x, w("f", 6, 4))));
    });
    expect(text.match(/= concat %\d+ %\d+ /g)).toHaveLength(1);
  });

  it("joins gate and up whatever becomes of them, in any number of steps, and experts' by expert", () => {
    const clamped = (g: Graph, gate: Node, up: Node) => {
      const low = g.min(gate, g.constant(7));
      return g.mul(g.plus(up, g.constant(1)), g.mul(low, g.sigmoid(g.mul(low, g.constant(1.7)))));
    };
    const text = fused(({ g, x, w }) => {
      g.tap("gelu", g.mul(g.geluTanh(g.linear(x, w("a", 6, 4))), g.linear(x, w("b", 6, 4))));
      g.tap("clamped", clamped(g, g.linear(x, w("c", 6, 4)), g.linear(x, w("d", 6, 4))));
      const ids = g.topK(g.linear(x, w("router", 8, 4)), 2);
      const rows = g.dispatch(x, ids);
      const stack = (name: string) => g.groupedLinear(rows, g.weight(name, { dtype: "f32", shape: [8, 6, 4] }), ids);
      const bias = (name: string) => g.expertRows(g.weight(name, { dtype: "f32", shape: [8, 6] }), ids);
      g.tap("experts", clamped(g, g.plus(stack("gates"), bias("gate_bias")), g.plus(stack("ups"), bias("up_bias"))));
    });
    expect(text.match(/= linear .*\(T, 12\)/g)).toHaveLength(2);
    expect(text.match(/= concat .*axis=1 : f32\(8, 12, 4\)/g)).toHaveLength(1);
    expect(text.match(/= grouped_linear .*\(2·T, 12\)/g)).toHaveLength(1);
  });

  it("declines when inputs or dtypes differ, or a weight is read elsewhere too", () => {
    const text = fused(({ g, x, w }) => {
      const gated = (gate: Node, up: Node) => g.mul(g.silu(gate), up);
      g.tap("inputs", gated(g.linear(x, w("a", 4, 4)), g.linear(g.silu(x), w("b", 4, 4))));
      g.tap("dtypes", gated(g.linear(x, w("c", 4, 4)), g.linear(x, g.weight("d", { dtype: "bf16", shape: [4, 4] }))));
      g.tap("tied", gated(g.linear(x, w("e", 8, 4)), g.linear(x, g.weight("table", { dtype: "f32", shape: [8, 4] }))));
    });
    expect(text).not.toContain("concat");
  });

  it("declines when linears of one value go separate ways", () => {
    const text = fused(({ g, x, w }) => {
      g.tap("a", g.linear(x, w("a", 6, 4)));
      g.tap("b", g.linear(x, w("b", 2, 4)));
    });
    expect(text).not.toContain("concat");
  });
});
