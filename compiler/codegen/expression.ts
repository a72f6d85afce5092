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

/** How a target spells f32 arithmetic over its values: one lane, or sixteen. */
export interface ScalarDialect {
  readonly constant: (value: number) => string;
  readonly lesser: string;
  readonly greater: string;
}

const lanes: ScalarDialect = { constant: (value) => `splat(${floatLiteral(value)})`, lesser: "minimum", greater: "maximum" };

/** Expression over f32x16 locals: `acc` (or `acc0`, `acc1`) and `operand0`, `operand1`, … */
export const laneText = (expr: Expr, ways: number): string => scalarText(expr, ways, lanes);

/** Expression over locals of those names, in a dialect's spelling. */
export function scalarText(expr: Expr, ways: number, dialect: ScalarDialect): string {
  const text = (e: Expr): string => {
    switch (e.kind) {
      case "acc":
        return ways === 1 ? "acc" : `acc${e.way}`;
      case "operand":
        return `operand${e.index}`;
      case "constant":
        return dialect.constant(e.value);
      case "unary":
        return `${e.fn}(${text(e.x)})`;
      case "binary": {
        if (e.fn === "min" || e.fn === "max")
          return `${e.fn === "min" ? dialect.lesser : dialect.greater}(${text(e.a)}, ${text(e.b)})`;
        return `${left(e.a, e.fn)} ${e.fn === "add" ? "+" : "*"} ${right(e.b, e.fn)}`;
      }
    }
  };
  // A left operand needs parentheses only where it binds less tightly; a right one keeps them, because f32 sums and products are not
  // associative.
  const left = (e: Expr, fn: "add" | "mul") => (isSum(e) && fn === "mul" ? `(${text(e)})` : text(e));
  const right = (e: Expr, fn: "add" | "mul") => (isSum(e) || (isProduct(e) && fn === "mul") ? `(${text(e)})` : text(e));
  return text(expr);
}

const isSum = (e: Expr): boolean => e.kind === "binary" && e.fn === "add";
const isProduct = (e: Expr): boolean => e.kind === "binary" && e.fn === "mul";

/** The same for people: `silu(acc0) · acc1`. */
export const formulaText = (expr: Expr, ways: number): string =>
  laneText(expr, ways)
    .replaceAll(" * ", " · ")
    .replaceAll(/splat\(([^)]*?)f?\)/g, "$1");

/** f32 literals, eight a line. */
export function literalLines(values: readonly number[]): string[] {
  const literals = values.map(floatLiteral);
  return Array.from({ length: Math.ceil(literals.length / 8) }, (_, i) => `${literals.slice(8 * i, 8 * i + 8).join(", ")},`);
}
