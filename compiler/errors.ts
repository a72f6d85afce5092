/**
 * Errors of the compiler, by whose fault they are.
 *
 * A message says what was expected, what was found, where, and the nearest remedy.
 */

/** The model description, its configuration or its checkpoint cannot be compiled as it stands. */
export class CompileError extends Error {
  override readonly name: string = "CompileError";
}

/** A well-formed model or option asks for something this version does not do. */
export class UnsupportedError extends CompileError {
  override readonly name = "UnsupportedError";
}

/** A C++ compiler or another outside tool is missing or failed; the command line exits with 3. */
export class ToolchainError extends Error {
  override readonly name = "ToolchainError";
}

/** A mistake of this program; never caught and continued. */
export class InternalError extends Error {
  override readonly name = "InternalError";
  constructor(message: string) {
    super(`internal: ${message}`);
  }
}

/** Of two names the characters that both begin and end with: what is mistyped is in the middle. For "is … meant?". */
export function likeness(a: string, b: string): number {
  const most = Math.min(a.length, b.length);
  let before = 0;
  while (before < most && a[before] === b[before]) before++;
  let after = 0;
  while (after < most - before && a.at(-1 - after) === b.at(-1 - after)) after++;
  return before + after;
}

/** Throws `InternalError` unless `condition` holds. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new InternalError(message);
}
