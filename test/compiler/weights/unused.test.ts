import { expect, it } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import { planWeights } from "../../../compiler/weights/layout.ts";
import { RandomWeights } from "../../../compiler/weights/random.ts";
import { weightRows } from "../../../compiler/weights/rows.ts";
import type { WeightSource } from "../../../compiler/weights/source.ts";
import { unusedTensors } from "../../../compiler/weights/unused.ts";

const shapes: Record<string, readonly number[]> = {
  "model.embed_tokens.weight": [3000, 1000],
  "model.layers.0.q_proj.weight": [4, 4],
  "model.layers.0.self_attn.rotary_emb.inv_freq": [8],
  "model.layers.1.eh_proj.weight": [4, 8],
  "model.layers.9.q_proj.weight": [2, 2],
  "model.layers.10.q_proj.weight": [2, 2],
  "lm_head.weight": [3000, 1000],
};
const random = new RandomWeights(1, "bf16", new Map(Object.entries(shapes)));

/** A checkpoint whose head is its embedding again, but for `differs` elements at its end. */
const withHead = (differs: number): WeightSource => ({
  list: () => random.list(),
  find: (name) => random.find(name),
  async read(name, begin, into) {
    await random.read(name === "lm_head.weight" ? "model.embed_tokens.weight" : name, begin, into);
    if (name === "lm_head.weight" && begin + into.length / 2 > 3_000_000 - differs) into.fill(1, into.length - 2 * differs);
  },
});

const g = new Graph({ maxModelLen: 1, maxNumSeqs: 1, maxNumBatchedTokens: 1, blockSize: 1 });
const plan = planWeights(
  ["model.embed_tokens.weight", "model.layers.0.q_proj.weight"].map((name) => {
    const rows = weightRows(g.weight(name, { dtype: "bf16", shape: shapes[name]! }));
    return { name, rows, dtype: "bf16", layout: "rows", ways: 1, readShare: 1 };
  }),
);
const prefixes = [{ prefix: "model.layers.1.", why: "layer 1 predicts further tokens" }];

it("tensors that nothing reads are listed by the reasons that are known, the unknown one first", async () => {
  expect(await unusedTensors(withHead(0), plan, { prefixes, tieWordEmbeddings: true })).toEqual([
    { names: ["model.layers.{9..10}.q_proj.weight"], count: 2, bytes: 16, why: null },
    {
      names: ["lm_head.weight"],
      count: 1,
      bytes: 6_000_000,
      why: "equal to model.embed_tokens.weight, which config.json ties it to",
    },
    {
      names: ["model.layers.0.self_attn.rotary_emb.inv_freq"],
      count: 1,
      bytes: 16,
      why: "frequencies are computed from config.json",
    },
    { names: ["model.layers.1.eh_proj.weight"], count: 1, bytes: 64, why: "layer 1 predicts further tokens" },
  ]);
});

it("a tied head with other values than the embedding is said to have them", async () => {
  const [, head] = await unusedTensors(withHead(1), plan, { prefixes, tieWordEmbeddings: true });
  expect(head!.why).toBe("config.json ties the head to the embedding, though this is another tensor");
  const [untied] = await unusedTensors(withHead(0), plan, { prefixes, tieWordEmbeddings: false });
  expect(untied).toMatchObject({ names: ["lm_head.weight", "model.layers.{9..10}.q_proj.weight"], why: null });
});
