/**
 * Computes what is known at compile time and drops what changes nothing.
 *
 * Expressions over weights alone stay in the graph: the packer evaluates them when it writes weights.bin.
 */
import { sameShape } from "../ir/infer.ts";
import { scalarMeaning } from "../ir/meaning.ts";
import { a, any, op } from "../rewrite/pattern.ts";
import { type Rule, rule } from "../rewrite/rewrite.ts";
import type { Pass } from "./pass.ts";

/** What becomes of constants, by op. */
const unary = ["sigmoid", "silu", "gelu_tanh", "tanh"] as const;
const binary = {
  add: ["a sum", (p: number, q: number) => p + q],
  mul: ["a product", (p: number, q: number) => p * q],
  min: ["a minimum", Math.min],
  max: ["a maximum", Math.max],
} as const;

export const foldRules: readonly Rule[] = [
  // reshape(x) = x
  rule("a reshape to the shape a value already has is dropped", op("reshape", [any("x")], "node"), ({ x, node }) =>
    sameShape(x.type.shape, node.type.shape) ? x : undefined,
  ),
  // x[0 … n) = x
  rule("a slice of everything is dropped", op("slice", [any("x")], "node"), ({ x, node }) =>
    sameShape(x.type.shape, node.type.shape) ? x : undefined,
  ),
  // cast(x : d, d) = x
  rule("a cast to the dtype a value already has is dropped", op("cast", [any("x")], "node"), ({ x, node }) =>
    x.type.dtype === node.type.dtype ? x : undefined,
  ),
  // cast(cast(x : d, f32), d) = x
  rule("widening and narrowing back is dropped", op("cast", [op("cast", [any("x")], "wide")], "narrow"), ({ x, wide, narrow }) =>
    wide.type.dtype === "f32" && narrow.type.dtype === x.type.dtype ? x : undefined,
  ),
  // [x] = x
  rule("a concat of one is dropped", op("concat", [any("x")]), ({ x }) => x),
  // [x, y, z][range of y] = y[…]
  rule(
    "a slice that lies in one part of a concat is a slice of that part",
    op("slice", [a("concat", "whole")], "part"),
    ({ whole, part }, g) => {
      const { axis, start, size } = part.attrs;
      if (whole.attrs.axis !== axis) return undefined;
      let at = 0;
      for (const operand of whole.operands) {
        const extent = operand.type.shape[axis] as number;
        if (start >= at && start + size <= at + extent) return g.slice(operand, axis, start - at, size);
        at += extent;
      }
      return undefined;
    },
  ),
  // x · 1 = x
  rule("multiplying by one is dropped", op("mul", [any("x"), a("constant", "one")]), ({ x, one }) =>
    one.attrs.value === 1 && x.type.dtype === "f32" ? x : undefined,
  ),
  // x + 0 = x, up to the sign of zero
  rule("adding zero is dropped", op("add", [any("x"), a("constant", "zero")]), ({ x, zero }) =>
    zero.attrs.value === 0 && x.type.dtype === "f32" ? x : undefined,
  ),
  ...(["add", "mul", "min", "max"] as const).map((name) => {
    const [what, f] = binary[name];
    return rule(`${what} of constants is a constant`, op(name, [a("constant", "p"), a("constant", "q")]), ({ p, q }, g) =>
      g.constant(Math.fround(f(Math.fround(p.attrs.value), Math.fround(q.attrs.value)))),
    );
  }),
  ...unary.map((name) =>
    rule(`${name} of a constant is a constant`, op(name, [a("constant", "c")]), ({ c }, g) =>
      g.constant(Math.fround(scalarMeaning[name](Math.fround(c.attrs.value)))),
    ),
  ),
];

export const fold: Pass = { name: "fold", rules: foldRules };
