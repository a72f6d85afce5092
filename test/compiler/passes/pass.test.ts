import { describe, expect, it } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import type { Claim } from "../../../compiler/ir/verify.ts";
import { canonicalize } from "../../../compiler/passes/canonicalize.ts";
import { fold } from "../../../compiler/passes/fold.ts";
import { runPasses } from "../../../compiler/passes/pass.ts";

function smallModel(): Graph {
  const g = new Graph({ maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16, blockSize: 16 });
  const x = g.scope("embed_tokens", () => g.embedding(g.input("token_ids"), g.weight("table", { dtype: "f32", shape: [8, 4] })));
  const y = g.scope("act", () => g.mul(g.constant(1), g.silu(x)));
  g.setLogits(g.scope("pick", () => g.gatherRows(y, g.input("sample_rows"))));
  return g;
}

const noSilu: Claim = { says: "there is no silu", counterexample: (graph) => graph.liveNodes().find((n) => n.op === "silu") };

describe("runPasses", () => {
  it("dumps numbered text before the first pass and after each", () => {
    const dumps: [string, string][] = [];
    runPasses(smallModel(), [canonicalize, fold], {
      dump: (name, text) => dumps.push([name, text.replaceAll(/\(passes\S+\)/g, "(…)")]),
    });
    expect(dumps.map(([name]) => name)).toEqual(["00-model", "01-canonicalize", "02-fold"]);
    expect(dumps[2]![1]).toMatchInlineSnapshot(`
      "%0 = input token_ids : i32(T)  # embed_tokens (…)
      %1 = weight table : f32(8, 4)  # embed_tokens (…)
      %2 = embedding %0 %1 : f32(T, 4)  # embed_tokens (…)
      %3 = silu %2 : f32(T, 4)  # act (…)
      %4 = input sample_rows : i32(S)  # pick (…)
      %5 = gather_rows %3 %4 : f32(S, 4)  # pick (…)
      logits %5
      "
    `);
  });

  it("records which rule of which pass fired", () => {
    const { firings } = runPasses(smallModel(), [canonicalize, fold]);
    expect(firings.map((f) => `${f.pass}: ${f.rule}`)).toEqual([
      "canonicalize: a constant multiplies from the right",
      "fold: multiplying by one is dropped",
    ]);
  });

  it("says which claim does not hold before or after which pass, and where", () => {
    expect(() => runPasses(smallModel(), [{ name: "needs", rules: [], requires: [noSilu] }])).toThrow(
      /^internal: before needs: "there is no silu" does not hold of silu at act \(passes\/pass\.test\.ts:\d+\)$/,
    );
    expect(() => runPasses(smallModel(), [{ name: "promises", rules: [], ensures: [noSilu] }])).toThrow(
      /after promises: "there is no silu"/,
    );
  });

  it("verifies what a pass leaves behind", () => {
    const broken = {
      name: "breaks",
      run: (graph: Graph) => {
        const into = new Graph(graph.limits);
        into.setLogits(into.constant(1));
        return into;
      },
    };
    expect(() => runPasses(smallModel(), [broken])).toThrow(/the logits are f32\(\); expected f32\(S, vocab\)/);
  });
});
