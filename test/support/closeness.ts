/** The one way arrays are compared: ‖Δ‖/‖ref‖ over the whole tensor; NaN never passes. */
import { expect } from "vitest";
import { relativeError } from "../../compiler/cli/verification.ts";

export { relativeError };

/** Fails unless ‖Δ‖/‖ref‖ ≤ tolerance; says which array and how far. */
export function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number, what = "values"): void {
  const error = relativeError(actual, expected);
  expect(error <= tolerance, `${what}: ‖Δ‖/‖ref‖ is ${error}, allowed ${tolerance}`).toBe(true);
}
