/** Graphs that no shipped family builds, but that a model may describe: each computes what it says, or is refused by name. */
import { describe, expect, test } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import type { Node } from "../../../compiler/ir/ops.ts";
import { formKernels } from "../../../compiler/kernels/form.ts";
import { kernelTensors } from "../../../compiler/kernels/operands.ts";
import { lower } from "../../../compiler/pipeline.ts";
import { expectSameMeaning } from "../../support/kernel-meaning.ts";

const f32Target = { linearInput: () => "f32" as const };

interface Building {
  readonly g: Graph;
  /** (T, 32) */
  readonly x: Node;
  readonly w: (name: string, ...shape: number[]) => Node;
  /** Attention over a projection of x with heads 2 · 16: (T, 2, 16). */
  readonly attend: (layer: number, sinks?: Node) => Node;
}

type Head = (g: Graph, sampled: Node, w: Building["w"]) => Node;

const normAndHead: Head = (g, sampled, w) => {
  const width = sampled.type.shape[1] as number;
  return g.linear(g.rmsNorm(sampled, w("norm", width), 1e-6), w("head", 64, width));
};

/** A graph around what `build` gives (a (T, n) value), `head` over its sampled rows behind it. */
function model(build: (b: Building) => Node, head = normAndHead): Graph {
  const g = new Graph({ maxModelLen: 64, maxNumSeqs: 32, maxNumBatchedTokens: 32, blockSize: 16 });
  const w = (name: string, ...shape: number[]) => g.weight(name, { dtype: "f32", shape });
  const x = g.embedding(g.input("token_ids"), w("embed", 64, 32));
  const attend = (layer: number, sinks?: Node) => {
    const qkv = g.linear(x, w(`${layer}.qkv`, 64, 32));
    const heads = (start: number, n: number) => g.reshape(g.slice(qkv, 1, start, n * 16), [g.T, n, 16]);
    return g.pagedAttention(
      heads(0, 2),
      g.storeKv(g.kvCache(layer, "f32", 1, 16), heads(32, 1), heads(48, 1)),
      0.25,
      null,
      sinks,
    );
  };
  const y = g.scope("layers.0", () => build({ g, x, w, attend }));
  g.setLogits(head(g, g.gatherRows(y, g.input("sample_rows")), w));
  return g;
}

/** Kernels straight from the graph compute what it means. */
function same(build: (b: Building) => Node, head?: Head): string[] {
  const graph = model(build, head);
  const program = formKernels(graph);
  expectSameMeaning(graph, program);
  return program.kernels.map((k) => k.name);
}

/** Kernels after all passes compute what the graph means. */
function sameAfterPasses(build: (b: Building) => Node): string[] {
  const graph = model(build);
  const lowered = lower(graph, f32Target);
  expectSameMeaning(graph, lowered);
  return lowered.kernels.map((k) => k.name);
}

/** A layer of experts with `change` between their two linears. */
function throughExperts({ g, x, w }: Building, change: (inner: Node) => Node, weights?: (ids: Node) => Node): Node {
  const scores = g.softmax(g.linear(x, w("router", 6, 32)));
  const ids = g.topK(scores, 2);
  const inner = change(g.silu(g.groupedLinear(g.dispatch(x, ids), w("up", 6, 48, 32), ids)));
  return g.combine(g.groupedLinear(inner, w("down", 6, 32, 48), ids), weights?.(ids) ?? g.gatherCols(scores, ids), ids);
}

/** Six experts without gates, each over its own of the sorted rows. */
function expert(g: Graph, x: Node, ids: Node, w: Building["w"], name: string): Node {
  const inner = g.silu(g.groupedLinear(g.dispatch(x, ids), w(`${name}.up`, 6, 48, 32), ids));
  return g.groupedLinear(inner, w(`${name}.down`, 6, 32, 48), ids);
}

