import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import { interpret } from "../../../compiler/ir/interpret.ts";
import type { Node } from "../../../compiler/ir/ops.ts";
import { oneSequenceStep } from "../../../compiler/ir/step.ts";
import { verifyGraph } from "../../../compiler/ir/verify.ts";
import { canonicalize } from "../../../compiler/passes/canonicalize.ts";
import { fold } from "../../../compiler/passes/fold.ts";
import { fuseProjections } from "../../../compiler/passes/fuse-projections.ts";
import { legalize } from "../../../compiler/passes/legalize.ts";
import { type Pass, runPasses } from "../../../compiler/passes/pass.ts";

interface Choice {
  readonly op: number;
  readonly x: number;
  readonly y: number;
  readonly size: number;
}

const choice = fc.record({ op: fc.nat(17), x: fc.nat(), y: fc.nat(), size: fc.nat() });

/** A graph over a pool of (T, n) values, each choice adding one; every value that nothing else reads is tapped. */
function randomGraph(choices: readonly Choice[]): Graph {
  const g = new Graph({ maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16, blockSize: 16 });
  const table = g.weight("table", { dtype: "f32", shape: [16, 6] });
  const pool: Node[] = [g.embedding(g.input("token_ids"), table)];
  let weights = 0;
  const weight = (...shape: number[]) => g.weight(`w${weights++}`, { dtype: "f32", shape });
  const constants = [0, 1, -1.5, 0.1].map((v) => g.constant(v));
  for (const { op, x: xi, y: yi, size } of choices) {
    const x = pool[xi % pool.length]!;
    const y = pool[yi % pool.length]!;
    const width = x.type.shape[1] as number;
    const constant = constants[yi % 4]!;
    const same = y.type.shape[1] === width ? y : x;
    const build: (() => Node)[] = [
      () => g.silu(x),
      () => g.plus(x, same),
      () => g.mul(same, g.silu(x)),
      () => (size % 2 ? g.plus(constant, x) : g.mul(x, constant)),
      () => g.mul(x, g.plus(constant, g.mul(constants[size % 4]!, g.silu(constant)))),
      () => g.slice(x, 1, size % width, 1 + (yi % (width - (size % width)))),
      () => (width * 2 > 40 ? x : g.concat(x.type.dtype === y.type.dtype && size % 2 ? [x, y] : [x], 1)),
      () => g.reshape(g.reshape(x, [g.T, 1, width]), [g.T, width]),
      () => g.cast(x, (["f32", "bf16", "f16"] as const)[size % 3]!),
      () => g.linear(x, weight(1 + (size % 5), width)),
      () => g.plus(g.linear(x, weight(1 + (size % 5), width)), weight(1 + (size % 5))),
      () => {
        const [gate, up] = [g.linear(x, weight(4, width)), g.linear(x, weight(4, width))];
        return size % 2 ? g.mul(g.silu(up), gate) : g.mul(g.plus(up, weight(4)), g.silu(gate));
      },
      () => [g.sigmoid(x), g.tanh(x), g.geluTanh(x)][size % 3]!,
      () => (size % 2 ? g.min(constant, x) : g.max(x, same)),
      () => g.plus(x, g.max(constants[size % 4]!, g.tanh(g.min(g.sigmoid(constant), g.geluTanh(constant))))),
      () => g.mul(x, g.sigmoid(g.linear(y, weight(1, y.type.shape[1] as number)))),
      () => g.layerNorm(g.rmsNorm(x, weight(width), 1e-5), weight(width), weight(width), 1e-5),
      () => {
        const [gate, up] = [g.linear(x, weight(4, width)), g.linear(x, weight(4, width))];
        const bounded = g.min(gate, g.constant(0.5));
        const glu = g.mul(bounded, g.sigmoid(g.mul(bounded, g.constant(1.702))));
        return g.mul(glu, g.plus(g.max(g.min(up, size % 2 ? g.constant(0.5) : gate), g.constant(-0.5)), g.constant(1)));
      },
    ];
    pool.push(build[op % build.length]!());
  }
  const used = new Set(pool.flatMap((n) => n.operands as readonly Node[]));
  [...new Set(pool)]
    .filter((n) => !used.has(n))
    .forEach((n, i) => {
      g.tap(`t${i}`, n);
    });
  const last = g.gatherRows(pool.at(-1)!, g.input("sample_rows"));
  g.setLogits(g.linear(last, weight(3, last.type.shape[1] as number)));
  return g;
}

/** Values that depend on the name and place alone. */
function weightsOf(g: Graph) {
  const sizes = new Map<string, number>();
  for (const node of g.liveNodes()) {
    if (node.op === "weight")
      sizes.set(
        node.attrs.name,
        (node.type.shape as number[]).reduce((a, b) => a * b, 1),
      );
  }
  return (name: string) => {
    const seed = [...name].reduce((h, c) => Math.imul(h ^ c.charCodeAt(0), 16777619), 2166136261) >>> 0;
    return Float32Array.from({ length: sizes.get(name)! }, (_, i) => Math.sin(seed + 1.7 * i));
  };
}

const step = oneSequenceStep([3, 1, 4, 1, 5], 0, 16, "last");

function evaluate(g: Graph, weights: (name: string) => Float32Array) {
  const { logits, taps } = interpret(g, {
    step,
    weights,
    kv: () => ({ blockSize: 16, k: new Float32Array(), v: new Float32Array() }),
  });
  // The sign of a zero may change, nothing else.
  return [logits, ...taps.values()].map((a) => Array.from(a, (v) => (v === 0 ? 0 : v)));
}

describe("interpret(graph) equals interpret(rewrite(graph))", () => {
  const f32Inputs = legalize({ linearInput: () => "f32" });
  it.each<[string, readonly Pass[]]>([
    ["canonicalize", [canonicalize]],
    ["fold", [fold]],
    ["fuse-projections", [fuseProjections]],
    ["all passes", [canonicalize, fuseProjections, fold, f32Inputs]],
  ])("for %s, bit for bit", (_, passes) => {
    let firings = 0;
    fc.assert(
      fc.property(fc.array(choice, { minLength: 1, maxLength: 24 }), (choices) => {
        const g = randomGraph(choices);
        verifyGraph(g);
        const result = runPasses(g, passes);
        firings += result.firings.length;
        const weights = weightsOf(g);
        expect(evaluate(result.graph, weights)).toEqual(evaluate(g, weights));
      }),
      { numRuns: 200 },
    );
    expect(firings).toBeGreaterThan(50);
  });
});
