import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { floatLiteral, formulaText, laneText } from "../../../compiler/codegen/expression.ts";
import type { Expr } from "../../../compiler/kernels/spec.ts";
import { acc, add, mul, operand, silu, siluMul } from "../../support/kernel-specs.ts";

describe("float literals", () => {
  it("read back as the very f32", () => {
    fc.assert(
      fc.property(fc.float({ noNaN: true, noDefaultInfinity: true }), (x) => {
        const text = floatLiteral(x);
        expect(text).toMatch(/^-?\d+(\.\d+)?(e[+-]?\d+)?f$/);
        expect(Math.fround(Number(text.slice(0, -1)))).toBe(Math.fround(x));
      }),
    );
  });

  it("are short, and always of type float", () => {
    expect([1, 0.1, 1e-6, 1e30, -2.5].map(floatLiteral)).toEqual(["1.0f", "0.1f", "0.000001f", "1e+30f", "-2.5f"]);
  });
});

describe("expressions", () => {
  it("name accumulators and operands, and keep the order of sums and products", () => {
    expect(laneText(siluMul, 2)).toBe("silu(acc0) * acc1");
    expect(laneText(add(operand(0), add(acc, operand(1))), 1)).toBe("operand0 + (acc + operand1)");
    expect(laneText(add(add(operand(0), acc), operand(1)), 1)).toBe("operand0 + acc + operand1");
    expect(laneText(mul(add(acc, operand(0)), silu(acc)), 1)).toBe("(acc + operand0) * silu(acc)");
    expect(laneText(add(acc, mul(acc, { kind: "constant", value: 3 })), 1)).toBe("acc + acc * splat(3.0f)");
    expect(laneText(mul(acc, mul(acc, acc)), 1)).toBe("acc * (acc * acc)");
    const least = (a: Expr, b: Expr): Expr => ({ kind: "binary", fn: "min", a, b });
    expect(laneText(mul(acc, least(add(acc, acc), { kind: "constant", value: 7 })), 1)).toBe(
      "acc * minimum(acc + acc, splat(7.0f))",
    );
  });

  it("read as mathematics in comments", () => {
    expect(formulaText(mul(silu(acc), { kind: "constant", value: 0.5 }), 1)).toBe("silu(acc) · 0.5");
  });
});