describe("kernels of unusual graphs compute what the graph means:", () => {
  test("an attention's output times a gate", () => {
    const names = same(({ g, x, w, attend }) => {
      const gate = g.silu(g.linear(x, w("gate", 32, 32)));
      return g.mul(g.reshape(attend(0), [g.T, 32]), gate);
    });
    expect(names.some((n) => n.startsWith("elementwise"))).toBe(true);
  });

  test("heads cut out of a projection after it is viewed as heads", () => {
    same(({ g, x, w }) => {
      const qkv = g.reshape(g.linear(x, w("qkv", 64, 32)), [g.T, 4, 16]);
      const heads = (start: number, n: number) => g.slice(qkv, 1, start, n);
      const kv = g.storeKv(g.kvCache(0, "f32", 1, 16), heads(2, 1), heads(3, 1));
      return g.reshape(g.pagedAttention(heads(0, 2), kv, 0.25, null), [g.T, 32]);
    });
  });

  test("rows scaled by a gate of one column each", () => {
    const names = same(({ g, x, w }) => {
      const gate = g.sigmoid(g.linear(x, w("gate", 1, 32)));
      return g.plus(g.mul(gate, g.linear(x, w("shared", 32, 32))), x);
    });
    expect(names).toContain("linear_f32_1x32__sigmoid");
    expect(names).toContain("linear_f32_32x32__mul_add");
  });

  test("a norm of layers over sampled rows", () => {
    const names = same(
      ({ x }) => x,
      (g, sampled, w) => g.linear(g.layerNorm(sampled, w("norm", 32), w("norm.bias", 32), 1e-5), w("head", 64, 32)),
    );
    expect(names).toContain("layer_norm_gather_f32_32");
  });

  test("sampled rows that no norm reads: a head, elementwise work, a norm and another reader", () => {
    const heads: [string, Head][] = [
      ["gather_rows_32", (g, sampled, w) => g.linear(g.linear(sampled, w("out", 24, 32)), w("head", 64, 24))],
      ["gather_rows_32__bias_silu", (g, sampled, w) => g.linear(g.silu(g.plus(sampled, w("bias", 32))), w("head", 64, 32))],
      ["gather_rows_32", (g, sampled, w) => g.plus(normAndHead(g, sampled, w), g.linear(sampled, w("other", 64, 32)))],
    ];
    for (const [name, head] of heads) expect(same(({ x }) => x, head)).toContain(name);
  });

  test("columns that are taken out of a row", () => {
    const names = same(({ g, x, w }) => {
      const y = g.linear(x, w("wide", 48, 32));
      const tail = g.slice(g.reshape(y, [g.T, 3, 16]), 1, 1, 2);
      return g.plus(g.rmsNorm(g.slice(y, 1, 3, 32), w("n", 32), 1e-6), g.reshape(g.silu(tail), [g.T, 32]));
    });
    expect(names).toEqual(expect.arrayContaining(["slice_32", "slice_32__silu", "rms_norm_f32_32__add"]));
  });

  test("a sum with what a norm makes of a value", () => {
    const names = same(({ g, x, w }) => {
      const y = g.linear(x, w("a", 32, 32));
      const attended = g.plus(x, g.rmsNorm(y, w("n", 32), 1e-6));
      return g.plus(attended, g.layerNorm(g.linear(attended, w("b", 32, 32)), w("m", 32), w("m.bias", 32), 1e-6));
    });
    expect(names).toEqual(expect.arrayContaining(["rms_norm_f32_32__add", "layer_norm_f32_32__add"]));
    expect(names.some((n) => n.startsWith("elementwise"))).toBe(false);
  });

  test("an attention whose softmax has a sink for each head", () => {
    const names = same(({ g, w, attend }) => g.reshape(attend(0, w("sinks", 2)), [g.T, 32]));
    expect(names).toContain("paged_attention_f32_2x1x16_sinks");
  });

  test("a norm of all heads of q and of k together, before they are heads", () => {
    for (const run of [same, sameAfterPasses]) {
      const names = run(({ g, x, w }) => {
        const rows = (name: string, n: number) => g.rmsNorm(g.linear(x, w(name, n * 16, 32)), w(`${name}.norm`, n * 16), 1e-6);
        const angles = g.ropeAngles(g.input("positions"), [1, 0.5, 0.1], 1);
        const turned = (name: string, n: number) => g.rope(g.reshape(rows(name, n), [g.T, n, 16]), angles, "half");
        const v = g.reshape(g.linear(x, w("v", 16, 32)), [g.T, 1, 16]);
        const kv = g.storeKv(g.kvCache(0, "f32", 1, 16), turned("k", 1), v);
        return g.reshape(g.pagedAttention(turned("q", 2), kv, 0.25, null), [g.T, 32]);
      });
      expect(names).toEqual(expect.arrayContaining(["rms_norm_f32_32", "rms_norm_f32_16", "rope_store_kv_f32_2x1x16"]));
    }
  });

  test("heads that elementwise work made", () => {
    same(({ g, x, w }) => {
      const heads = (name: string, n: number) => g.silu(g.reshape(g.linear(x, w(name, n * 16, 32)), [g.T, n, 16]));
      const kv = g.storeKv(g.kvCache(0, "f32", 1, 16), heads("k", 1), heads("v", 1));
      return g.reshape(g.pagedAttention(heads("q", 2), kv, 0.25, null), [g.T, 32]);
    });
  });

  test("a gate and its up that meet in another value: one kernel where it was made before them", () => {
    for (const [order, ways] of [
      ["before", 2],
      ["after", 1],
    ] as const) {
      const graph = model(({ g, x, w }) => {
        const other = () => g.rmsNorm(g.linear(g.silu(x), w("other", 48, 32)), w("n", 48), 1e-6);
        if (order === "before") other();
        const [gate, up] = [g.linear(x, w("gate", 48, 32)), g.linear(x, w("up", 48, 32))];
        return g.mul(g.mul(g.silu(gate), other()), up);
      });
      const program = lower(graph, f32Target);
      expectSameMeaning(graph, program);
      expect(Math.max(...program.kernels.map((k) => (k.kind === "linear" ? k.ways : 0)))).toBe(ways);
      expect(program.kernels.filter((k) => k.kind === "gather" && !k.rows)).toEqual([]);
    }
  });

  test("an embedding of positions", () => {
    same(({ g, x, w }) => g.plus(x, g.embedding(g.input("positions"), w("positions", 64, 32))));
  });

  test("weights cut, transposed, reshaped and shifted by a constant, parts of one tensor among them", () => {
    const program = lower(
      model(({ g, x, w }) => {
        const pairs = g.reshape(w("pairs", 32, 96), [32, 48, 2]);
        const part = (start: number) => g.transpose(g.reshape(g.slice(pairs, 2, start, 1), [32, 48]));
        const up = g.mul(g.silu(g.linear(x, part(0))), g.linear(g.silu(x), part(1)));
        const down = g.plus(g.linear(up, w("down", 32, 48)), g.slice(w("biases", 40), 0, 8, 32));
        const placed = g.plus(down, g.embedding(g.input("positions"), g.slice(w("positions", 66, 32), 0, 2, 64)));
        return g.rmsNorm(placed, g.plus(w("gain", 32), g.constant(1)), 1e-6);
      }),
      f32Target,
    );
    expectSameMeaning(program.graph, program);
    const tensors = program.kernels.flatMap(kernelTensors).map((t) => t.name);
    expect(tensors).toEqual(["embed", "positions", "pairs", "pairs (2)", "down", "biases", "gain", "norm", "head"]);
  });

  test("two choices of experts among the same scores", () => {
    const names = sameAfterPasses(({ g, x, w }) => {
      const scores = g.softmax(g.linear(x, w("router", 6, 32)));
      const experts = (k: number) => {
        const ids = g.topK(scores, k);
        return g.combine(expert(g, x, ids, w, `experts.${k}`), g.gatherCols(scores, ids), ids);
      };
      return g.plus(experts(1), experts(2));
    });
    expect(names.filter((n) => n.startsWith("route"))).toEqual(["route_2of6__softmax_top_k_top_k"]);
  });

  test("experts weighed by other scores than they are chosen by", () => {
    const names = sameAfterPasses(({ g, x, w }) => {
      const logits = g.linear(x, w("router", 6, 32));
      const ids = g.topK(logits, 2);
      const weights = g.mul(g.gatherCols(g.softmax(logits), ids), g.sigmoid(g.gatherCols(logits, ids)));
      return g.combine(expert(g, x, ids, w, "experts"), weights, ids);
    });
    expect(names).toContain("route_2of6__top_k_softmax");
  });

  test("scores of experts that something reads rounded", () => {
    const names = sameAfterPasses(({ g, x, w }) => {
      const scores = g.sigmoid(g.linear(x, w("router", 6, 32)));
      const ids = g.topK(scores, 2);
      const y = expert(g, x, ids, w, "experts");
      const rounded = g.linear(g.cast(scores, "bf16"), g.weight("mixed", { dtype: "bf16", shape: [32, 6] }));
      return g.plus(rounded, g.combine(y, g.gatherCols(scores, ids), ids));
    });
    expect(names).toEqual(expect.arrayContaining(["route_2of6__top_k", "elementwise_6__round_bf16"]));
  });

  test("attention and mlp side by side over one norm", () => {
    sameAfterPasses(({ g, x, w }) => {
      const normed = g.rmsNorm(x, w("n", 32), 1e-6);
      const heads = (name: string, n: number) => g.reshape(g.linear(normed, w(name, n * 16, 32)), [g.T, n, 16]);
      const kv = g.storeKv(g.kvCache(0, "f32", 1, 16), heads("k", 1), heads("v", 1));
      const attended = g.reshape(g.pagedAttention(heads("q", 2), kv, 0.25, null), [g.T, 32]);
      const mlp = g.linear(g.silu(g.linear(normed, w("up", 48, 32))), w("down", 32, 48));
      return g.plus(x, g.plus(g.linear(attended, w("o", 32, 32)), mlp));
    });
  });

  test("two linears of one value that nothing joins", () => {
    sameAfterPasses(({ g, x, w }) => g.plus(g.silu(g.linear(x, w("a", 32, 32))), g.linear(x, w("b", 32, 32))));
  });

  test("a gate that is looked at", () => {
    sameAfterPasses(({ g, x, w }) =>
      g.mul(g.silu(g.tap("gate", g.linear(x, w("gate", 48, 32)))), g.tap("up", g.linear(x, w("up", 48, 32)))),
    );
  });

  test("a gate that is read twice", () => {
    sameAfterPasses(({ g, x, w }) => {
      const gate = g.linear(x, w("gate", 48, 32));
      return g.plus(g.mul(g.silu(gate), g.linear(x, w("up", 48, 32))), gate);
    });
  });

  test("biases on either side of gate and up", () => {
    const names = sameAfterPasses(({ g, x, w }) => {
      const gate = g.plus(w("gate.bias", 48), g.linear(x, w("gate", 48, 32)));
      const up = g.plus(g.linear(x, w("up", 48, 32)), w("up.bias", 48));
      return g.mul(g.silu(gate), up);
    });
    expect(names).toContain("linear_f32_48x32__bias_silu_bias_mul");
  });

  test("a residual that is made after the linear it is added to", () => {
    const names = same(({ g, x, w }) => {
      const first = g.linear(x, w("a", 32, 32));
      const later = g.linear(g.silu(x), w("b", 32, 32));
      return g.plus(first, later);
    });
    expect(names.filter((n) => n.startsWith("linear_f32_32x32"))).toEqual(["linear_f32_32x32", "linear_f32_32x32__add"]);
  });

  test("a long chain of elementwise work, under a name that a file can have", () => {
    const names = same(({ g, x, w }) => {
      let y: Node = g.linear(x, w("a", 32, 32));
      for (let i = 0; i < 60; i++) y = g.silu(g.plus(y, g.constant(0.01 * i)));
      return y;
    });
    expect(Math.max(...names.map((n) => n.length))).toBeLessThanOrEqual(100);
  });
});

