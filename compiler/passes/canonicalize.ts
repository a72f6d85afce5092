/**
 * One way to write each thing, so that later passes match one form: constants last, no view of a view.
 */
import { COMMUTATIVE, type Node } from "../ir/ops.ts";
import { a, any, op } from "../rewrite/pattern.ts";
import { type Rule, rule } from "../rewrite/rewrite.ts";
import type { Pass } from "./pass.ts";

const isConstantFirst = ({ op: name, operands: [first, second] }: Node): boolean =>
  COMMUTATIVE.has(name) && first?.op === "constant" && second?.op !== "constant";

/** c ∘ x = x ∘ c */
const constantLast = (says: string, name: "add" | "mul" | "min" | "max"): Rule =>
  rule(says, op(name, [any("x"), a("constant", "c")]), ({ x, c }, g, node) =>
    isConstantFirst(node) ? g.add(name, [x, c], {}) : undefined,
  );

export const canonicalizeRules: readonly Rule[] = [
  constantLast("a constant is added from the right", "add"),
  constantLast("a constant multiplies from the right", "mul"),
  constantLast("an upper bound stands on the right", "min"),
  constantLast("a lower bound stands on the right", "max"),
  // reshape(reshape(x)) = reshape(x)
  rule("a reshape of a reshape is one reshape", op("reshape", [op("reshape", [any("x")])], "outer"), ({ x, outer }, g) =>
    g.reshape(x, outer.attrs.shape),
  ),
  // x[a …][b …] = x[a + b …]
  rule(
    "a slice of a slice of the same axis is one slice",
    op("slice", [op("slice", [any("x")], "inner")], "outer"),
    ({ x, inner, outer }, g) =>
      inner.attrs.axis === outer.attrs.axis
        ? g.slice(x, outer.attrs.axis, inner.attrs.start + outer.attrs.start, outer.attrs.size)
        : undefined,
  ),
  // [[x, y], z] = [x, y, z]
  rule("a concat of concats along one axis is one concat", a("concat", "outer"), ({ outer }, g) => {
    const { axis } = outer.attrs;
    const isNested = (n: Node) => n.op === "concat" && n.attrs.axis === axis;
    if (!outer.operands.some(isNested)) return undefined;
    return g.concat(
      outer.operands.flatMap((n) => (isNested(n) ? n.operands : [n])),
      axis,
    );
  }),
];

export const canonicalize: Pass = {
  name: "canonicalize",
  rules: canonicalizeRules,
  ensures: [
    {
      says: "a constant is the second operand of what is commutative",
      counterexample: (graph) => graph.liveNodes().find(isConstantFirst),
    },
  ],
};
