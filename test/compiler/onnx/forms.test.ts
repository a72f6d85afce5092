import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import { Interpreter } from "../../../compiler/ir/interpret.ts";
import type { Node, OpName } from "../../../compiler/ir/ops.ts";
import type { DType } from "../../../compiler/ir/tensor-type.ts";
import { onnxModel } from "../../../compiler/onnx/model.ts";
import { expectClose, relativeError } from "../../support/closeness.ts";
import { arraySource, type Batch, batchStep, exported, openOnnx, outputOf } from "../../support/onnx.ts";
import { randomDense } from "../../support/random-dense.ts";
import { seededRandom } from "../../support/seeded-random.ts";

const VOCAB = 40;
const newGraph = () => new Graph({ maxModelLen: 64, maxNumSeqs: 32, maxNumBatchedTokens: 32, blockSize: 4 });

/** Parts of small graphs. */
class Parts {
  readonly g = newGraph();
  private count = 0;

  w(shape: readonly number[], dtype: DType = "f32"): Node {
    return this.g.weight(`w.${this.count++}`, { dtype, shape });
  }
  /** Random rows (T, n). */
  x(n: number): Node {
    return this.g.embedding(this.g.input("token_ids"), this.w([VOCAB, n]));
  }
  /** Random heads (T, heads, headDim). */
  heads(heads: number, headDim: number): Node {
    return this.g.reshape(this.x(heads * headDim), [this.g.T, heads, headDim]);
  }
  /** 3 of 8 experts for each token. */
  ids(): Node {
    return this.g.topK(this.x(8), 3);
  }
  /** Values of which many are equal. */
  equals(n: number): Node {
    return this.g.min(this.g.max(this.x(n), this.g.constant(-0.1)), this.g.constant(0.1));
  }
  attention(numHeads: number, numKvHeads: number, window: number | null, options: { sinks?: boolean; cache?: DType } = {}): Node {
    const { g } = this;
    const cache = g.kvCache(0, options.cache ?? "f32", numKvHeads, 8);
    const kv = g.storeKv(cache, this.heads(numKvHeads, 8), this.heads(numKvHeads, 8));
    return g.pagedAttention(this.heads(numHeads, 8), kv, 1.3, window, options.sinks ? this.w([numHeads]) : undefined);
  }
  rope(style: "half" | "interleaved", headDim: number): Node {
    const angles = this.g.ropeAngles(this.g.input("positions"), [1, 0.3, 0.05], 1.1);
    return this.g.rope(this.heads(2, headDim), angles, style);
  }
}

type Build = (p: Parts) => Node;

