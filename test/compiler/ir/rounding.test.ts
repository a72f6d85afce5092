/** Rounding to e4m3, against its list of values. */
import { describe, expect, it } from "vitest";
import { roundFp8 } from "../../../compiler/ir/rounding.ts";

/** All values from 0 up: sign 0, exponent − 7, three bits of mantissa; 0x7f is NaN. */
const values = Array.from({ length: 127 }, (_, code) => {
  const [exponent, mantissa] = [code >> 3, code & 7];
  return exponent === 0 ? mantissa * 2 ** -9 : (1 + mantissa / 8) * 2 ** (exponent - 7);
});

describe("roundFp8", () => {
  it("keeps what e4m3 has, of both signs", () => {
    for (const value of values) expect([roundFp8(value), roundFp8(-value)]).toEqual([value, -value]);
  });

  it("takes the nearest of two neighbours, of equally near ones the even one", () => {
    values.slice(1).forEach((above, i) => {
      const below = values[i]!;
      const middle = (below + above) / 2;
      expect(roundFp8(middle)).toBe(i % 2 === 0 ? below : above);
      expect(roundFp8(middle * (1 - 1e-6))).toBe(below);
      expect(roundFp8(middle * (1 + 1e-6))).toBe(above);
    });
  });

  it("makes the largest of what is too large, and keeps NaN", () => {
    for (const large of [449, 1e30, Number.POSITIVE_INFINITY]) expect([roundFp8(large), roundFp8(-large)]).toEqual([448, -448]);
    expect(roundFp8(Number.NaN)).toBeNaN();
  });
});
