/**
 * Compares an engine with a reference: recorded activations, or the interpreter of its own graph.
 *
 * Errors are ‖Δ‖/‖ref‖ over a whole tensor and NaN never passes. Rows are one quantity of one prompt; the first one that is off is
 * the first place to look, since rows stand in the order the model computes them.
 */
import type { ModelFacts } from "../../runtime/manifest.ts";
import type { Golden } from "./golden.ts";

/** What verification asks of an engine. */
export interface Verifiable {
  /** Logits (T, vocab) of every position and, on request, hidden states as `hidden.0` … `hidden.L`, each (T, hiddenSize). */
  forward(
    ids: readonly number[],
    options: { hidden: boolean },
  ): Promise<{ logits: Float32Array; hidden?: readonly Float32Array[] }>;
  greedy(ids: readonly number[], count: number): Promise<readonly number[]>;
}

export interface Row {
  readonly prompt: number;
  readonly tokens: number;
  /** `hidden.3`, `logits` or `greedy`. */
  readonly what: string;
  /** ‖Δ‖/‖ref‖, or the number of tokens that differ. */
  readonly error: number;
  readonly allowed: number;
  readonly ok: boolean;
}

export interface Verification {
  readonly reference: string;
  readonly dtype: ModelFacts["dtype"];
  readonly rows: readonly Row[];
  readonly ok: boolean;
  /** The first row that is off, or null. */
  readonly firstFailure: Row | null;
}

/** Largest ‖Δ‖/‖ref‖ of an engine that computes in f32. */
export const F32_TOLERANCE = 1e-4;

/** Compares with recorded activations. In f32 the greedy tokens must be equal; in narrower dtypes they are not compared. */
export async function verifyGolden(
  engine: Verifiable,
  golden: Golden,
  dtype: ModelFacts["dtype"],
  reference: string,
): Promise<Verification> {
  const tolerance = dtype === "float32" ? F32_TOLERANCE : 2 * golden.bf16RelativeError;
  const rows: Row[] = [];
  for (const [prompt, expected] of golden.prompts.entries()) {
    const actual = await engine.forward(expected.ids, { hidden: expected.hidden.length > 0 });
    rows.push(...compare(prompt, expected.ids.length, actual, expected, tolerance));
    if (dtype !== "float32" || expected.greedy.length === 0) continue;
    const tokens = await engine.greedy(expected.ids, expected.greedy.length);
    const error = expected.greedy.filter((id, i) => tokens[i] !== id).length;
    rows.push({ prompt, tokens: expected.ids.length, what: "greedy", error, allowed: 0, ok: error === 0 });
  }
  return conclude(reference, dtype, rows);
}

/** What a reference gives for one prompt. */
export interface ReferenceOutputs {
  readonly logits: Float32Array;
  readonly hidden: readonly Float32Array[];
}

/** Compares with a reference computed on the spot. */
export async function verifyAgainst(
  engine: Verifiable,
  prompts: readonly (readonly number[])[],
  compute: (ids: readonly number[]) => ReferenceOutputs,
  options: { dtype: ModelFacts["dtype"]; tolerance: number; reference: string },
): Promise<Verification> {
  const rows: Row[] = [];
  for (const [prompt, ids] of prompts.entries()) {
    const actual = await engine.forward(ids, { hidden: true });
    rows.push(...compare(prompt, ids.length, actual, compute(ids), options.tolerance));
  }
  return conclude(options.reference, options.dtype, rows);
}

function compare(
  prompt: number,
  tokens: number,
  actual: { logits: Float32Array; hidden?: readonly Float32Array[] },
  expected: ReferenceOutputs,
  allowed: number,
): Row[] {
  const row = (what: string, a: Float32Array, e: Float32Array): Row => {
    const error = relativeError(a, e);
    return { prompt, tokens, what, error, allowed, ok: error <= allowed };
  };
  const none = new Float32Array(0);
  return [
    ...expected.hidden.map((e, l) => row(`hidden.${l}`, actual.hidden?.[l] ?? none, e)),
    row("logits", actual.logits, expected.logits),
  ];
}

/** ‖actual − expected‖ / ‖expected‖; NaN where either holds one or the lengths differ. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.NaN;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += ((actual[i] as number) - (expected[i] as number)) ** 2;
    norm += (expected[i] as number) ** 2;
  }
  return norm === 0 && difference === 0 ? 0 : Math.sqrt(difference / norm);
}

function conclude(reference: string, dtype: ModelFacts["dtype"], rows: readonly Row[]): Verification {
  const firstFailure = rows.find((r) => !r.ok) ?? null;
  return { reference, dtype, rows, ok: rows.length > 0 && firstFailure === null, firstFailure };
}
