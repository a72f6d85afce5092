/**
 * Rotary position embeddings: reads their configuration and computes the inverse frequencies, as transformers 5 does
 * (`modeling_rope_utils.py`), in f32 where it uses f32. How angles are applied is the graph's business.
 */
import { z } from "zod";
import { CompileError, UnsupportedError } from "../compiler/errors.ts";
import type { LongFrequencies, RopeStyle } from "../compiler/ir/ops.ts";
import { describe, readFields } from "./config.ts";

/** How frequencies are stretched to reach beyond the trained context. */
export type RopeScaling =
  | { readonly type: "default" }
  | { readonly type: "linear"; readonly factor: number }
  /** Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between. */
  | {
      readonly type: "llama3";
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositionEmbeddings: number;
    }
  /** YaRN, https://arxiv.org/abs/2309.00071 */
  | {
      readonly type: "yarn";
      readonly factor: number;
      readonly originalMaxPositionEmbeddings: number;
      readonly attentionFactor: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      readonly truncate: boolean;
    }
  /** LongRoPE, https://arxiv.org/abs/2402.13753: wavelengths stretched pair by pair, those of sequences beyond the trained length otherwise. */
  | {
      readonly type: "longrope";
      readonly originalMaxPositionEmbeddings: number;
      readonly attentionFactor: number;
      readonly shortFactors: readonly number[];
      readonly longFactors: readonly number[];
    };

export interface RopeConfig {
  readonly theta: number;
  /** Elements of a head that are rotated; even. */
  readonly dim: number;
  readonly style: RopeStyle;
  readonly scaling: RopeScaling;
}

const positive = z.number().positive();
const theta = z.number().gt(1).max(1e15);
const factor = z
  .number()
  .min(1)
  .max(2 ** 16);
/** By how much one wavelength is stretched. */
const stretch = z
  .number()
  .min(2 ** -16)
  .max(2 ** 16);
const MOST_POSITIONS = 2 ** 26;
const positions = z.int().min(1).max(MOST_POSITIONS);

const scalingFields = z.object({
  rope_type: z.string().nullish(),
  type: z.string().nullish(),
  rope_theta: theta.nullish(),
  partial_rotary_factor: z.number().positive().max(1).nullish(),
});

const llama3Fields = z.object({
  factor,
  low_freq_factor: positive,
  high_freq_factor: positive,
  original_max_position_embeddings: positions.nullish(),
});

const yarnFields = z.object({
  factor: factor.nullish(),
  original_max_position_embeddings: positions.nullish(),
  attention_factor: positive.nullish(),
  beta_fast: positive.nullish(),
  beta_slow: positive.nullish(),
  mscale: positive.nullish(),
  mscale_all_dim: positive.nullish(),
  truncate: z.boolean().default(true),
});

const longropeFields = z.object({
  factor: factor.nullish(),
  attention_factor: positive.nullish(),
  original_max_position_embeddings: positions.nullish(),
  short_factor: z.array(stretch),
  long_factor: z.array(stretch),
});

/** What a reader looks at beside the type's own fields. */
interface Surroundings {
  readonly maxPositions: number;
  /** `original_max_position_embeddings` where it stands beside `rope_scaling`, as in Phi-3: it goes before one inside. */
  readonly originalPositions: number | null | undefined;
  readonly dim: number;
}

