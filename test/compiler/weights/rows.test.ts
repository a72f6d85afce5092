import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Graph } from "../../../compiler/ir/graph.ts";
import type { Node } from "../../../compiler/ir/ops.ts";
import { isWeightExpression } from "../../../compiler/kernels/weight-expression.ts";
import { rowLength, type WeightRows, WeightRowsError, weightRows } from "../../../compiler/weights/rows.ts";
import { elementsOf } from "../../../compiler/weights/source.ts";
import { expressionValue } from "../../support/weight-values.ts";

const graph = () => new Graph({ maxModelLen: 1, maxNumSeqs: 1, maxNumBatchedTokens: 1, blockSize: 1 });
const g = graph();
const weight = (name: string, ...shape: number[]) => g.weight(name, { dtype: "f32", shape });

/** Elements of a tensor by the definition of its segments. */
function elementsOfRows({ shape, segments }: WeightRows, weights: (name: string) => Float32Array): Float32Array {
  const k = rowLength(shape);
  const values: number[] = [];
  for (const s of segments) {
    for (let r = 0; r < s.rows; r++) {
      for (let c = 0; c < k; c++) {
        const value = weights(s.source.name)[s.offset + r * s.rowStride + c * s.elementStride];
        expect(value).toBeDefined();
        values.push(s.plus === null ? value! : Math.fround(value! + s.plus));
      }
    }
  }
  return Float32Array.from(values);
}

/** Different values at every element of every tensor. */
function numbered(node: Node): (name: string) => Float32Array {
  const values = new Map<string, Float32Array>();
  let next = 0;
  const visit = (n: Node): void => {
    if (n.op === "weight" && !values.has(n.attrs.name))
      values.set(
        n.attrs.name,
        Float32Array.from({ length: elementsOf(n.type.shape as number[]) }, () => ++next),
      );
    n.operands.forEach(visit);
  };
  visit(node);
  return (name) => values.get(name)!;
}

function expectMeaning(node: Node): void {
  const weights = numbered(node);
  const rows = weightRows(node);
  expect(rows.shape).toEqual(node.type.shape);
  expect(elementsOfRows(rows, weights)).toEqual(expressionValue(node, weights));
}

/** Ways to make another expression of one; a choice that does not fit leaves it as it is. */
type Step = (node: Node, g: Graph, fresh: (shape: readonly number[]) => Node) => Node;

const pick = (choices: number, n: number): number => n % Math.max(choices, 1);
const shapeOf = (node: Node) => node.type.shape as readonly number[];

const steps: fc.Arbitrary<Step> = fc.oneof(
  fc.tuple(fc.nat(), fc.nat(), fc.nat()).map(
    ([a, b, c]): Step =>
      (node, g) => {
        const axis = pick(shapeOf(node).length, a);
        const extent = shapeOf(node)[axis]!;
        const start = pick(extent, b);
        return g.slice(node, axis, start, 1 + pick(extent - start, c));
      },
  ),
  fc.constant<Step>((node, g) => (shapeOf(node).length < 2 ? node : g.transpose(node))),
  // An axis split in two, or two joined.
  fc.tuple(fc.nat(), fc.nat()).map(
    ([a, b]): Step =>
      (node, g) => {
        const shape = shapeOf(node);
        const axis = pick(shape.length, a);
        const divisors = Array.from({ length: shape[axis]! }, (_, i) => i + 1).filter((d) => shape[axis]! % d === 0);
        const divisor = divisors[pick(divisors.length, b)]!;
        return g.reshape(node, [...shape.slice(0, axis), divisor, shape[axis]! / divisor, ...shape.slice(axis + 1)]);
      },
  ),
  fc.nat().map(
    (a): Step =>
      (node, g) => {
        const shape = shapeOf(node);
        if (shape.length < 2) return node;
        const axis = pick(shape.length - 1, a);
        return g.reshape(node, [...shape.slice(0, axis), shape[axis]! * shape[axis + 1]!, ...shape.slice(axis + 2)]);
      },
  ),
  fc.tuple(fc.nat(), fc.integer({ min: 1, max: 3 }), fc.boolean()).map(
    ([a, extent, self]): Step =>
      (node, g, fresh) => {
        const axis = shapeOf(node).length < 2 ? 0 : pick(shapeOf(node).length - 1, a);
        return g.concat([node, fresh(shapeOf(node).with(axis, extent)), ...(self ? [node] : [])], axis);
      },
  ),
  fc.constantFrom(1, -0.5).map(
    (c): Step =>
      (node, g) =>
        g.plus(node, g.constant(c)),
  ),
);