describe("graphs that no kernel computes are refused by name:", () => {
  const refusals: [string, (b: Building) => Node, RegExp][] = [
    [
      "a vector over the elements of each head",
      ({ g, w, attend }) => g.reshape(g.mul(attend(0), w("scale", 16)), [g.T, 32]),
      /mul at layers\.0 .*: its operands/,
    ],
    [
      "a norm of each head outside attention's inputs",
      ({ g, w, attend }) => g.reshape(g.rmsNorm(attend(0), w("head_norm", 16), 1e-6), [g.T, 32]),
      /rms_norm at layers\.0 .*: .*\(16\)/,
    ],
    [
      "a linear over the elements of each head",
      ({ g, w, attend }) => g.reshape(g.linear(attend(0), w("per_head", 16, 16)), [g.T, 32]),
      /linear at layers\.0 .*: x is \(T, 2, 16\)/,
    ],
    [
      "weights joined side by side",
      ({ g, x, w }) => g.linear(x, g.concat([w("left", 32, 16), w("right", 32, 16)], 1)),
      /concat at layers\.0 \(kernels\/form-unusual.*: .*joined along the last axis/,
    ],
    [
      "rows joined side by side",
      ({ g, x, w }) => g.linear(g.concat([x, x], 1), w("both", 32, 64)),
      /concat at layers\.0 .*: only weights are joined: join the weights, and multiply once/,
    ],
    [
      "a rotation that no attention reads",
      ({ g, x }) => {
        const angles = g.ropeAngles(g.input("positions"), [1, 0.5], 1);
        return g.reshape(g.rope(g.reshape(x, [g.T, 2, 16]), angles, "half"), [g.T, 32]);
      },
      /rope at layers\.0 .*: a rotation is part of the kernel that stores keys/,
    ],
    [
      "weights multiplied",
      ({ g, x, w }) => g.linear(x, g.mul(w("scaled", 32, 32), g.constant(2))),
      /mul at layers\.0 .*: mul of checkpoint tensors alone is not folded/,
    ],
    [
      "a view that is not made of the same rows",
      ({ g, x }) => g.reshape(g.silu(g.reshape(x, [2, g.T, 16])), [g.T, 32]),
      /reshape at layers\.0 .*: .*rows/,
    ],
    [
      "columns of each head",
      ({ g, attend }) => g.reshape(g.slice(attend(0), 2, 0, 8), [g.T, 16]),
      /slice at layers\.0 .*: axis 2 of \(T, 2, 16\)/,
    ],
    [
      "heads of rounded rows",
      ({ g, x, w }) => {
        const heads = (name: string) => g.reshape(g.cast(g.linear(x, w(name, 16, 32)), "bf16"), [g.T, 1, 16]);
        const kv = g.storeKv(g.kvCache(0, "f32", 1, 16), heads("k"), heads("v"));
        return g.reshape(g.pagedAttention(heads("q"), kv, 0.25, null), [g.T, 16]);
      },
      /store_kv at layers\.0 .*: heads are made of f32 rows; .* bf16/,
    ],
    [
      "weights of experts that are made after these are chosen",
      (b) =>
        throughExperts(
          b,
          (inner) => inner,
          (ids) => b.g.gatherCols(b.g.linear(b.x, b.w("later", 6, 32)), ids),
        ),
      /gather_cols at layers\.0 .*: a kernel computes it only on the way to a top_k/,
    ],
    [
      "sorted rows that are tapped",
      (b) => throughExperts(b, (inner) => b.g.tap("inner", inner)),
      /grouped_linear at layers\.0 .*: rows sorted by expert cannot be tapped/,
    ],
    [
      "a norm of sorted rows",
      (b) => throughExperts(b, (inner) => b.g.rmsNorm(inner, b.w("gain", 48), 1e-6)),
      /grouped_linear at layers\.0 .*: its rows, sorted by expert, are read by a rms_norm/,
    ],
    [
      "experts of a single linear",
      ({ g, x, w }) => {
        const scores = g.linear(x, w("router", 6, 32));
        const ids = g.topK(scores, 2);
        const y = g.groupedLinear(g.dispatch(x, ids), w("experts", 6, 32, 32), ids);
        return g.combine(y, g.gatherCols(scores, ids), ids);
      },
      /grouped_linear at layers\.0 .*: .*experts of a single one/,
    ],
    [
      "a slice of each head as a head",
      ({ g, x, w }) => {
        const qkv = g.reshape(g.linear(x, w("qkv", 64, 32)), [g.T, 1, 64]);
        const part = (start: number) => g.slice(qkv, 2, start, 16);
        const kv = g.storeKv(g.kvCache(0, "f32", 1, 16), part(16), part(32));
        return g.reshape(g.pagedAttention(g.reshape(g.slice(g.reshape(qkv, [g.T, 4, 16]), 1, 0, 2), [g.T, 2, 16]), kv, 1, null), [
          g.T,
          32,
        ]);
      },
      /slice at layers\.0 .*: axis 2/,
    ],
  ];
  test.each(refusals)("%s", (_, build, message) => {
    expect(() => formKernels(model(build))).toThrow(message);
  });
});
