import { describe, expect, it } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";

const limits = { maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16, blockSize: 16 };

describe("a graph", () => {
  it("gives the same node for the same op, operands and attributes", () => {
    const g = new Graph(limits);
    const x = g.embedding(g.input("token_ids"), g.weight("table", { dtype: "f32", shape: [8, 4] }));
    expect(g.silu(x)).toBe(g.silu(x));
    expect(g.slice(x, 1, 0, 2)).toBe(g.add("slice", [x], { size: 2, start: 0, axis: 1 }));
    expect(g.slice(x, 1, 0, 2)).not.toBe(g.slice(x, 1, 2, 2));
    expect(g.constant(0)).not.toBe(g.constant(-0));
  });

  it("freezes nodes and numbers operands before users", () => {
    const g = new Graph(limits);
    const x = g.embedding(g.input("token_ids"), g.weight("table", { dtype: "f32", shape: [8, 4] }));
    expect(Object.isFrozen(x) && Object.isFrozen(x.attrs) && Object.isFrozen(x.operands)).toBe(true);
    expect(x.operands.every((o) => o.id < x.id)).toBe(true);
  });

  it("names the model path, the shapes and the line of an operand that does not fit", () => {
    const g = new Graph(limits);
    const x = g.embedding(g.input("token_ids"), g.weight("table", { dtype: "f32", shape: [8, 4096] }));
    const w = g.weight("w", { dtype: "bf16", shape: [11008, 5120] });
    expect(() => g.scope("layers.3", () => g.scope("mlp.gate_proj", () => g.linear(x, w)))).toThrow(
      /^linear at layers\.3\.mlp\.gate_proj \(ir\/graph\.test\.ts:\d+\): x is \(T, 4096\) but weight is \(11008, 5120\); last extents must match$/,
    );
  });

  it("rebuilds live nodes only, with taps, dense ids and origins", () => {
    const g = new Graph(limits);
    const x = g.scope("embed_tokens", () =>
      g.embedding(g.input("token_ids"), g.weight("table", { dtype: "f32", shape: [8, 4] })),
    );
    g.silu(x);
    const y = g.mul(x, g.constant(2));
    g.tap("hidden.0", x);
    g.setLogits(y);
    const copy = g.rebuild((node, map, into) => (node === y ? into.plus(map(x), map(x)) : undefined));
    expect(copy.liveNodes().map((n) => n.op)).toEqual(["input", "weight", "embedding", "add"]);
    expect(
      copy
        .rebuild()
        .liveNodes()
        .map((n) => n.id),
    ).toEqual([0, 1, 2, 3]);
    expect(copy.taps.get("hidden.0")).toBe(copy.logits.operands[0]);
    expect(copy.originText(copy.taps.get("hidden.0")!)).toMatch(/^embed_tokens \(ir\/graph\.test\.ts:\d+\)$/);
    expect(copy.originsOf(copy.logits)).toEqual(g.originsOf(y));
  });

  it("gives many nodes the one origin of the line that asked for it", () => {
    const g = new Graph(limits);
    const weights = g.scope("experts", () =>
      g.sameOrigin(() => ["a", "b"].map((name) => g.scope(name, () => g.weight(name, { dtype: "f32", shape: [2] })))),
    );
    const origins = weights.map((w) => g.originsOf(w));
    expect(origins[0]).toBe(origins[1]);
    expect(g.originText(weights[0]!)).toMatch(/^experts \(ir\/graph\.test\.ts:\d+\)$/);
  });

  it("refuses a node of another graph, a tap set twice and a model without logits", () => {
    const [a, b] = [new Graph(limits), new Graph(limits)];
    const x = a.constant(1);
    expect(() => b.silu(x)).toThrow(/another graph/);
    a.tap("t", x);
    expect(() => a.tap("t", x)).toThrow(/tap t at the top of the model \(ir\/graph\.test\.ts:\d+\): set twice/);
    expect(() => a.logits).toThrow(/built no logits/);
  });
});
