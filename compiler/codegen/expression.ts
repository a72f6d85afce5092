/**
 * Scalar expressions as text: over sixteen lanes for kernels, in mathematical notation for the comment above them.
 */
import type { Expr } from "../kernels/spec.ts";

/** A C++ float literal that reads back as exactly the f32 nearest to `value`. */
export function floatLiteral(value: number): string {
  const x = Math.fround(value);
  if (Number.isNaN(x)) return "float_of(0x7fc00000)";
  if (!Number.isFinite(x)) return x > 0 ? "float_of(0x7f800000)" : "float_of(0xff800000)";
  if (Object.is(x, -0)) return "-0.0f";
  for (let digits = 1; digits <= 9; digits++) {
    const text = x.toPrecision(digits);
    if (Math.fround(Number(text)) === x) return `${/[.e]/.test(text) ? text : `${text}.0`}f`;
  }
  return `${x.toPrecision(9)}f`;
}

/** Expression over f32x16 locals: `acc` (or `acc0`, `acc1`) and `operand0`, `operand1`, … */
export function laneText(expr: Expr, ways: number): string {
  switch (expr.kind) {
    case "acc":
      return ways === 1 ? "acc" : `acc${expr.way}`;
    case "operand":
      return `operand${expr.index}`;
    case "constant":
      return `splat(${floatLiteral(expr.value)})`;
    case "unary":
      return `${expr.fn}(${laneText(expr.x, ways)})`;
    case "binary": {
      const { fn } = expr;
      if (fn === "min" || fn === "max") return `${fn}imum(${laneText(expr.a, ways)}, ${laneText(expr.b, ways)})`;
      return `${factor(expr.a, fn, ways)} ${fn === "add" ? "+" : "*"} ${rightFactor(expr.b, fn, ways)}`;
    }
  }
}

const isSum = (e: Expr): boolean => e.kind === "binary" && e.fn === "add";
const isProduct = (e: Expr): boolean => e.kind === "binary" && e.fn === "mul";

/** A left operand needs parentheses only where it binds less tightly. */
const factor = (e: Expr, fn: "add" | "mul", ways: number): string =>
  isSum(e) && fn === "mul" ? `(${laneText(e, ways)})` : laneText(e, ways);

/** A right operand keeps its parentheses, because f32 sums and products are not associative. */
const rightFactor = (e: Expr, fn: "add" | "mul", ways: number): string =>
  isSum(e) || (isProduct(e) && fn === "mul") ? `(${laneText(e, ways)})` : laneText(e, ways);

/** The same for people: `silu(acc0) · acc1`. */
export const formulaText = (expr: Expr, ways: number): string =>
  laneText(expr, ways)
    .replaceAll(" * ", " · ")
    .replaceAll(/splat\(([^)]*?)f?\)/g, "$1");
