/** The one way arrays are compared: ‖Δ‖/‖ref‖ over the whole tensor; NaN never passes. */
import { expect } from "vitest";

/** ‖actual − expected‖ / ‖expected‖; NaN when either holds one, or when lengths differ. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.NaN;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (actual[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  return norm === 0 ? (difference === 0 ? 0 : Number.POSITIVE_INFINITY) : Math.sqrt(difference / norm);
}

/** Fails unless ‖Δ‖/‖ref‖ ≤ tolerance; says which array and how far. */
export function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number, what = "values"): void {
  const error = relativeError(actual, expected);
  expect(error <= tolerance, `${what}: ‖Δ‖/‖ref‖ is ${error}, allowed ${tolerance}`).toBe(true);
}