const expressions = fc
  .tuple(fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 3 }), fc.array(steps, { maxLength: 6 }))
  .map(([shape, made]) => {
    const g = graph();
    let count = 0;
    const fresh = (shape: readonly number[]) => g.weight(`w${count++}`, { dtype: "f32", shape });
    return made.reduce<Node>((node, step) => (elementsOf(shapeOf(node)) > 2000 ? node : step(node, g, fresh)), fresh(shape));
  });

describe("rows of an expression over checkpoint tensors", () => {
  it("are its value, or it is declined with a reason", () => {
    let [folded, declined] = [0, 0];
    fc.assert(
      fc.property(expressions, (node) => {
        expect(isWeightExpression(node)).toBe(true);
        try {
          weightRows(node);
        } catch (error) {
          expect(error).toBeInstanceOf(WeightRowsError);
          expect((error as Error).message).toMatch(/apart in the checkpoint|two constants/);
          declined++;
          return;
        }
        folded++;
        expectMeaning(node);
      }),
      { numRuns: 3000 },
    );
    expect(folded).toBeGreaterThan(2 * declined);
  });

  it("of all experts, gate above up, are one segment each", () => {
    const [E, I, K] = [128, 6, 4];
    const stack = (part: string) =>
      g.concat(
        Array.from({ length: E }, (_, e) => g.reshape(weight(`${e}.${part}`, I, K), [1, I, K])),
        0,
      );
    const node = g.concat([stack("gate"), stack("up")], 1);
    expectMeaning(node);
    const { shape, segments } = weightRows(node);
    expect(shape).toEqual([E, 2 * I, K]);
    expect(segments.map((s) => [s.source.name, s.rows])).toEqual(
      Array.from({ length: E }, (_, e) => [
        [`${e}.gate`, I],
        [`${e}.up`, I],
      ]).flat(),
    );
  });

  it("of interleaved columns of transposed experts are one segment an expert, their biases one in all", () => {
    const [E, K, I] = [3, 5, 4];
    const pairs = g.reshape(weight("gate_up", E, K, 2 * I), [E, K, I, 2]);
    const gate = g.transpose(g.reshape(g.slice(pairs, 3, 0, 1), [E, K, I]));
    expectMeaning(gate);
    expect(weightRows(gate).segments.map(({ source, plus, ...s }) => s)).toEqual(
      [0, 1, 2].map((e) => ({ offset: e * K * 2 * I, rows: I, rowStride: 2, elementStride: 2 * I })),
    );
    const bias = g.reshape(g.slice(g.reshape(weight("bias", E, 2 * I), [E, I, 2]), 2, 1, 1), [E, I]);
    expectMeaning(bias);
    expect(weightRows(bias).segments).toHaveLength(1);
  });

  it("of a table without its first rows, of a gain around one, of joined vectors, of columns as a vector", () => {
    expectMeaning(g.slice(weight("positions", 20, 3), 0, 2, 18));
    expectMeaning(g.plus(weight("gain", 7), g.constant(1)));
    expectMeaning(g.plus(g.constant(0.1), weight("gain", 7)));
    expectMeaning(g.concat([weight("q", 4), weight("k", 2), weight("v", 2)], 0));
    expectMeaning(g.reshape(g.slice(weight("a", 4, 6), 1, 0, 3), [12]));
  });

  it("cut from one tensor and joined again in order are one segment", () => {
    const w = weight("w", 12, 4);
    expect(weightRows(g.concat([g.slice(w, 0, 2, 5), g.slice(w, 0, 7, 3)], 0)).segments).toHaveLength(1);
  });

  it.each<[string, Node, RegExp]>([
    [
      "joined columns",
      g.concat([weight("a", 4, 2), weight("b", 4, 3)], 1),
      /\(4, 5\) is joined along the last axis; only rows of the checkpoint are joined/,
    ],
    ["a transposed join", g.transpose(g.concat([weight("a", 4, 2), weight("b", 4, 2)], 0)), /lie apart in the checkpoint/],
    ["rows made of distant rows", g.reshape(g.slice(weight("a", 4, 6), 1, 0, 3), [2, 6]), /rows of 6 elements are put together/],
    ["a product", g.mul(weight("a", 4), g.constant(2)), /mul of checkpoint tensors alone is not folded/],
    ["a sum of tensors", g.plus(weight("a", 4), weight("b", 4)), /two checkpoint tensors are added; only a constant is/],
    ["a constant on bf16", g.plus(g.weight("n", { dtype: "bf16", shape: [4] }), g.constant(1)), /declare it as f32/],
    ["two constants", g.plus(g.plus(weight("a", 4), g.constant(1)), g.constant(2)), /add their sum/],
  ])("are declined for %s", (_, node, why) => {
    expect(() => weightRows(node)).toThrow(why);
  });
});