/** The reader of each known type's own fields, by `rope_type`. */
const readers: Readonly<Record<RopeScaling["type"], (json: unknown, at: string, around: Surroundings) => RopeScaling>> = {
  default: () => ({ type: "default" }),
  linear: (json, at) => ({ type: "linear", factor: readFields(json, z.object({ factor }), at).factor }),
  llama3(json, at, { maxPositions }) {
    const fields = readFields(json, llama3Fields, at);
    if (fields.high_freq_factor <= fields.low_freq_factor) {
      throw new CompileError(
        `config.json: ${at}.high_freq_factor: expected more than low_freq_factor (${fields.low_freq_factor}); found ${fields.high_freq_factor}`,
      );
    }
    return {
      type: "llama3",
      factor: fields.factor,
      lowFreqFactor: fields.low_freq_factor,
      highFreqFactor: fields.high_freq_factor,
      originalMaxPositionEmbeddings: fields.original_max_position_embeddings ?? maxPositions,
    };
  },
  yarn(json, at, { maxPositions }) {
    const fields = readFields(json, yarnFields, at);
    const original = fields.original_max_position_embeddings ?? maxPositions;
    const scale = fields.factor ?? maxPositions / original;
    if (original * scale > MOST_POSITIONS) {
      throw new CompileError(
        `config.json: ${at}.factor: expected at most ${MOST_POSITIONS} positions; found ${original} · ${scale}`,
      );
    }
    const mscale = (m: number) => (scale <= 1 ? 1 : 0.1 * m * Math.log(scale) + 1);
    const ratio = fields.mscale && fields.mscale_all_dim ? mscale(fields.mscale) / mscale(fields.mscale_all_dim) : mscale(1);
    return {
      type: "yarn",
      factor: scale,
      originalMaxPositionEmbeddings: original,
      attentionFactor: fields.attention_factor ?? ratio,
      betaFast: fields.beta_fast ?? 32,
      betaSlow: fields.beta_slow ?? 1,
      truncate: fields.truncate,
    };
  },
  longrope(json, at, { maxPositions, originalPositions, dim }) {
    const fields = readFields(json, longropeFields, at);
    for (const name of ["short_factor", "long_factor"] as const) {
      const { length } = fields[name];
      if (length === dim / 2) continue;
      throw new CompileError(
        `config.json: ${at}.${name}: expected ${dim / 2} numbers, one for two of ${dim} rotated elements; found ${length}`,
      );
    }
    const original = originalPositions ?? fields.original_max_position_embeddings ?? maxPositions;
    if (original < 2) {
      throw new CompileError(`config.json: original_max_position_embeddings: expected at least 2; found ${original}`);
    }
    const scale = fields.factor ?? maxPositions / original;
    return {
      type: "longrope",
      originalMaxPositionEmbeddings: original,
      attentionFactor: fields.attention_factor ?? (scale <= 1 ? 1 : Math.sqrt(1 + Math.log(scale) / Math.log(original))),
      shortFactors: fields.short_factor,
      longFactors: fields.long_factor,
    };
  },
};

/** The `rope_type`s this version knows. */
const ROPE_TYPES: readonly string[] = Object.keys(readers);

const ropeFields = z.object({
  rope_parameters: z.record(z.string(), z.unknown()).nullish(),
  rope_scaling: z.record(z.string(), z.unknown()).nullish(),
  rope_theta: theta.nullish(),
  partial_rotary_factor: z.number().positive().max(1).nullish(),
  max_position_embeddings: positions,
  original_max_position_embeddings: positions.nullish(),
});

/**
 * Reads the rotary configuration of a config.json in either spelling. Absent, the base is 10000: `{ rope_theta: 500000, ...json }` says
 * otherwise.
 * Throws `UnsupportedError` for a type that is not known, `CompileError` for a field that is wrong.
 */
export function readRope(json: unknown, headDim: number, style: RopeStyle): RopeConfig {
  const fields = readFields(json, ropeFields);
  const at = fields.rope_parameters ? "rope_parameters" : "rope_scaling";
  const parameters = fields.rope_parameters ?? fields.rope_scaling ?? {};
  const common = readFields(parameters, scalingFields, at);
  const said = common.rope_type ?? common.type ?? "default";
  const type = said === "su" ? "longrope" : said; // its first name
  const reader = Object.hasOwn(readers, type) ? readers[type as RopeScaling["type"]] : undefined;
  if (!reader) {
    throw new UnsupportedError(
      `config.json: ${at}.rope_type: expected one of ${ROPE_TYPES.join(", ")}; found ${describe(said)}. To add one, write its frequencies in models/rope.ts`,
    );
  }
  const dim = Math.trunc(headDim * (common.partial_rotary_factor ?? fields.partial_rotary_factor ?? 1));
  if (dim < 2 || dim % 2 !== 0) {
    throw new CompileError(`config.json: head_dim: expected an even number of rotated elements; found ${dim} of ${headDim}`);
  }
  return {
    theta: common.rope_theta ?? fields.rope_theta ?? 10000,
    dim,
    style,
    scaling: reader(parameters, at, {
      maxPositions: fields.max_position_embeddings,
      originalPositions: fields.original_max_position_embeddings,
      dim,
    }),
  };
}