/** Graphs of each op. */
const cases: { readonly [K in OpName]: Readonly<Record<string, Build>> } = {
  input: { "token ids": ({ g }) => g.input("token_ids"), positions: ({ g }) => g.input("positions") },
  weight: {
    f32: (p) => p.g.mul(p.x(6), p.w([6])),
    bf16: (p) => p.g.mul(p.x(6), p.w([6], "bf16")),
    f16: (p) => p.g.mul(p.x(6), p.w([6], "f16")),
  },
  kv_cache: { "that the step fills": (p) => p.attention(2, 2, null) },
  constant: { "in a sum": (p) => p.g.plus(p.x(6), p.g.constant(0.25)) },
  cast: {
    "to bf16": (p) => p.g.cast(p.x(33), "bf16"),
    "to f16": (p) => p.g.cast(p.g.mul(p.x(33), p.g.constant(1e-5)), "f16"),
    "there and back": (p) => p.g.plus(p.g.cast(p.x(33), "bf16"), p.g.constant(0)),
  },
  add: { rows: (p) => p.g.plus(p.x(6), p.x(6)), "a vector": (p) => p.g.plus(p.w([6]), p.x(6)) },
  mul: { "a column": (p) => p.g.mul(p.x(1), p.x(6)), "heads and a vector": (p) => p.g.mul(p.heads(2, 6), p.w([6])) },
  min: { rows: (p) => p.g.min(p.x(6), p.x(6)) },
  max: { rows: (p) => p.g.max(p.x(6), p.g.constant(0)) },
  sigmoid: { rows: (p) => p.g.sigmoid(p.x(6)) },
  silu: { rows: (p) => p.g.silu(p.x(6)) },
  gelu_tanh: { rows: (p) => p.g.geluTanh(p.g.mul(p.x(6), p.g.constant(4))) },
  tanh: { rows: (p) => p.g.tanh(p.x(6)) },
  slice: {
    "of columns": (p) => p.g.slice(p.x(9), 1, 2, 5),
    "of heads": (p) => p.g.slice(p.heads(3, 4), 1, 1, 2),
    "of a weight": (p) => p.g.linear(p.x(6), p.g.slice(p.w([9, 6], "bf16"), 0, 4, 5)),
  },
  transpose: {
    "of a matrix": (p) => p.g.linear(p.x(6), p.g.transpose(p.w([6, 9], "bf16"))),
    "of stacked matrices": (p) => p.g.linear(p.x(6), p.g.reshape(p.g.transpose(p.w([2, 6, 9], "f16")), [18, 6])),
  },
  concat: {
    "of columns": (p) => p.g.concat([p.x(3), p.x(5)], 1),
    "of heads": (p) => p.g.concat([p.heads(2, 4), p.heads(1, 4)], 1),
    "of weights": (p) => p.g.linear(p.x(6), p.g.concat([p.w([3, 6], "bf16"), p.w([4, 6], "bf16")], 0)),
    "of weights side by side": (p) => p.g.linear(p.x(7), p.g.concat([p.w([5, 3]), p.w([5, 4])], 1)),
    "of slices": (p) => p.g.linear(p.x(6), p.g.concat([p.w([3, 6]), p.g.slice(p.w([4, 6]), 0, 1, 2)], 0)),
  },
  reshape: {
    "into heads": (p) => p.heads(2, 6),
    "out of heads": (p) => p.g.reshape(p.heads(2, 6), [p.g.T, 12]),
    "of a weight": (p) => p.g.linear(p.x(6), p.g.reshape(p.w([2, 5, 6]), [10, 6])),
    "of sorted rows": (p) => p.g.reshape(p.g.dispatch(p.x(12), p.ids()), [{ ...p.g.T, times: 3 }, 4, 3]),
    "of sorted rows into tokens": (p) => p.g.reshape(p.g.dispatch(p.x(4), p.ids()), [p.g.T, 12]),
  },
  embedding: {
    f32: (p) => p.x(6),
    "bf16 by positions": (p) => p.g.embedding(p.g.input("positions"), p.g.slice(p.w([VOCAB, 6], "bf16"), 0, 2, VOCAB - 2)),
  },
  linear: {
    f32: (p) => p.g.linear(p.x(6), p.w([9, 6])),
    "bf16 of heads": (p) => p.g.linear(p.heads(2, 6), p.w([9, 6], "bf16")),
    f16: (p) => p.g.linear(p.x(6), p.w([9, 6], "f16")),
  },
  rms_norm: { heads: (p) => p.g.rmsNorm(p.heads(2, 6), p.w([6], "bf16"), 1e-3) },
  layer_norm: { rows: (p) => p.g.layerNorm(p.x(9), p.w([9]), p.w([9], "f16"), 1e-3) },
  softmax: { rows: (p) => p.g.softmax(p.x(9)) },
  group_limit: {
    "the best of four groups": (p) => p.g.max(p.g.groupLimit(p.x(12), 4, 2, 2), p.g.constant(-100)),
    "of equal groups the lower": (p) => p.g.max(p.g.groupLimit(p.equals(12), 4, 2, 2), p.g.constant(-100)),
  },
  top_k: { "of different values": (p) => p.g.topK(p.x(12), 4), "of equal values": (p) => p.g.topK(p.equals(12), 6) },
  gather_cols: { scores: (p) => p.g.gatherCols(p.x(8), p.ids()) },
  renormalize: { weights: (p) => p.g.renormalize(p.g.sigmoid(p.x(5)), 0.1) },
  dispatch: { f32: (p) => p.g.dispatch(p.x(6), p.ids()), bf16: (p) => p.g.dispatch(p.g.cast(p.x(6), "bf16"), p.ids()) },
  grouped_linear: {
    f32: (p) => sorted(p, (rows, ids) => p.g.groupedLinear(rows, p.w([8, 5, 6]), ids)),
    "of experts that are tensors of their own": (p) => {
      const matrices = Array.from({ length: 8 }, () => p.g.reshape(p.w([5, 6], "bf16"), [1, 5, 6]));
      return sorted(p, (rows, ids) => p.g.groupedLinear(rows, p.g.concat(matrices, 0), ids));
    },
    "of transposed experts": (p) => sorted(p, (rows, ids) => p.g.groupedLinear(rows, p.g.transpose(p.w([8, 6, 5], "f16")), ids)),
    "of experts in every second column": (p) => {
      const w = p.g.slice(p.g.reshape(p.w([8, 6, 10], "bf16"), [8, 6, 5, 2]), 3, 1, 1);
      return sorted(p, (rows, ids) => p.g.groupedLinear(rows, p.g.transpose(p.g.reshape(w, [8, 6, 5])), ids));
    },
    "of one expert a token": (p) => {
      const ids = p.g.topK(p.x(8), 1);
      return p.g.groupedLinear(p.g.dispatch(p.x(6), ids), p.w([8, 5, 6]), ids);
    },
  },
  expert_rows: { bf16: (p) => sorted(p, (rows, ids) => p.g.plus(rows, p.g.expertRows(p.w([8, 6], "bf16"), ids))) },
  combine: {
    "an expert layer": (p) => {
      const scores = p.g.softmax(p.x(8));
      const ids = p.g.topK(scores, 3);
      const rows = p.g.dispatch(p.x(6), ids);
      const inner = p.g.mul(p.g.silu(p.g.groupedLinear(rows, p.w([8, 7, 6]), ids)), p.g.groupedLinear(rows, p.w([8, 7, 6]), ids));
      return p.g.combine(p.g.groupedLinear(inner, p.w([8, 6, 7]), ids), p.g.gatherCols(scores, ids), ids);
    },
  },
  rope_angles: {
    "with a factor": ({ g }) => g.ropeAngles(g.input("positions"), [1, 0.3, 0.05], 1.1),
    "of long sequences": ({ g }) => g.ropeAngles(g.input("positions"), [1, 0.3], 1, { invFreq: [0.4, 0.1], beyond: 5 }),
  },
  rope: {
    half: (p) => p.rope("half", 6),
    "half of a part": (p) => p.rope("half", 10),
    interleaved: (p) => p.rope("interleaved", 6),
    "interleaved in a part": (p) => p.rope("interleaved", 10),
  },
  store_kv: { "rounded to bf16": (p) => p.attention(2, 2, null, { cache: "bf16" }) },
  paged_attention: {
    "of all before": (p) => p.attention(2, 2, null),
    "grouped heads and a window": (p) => p.attention(6, 2, 3),
    "a window of one": (p) => p.attention(2, 1, 1),
    sinks: (p) => p.attention(6, 3, null, { sinks: true }),
  },
  gather_rows: { "every token": (p) => p.g.gatherRows(p.x(6), p.g.input("sample_rows")) },
};

