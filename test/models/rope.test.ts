import { describe, expect, it } from "vitest";
import { type RopeScaling, readRope, ropeFrequencies } from "../../models/rope.ts";

const frequencies = (scaling: RopeScaling, dim = 8) => ropeFrequencies({ theta: 10000, dim, style: "half", scaling });

describe("rotary frequencies", () => {
  it("fall geometrically from 1 by default", () => {
    const { invFreq, attentionFactor } = frequencies({ type: "default" });
    [1, 0.1, 0.01, 0.001].forEach((f, i) => {
      expect(invFreq[i]).toBeCloseTo(f, 7);
    });
    expect(attentionFactor).toBe(1);
  });

  it("are f32 values", () => {
    const yarn = {
      type: "yarn",
      factor: 4,
      originalMaxPositionEmbeddings: 128,
      attentionFactor: 1.1,
      betaFast: 32,
      betaSlow: 1,
      truncate: true,
    } as const;
    for (const scaling of [{ type: "default" }, { type: "linear", factor: 3 }, yarn] as const) {
      const { invFreq } = frequencies(scaling, 64);
      expect(invFreq.map(Math.fround)).toEqual(invFreq);
    }
  });

  it("are divided by the factor of linear scaling", () => {
    const scaled = frequencies({ type: "linear", factor: 4 }).invFreq;
    expect(scaled).toEqual(frequencies({ type: "default" }).invFreq.map((f) => f / 4));
  });

  it("of Llama 3 keep short wavelengths, divide long ones, and lie between in the middle", () => {
    const plain = frequencies({ type: "default" }, 32).invFreq;
    const scaled = frequencies(
      { type: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositionEmbeddings: 128 },
      32,
    ).invFreq;
    plain.forEach((f, i) => {
      const wavelength = (2 * Math.PI) / f;
      if (wavelength < 32) expect(scaled[i]).toBe(f);
      else if (wavelength > 128) expect(scaled[i]).toBe(f / 8);
      else expect(scaled[i]! < f && scaled[i]! > f / 8).toBe(true);
    });
  });

  it("of YaRN keep fast pairs, interpolate slow ones, and scale attention by 0.1 ln(factor) + 1", () => {
    const json = {
      max_position_embeddings: 32768,
      rope_theta: 1000000,
      rope_scaling: { type: "yarn", factor: 4, original_max_position_embeddings: 32768 },
    };
    const rope = readRope(json, 128, "half");
    const { invFreq, attentionFactor } = ropeFrequencies(rope);
    const plain = ropeFrequencies({ ...rope, scaling: { type: "default" } }).invFreq;
    expect(attentionFactor).toBeCloseTo(0.1 * Math.log(4) + 1, 6);
    expect(invFreq[0]).toBe(plain[0]);
    expect(invFreq.at(-1)! / plain.at(-1)!).toBeCloseTo(1 / 4, 6);
  });

  it("of YaRN take an attention factor, or the ratio of mscale to mscale_all_dim, from the file", () => {
    const factorOf = (extra: object) => {
      const rope = readRope(
        { max_position_embeddings: 512, rope_parameters: { rope_type: "yarn", factor: 40, ...extra } },
        64,
        "half",
      );
      return rope.scaling.type === "yarn" ? rope.scaling.attentionFactor : Number.NaN;
    };
    expect(factorOf({ attention_factor: 0.75 })).toBe(0.75);
    expect(factorOf({ mscale: 1, mscale_all_dim: 1 })).toBe(1);
    expect(factorOf({ mscale: 2, mscale_all_dim: 1 })).toBeCloseTo((0.2 * Math.log(40) + 1) / (0.1 * Math.log(40) + 1), 12);
  });

  it("of LongRoPE divide each pair's by its own factor, another one beyond the trained length", () => {
    const factors = { short_factor: [1, 2, 4, 8], long_factor: [2, 20, 200, 2000] };
    const plain = frequencies({ type: "default" }).invFreq;
    const divided = (by: readonly number[]) => by.map((f, i) => Math.fround(plain[i]! / f));
    const spellings = [
      { original_max_position_embeddings: 64, rope_scaling: { type: "longrope", ...factors } },
      { original_max_position_embeddings: 64, rope_scaling: { type: "su", ...factors } },
      { rope_parameters: { rope_type: "longrope", original_max_position_embeddings: 64, factor: 8, ...factors } },
    ];
    for (const spelling of spellings) {
      const rope = ropeFrequencies(readRope({ max_position_embeddings: 512, ...spelling }, 8, "half"));
      expect(rope.invFreq).toEqual(divided(factors.short_factor));
      expect(rope.long!.beyond).toBe(64);
      rope.long!.invFreq.forEach((f, i) => {
        expect(f / divided(factors.long_factor)[i]!).toBeCloseTo(1, 6);
        expect(Math.fround(f)).toBe(f);
      });
      expect(rope.attentionFactor).toBe(Math.fround(Math.sqrt(1 + Math.log(8) / Math.log(64))));
    }
  });

  it("of LongRoPE scale attention by what the file says, and not at all without stretching", () => {
    const factorOf = (extra: object, top: object = {}) => {
      const scaling = { rope_type: "longrope", short_factor: [1, 1], long_factor: [1, 1], ...extra };
      return ropeFrequencies(readRope({ max_position_embeddings: 512, rope_scaling: scaling, ...top }, 4, "half"))
        .attentionFactor;
    };
    expect(factorOf({ attention_factor: 1.5, original_max_position_embeddings: 64 })).toBe(1.5);
    expect(factorOf({})).toBe(1);
    // Beside rope_scaling it goes before one inside.
    expect(factorOf({ original_max_position_embeddings: 64 }, { original_max_position_embeddings: 256 })).toBe(
      factorOf({ original_max_position_embeddings: 256 }),
    );
  });

  it("cover the part of a head that partial_rotary_factor says", () => {
    expect(readRope({ max_position_embeddings: 512, partial_rotary_factor: 0.5 }, 64, "interleaved")).toMatchObject({
      dim: 32,
      style: "interleaved",
    });
  });
});