/** Positions a model reaches: YaRN stretches its trained context by `factor`, whatever `max_position_embeddings` was left at. */
export function reachablePositions(rope: RopeConfig, maxPositionEmbeddings: number): number {
  if (rope.scaling.type !== "yarn") return maxPositionEmbeddings;
  return Math.max(maxPositionEmbeddings, Math.floor(rope.scaling.originalMaxPositionEmbeddings * rope.scaling.factor));
}

export interface RopeFrequencies {
  /** Radians a position turns each pair by, (dim / 2) f32 values. */
  readonly invFreq: readonly number[];
  /** What cosines and sines are multiplied with. */
  readonly attentionFactor: number;
  /** Those of long sequences where they have others. */
  readonly long: LongFrequencies | null;
}

/** The numbers that `rope_angles` is built from. */
export function ropeFrequencies(rope: RopeConfig): RopeFrequencies {
  const { theta, dim, scaling } = rope;
  const wavelengths = Array.from({ length: dim / 2 }, (_, i) => f32(theta ** f32((2 * i) / dim)));
  const invFreq = wavelengths.map((w) => f32(1 / w));
  switch (scaling.type) {
    case "default":
      return { invFreq, attentionFactor: 1, long: null };
    case "linear":
      return { invFreq: invFreq.map((f) => f32(f / scaling.factor)), attentionFactor: 1, long: null };
    case "llama3":
      return { invFreq: invFreq.map((f) => llama3Frequency(f, scaling)), attentionFactor: 1, long: null };
    case "yarn": {
      const [low, high] = yarnRange(theta, dim, scaling);
      const yarn = wavelengths.map((w, i) => {
        const ramp = Math.min(1, Math.max(0, f32(f32(i - low) / f32(high - low))));
        const kept = f32(1 - ramp);
        const interpolated = f32(1 / f32(scaling.factor * w));
        return f32(f32(interpolated * f32(1 - kept)) + f32(f32(1 / w) * kept));
      });
      return { invFreq: yarn, attentionFactor: f32(scaling.attentionFactor), long: null };
    }
    case "longrope": {
      const stretched = (factors: readonly number[]) => wavelengths.map((w, i) => f32(1 / f32(f32(factors[i] as number) * w)));
      return {
        invFreq: stretched(scaling.shortFactors),
        attentionFactor: f32(scaling.attentionFactor),
        long: { invFreq: stretched(scaling.longFactors), beyond: scaling.originalMaxPositionEmbeddings },
      };
    }
  }
}

const f32 = Math.fround;

function llama3Frequency(f: number, scaling: Extract<RopeScaling, { type: "llama3" }>): number {
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings: trained } = scaling;
  const wavelength = f32((2 * Math.PI) / f);
  if (wavelength < trained / highFreqFactor) return f;
  if (wavelength > trained / lowFreqFactor) return f32(f / factor);
  const smooth = f32(f32(f32(trained / wavelength) - lowFreqFactor) / (highFreqFactor - lowFreqFactor));
  return f32(f32(f32(f32(1 - smooth) * f) / factor) + f32(smooth * f));
}

/** Pairs before the first element turn often enough to be kept, pairs after the second are interpolated. */
function yarnRange(theta: number, dim: number, scaling: Extract<RopeScaling, { type: "yarn" }>): [low: number, high: number] {
  const pairTurning = (rotations: number) =>
    (dim * Math.log(scaling.originalMaxPositionEmbeddings / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  let low = pairTurning(scaling.betaFast);
  let high = pairTurning(scaling.betaSlow);
  if (scaling.truncate) [low, high] = [Math.floor(low), Math.ceil(high)];
  low = Math.max(low, 0);
  high = Math.min(high, dim - 1);
  return [low, low === high ? high + 0.001 : high]; // no division by zero
}