function sorted(p: Parts, build: (rows: Node, ids: Node) => Node): Node {
  const ids = p.ids();
  return build(p.g.dispatch(p.x(6), ids), ids);
}

const BATCHES: readonly Batch[] = [
  [[17]],
  [[3, 1, 4, 1, 5]],
  [
    [9, 2, 6, 5, 3, 5, 8, 9, 7],
    [39, 0, 38, 1, 37, 2, 36, 3, 35],
  ],
];

describe.each(Object.entries(cases))("%s in ONNX means what the interpreter says:", (op, builds) => {
  it.each(Object.entries(builds))("%s", async (_, build) => {
    const parts = new Parts();
    parts.g.setLogits(build(parts));
    expect(parts.g.liveNodes().map((n) => n.op)).toContain(op);
    await expectSame(parts.g, op);
  });
});

/**
 * Compares onnxruntime with the interpreter on batches of random rows, to within `tolerance` and what a few last bits of the weights
 * change: a random graph may norm what is nearly nothing, or round what stands between two values.
 */
async function expectSame(g: Graph, name: string, tolerance = 1e-6): Promise<void> {
  const values = randomWeights(g);
  const session = await openOnnx((await exported(g, name, arraySource(g, values))).file);
  for (const batch of BATCHES) {
    const meaning = (of: typeof values) => new Interpreter(g, of, 32).step(batchStep(batch, g.limits.blockSize)).logits;
    const expected = meaning(values);
    const moved = [1e-6, -1e-6].map((by) => relativeError(meaning(nudged(values, by)), expected));
    const allowed = Math.max(tolerance, 10 * Math.max(...moved));
    expectClose(await outputOf(session, batch), expected, allowed, `${name} of ${batch.length} × ${batch[0]!.length} tokens`);
  }
}

/** Every other weight a little larger, by its own size. */
const nudged =
  (values: (name: string) => Float32Array, by: number) =>
  (name: string): Float32Array =>
    values(name).map((v, i) => (i % 2 === 0 ? v * (1 + by) : v));

/** Matrices that keep values near one: beyond ±18 onnxruntime's sigmoid is no longer one, which a norm of the result would show. */
function randomWeights(g: Graph): (name: string) => Float32Array {
  const random = seededRandom(1);
  const values = new Map<string, Float32Array>();
  for (const node of g.liveNodes()) {
    if (node.op !== "weight") continue;
    const shape = node.type.shape as readonly number[];
    const size = shape.reduce((a, b) => a * b, 1);
    const scale = shape.length > 1 ? (shape.at(-1) as number) ** -0.5 : 1;
    values.set(
      node.attrs.name,
      Float32Array.from({ length: size }, () => scale * random.normal()),
    );
  }
  return (name) => values.get(name)!;
}

it("random decoders in ONNX mean what the interpreter says", async () => {
  await fc.assert(
    fc.asyncProperty(randomDense, (g) => {
      const isNarrow = (n: Node) => (n.op === "kv_cache" || n.op === "cast") && n.type.dtype !== "f32";
      return expectSame(g, "decoder", g.liveNodes().some(isNarrow) ? 2e-3 : 1e-5);
    }),
    { numRuns: 20 },
  );
});

describe("a graph that needs more than the sequence is refused:", () => {
  it.each<[string, Build, RegExp]>([
    [
      "an earlier step's cache",
      (p) => p.g.pagedAttention(p.heads(2, 8), p.g.kvCache(3, "f32", 2, 8), 1, null),
      /earlier steps left of layer 3/,
    ],
    ["sequence numbers", ({ g }) => g.input("seq_ids"), /computes with seq_ids/],
    ["other rows than the sampled ones", (p) => p.g.gatherRows(p.x(6), p.g.input("positions")), /gathered by input/],
  ])("%s", (_, build, message) => {
    const parts = new Parts();
    parts.g.setLogits(build(parts));
    expect(() => onnxModel(parts.g, { name: "x", version: "test", metadata: {} })).toThrow(message);
  });
});
