/**
 * Errors of the runtime, by whose fault they are.
 *
 * A message says what was expected, what was found, where, and the nearest remedy.
 */

/** A client's request cannot be served as it stands; carries the HTTP status and the OpenAI error body's fields. */
export class RequestError extends Error {
  override readonly name = "RequestError";
  readonly param: string | null;
  readonly code: string | null;
  constructor(
    readonly status: number,
    message: string,
    details: { param?: string | null; code?: string | null; cause?: unknown } = {},
  ) {
    super(message, { cause: details.cause });
    this.param = details.param ?? null;
    this.code = details.code ?? null;
  }
}

/** An engine folder's manifest, weights or kernels are not what this runtime can load. */
export class ManifestError extends Error {
  override readonly name = "ManifestError";
}

/** The engine cannot run here or stopped running: memory, threads, a CPU feature, a closed engine. */
export class EngineError extends Error {
  override readonly name = "EngineError";
}

/** A mistake of this program; never caught and continued. */
export class InternalError extends Error {
  override readonly name = "InternalError";
  constructor(message: string) {
    super(`internal: ${message}`);
  }
}

/** Throws `InternalError` unless `condition` holds. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new InternalError(message);
}
