/**
 * Errors as OpenAI's clients read them: `{ error: { message, type, param, code } }` and an HTTP status.
 *
 * What a client did wrong is told in full; of our own mistakes only the request id leaves the process.
 */
import { EngineError, RequestError } from "../errors.ts";

export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: string | null;
  };
}

export interface ErrorAnswer {
  readonly status: number;
  readonly body: ErrorBody;
}

/** Turns anything thrown into a status and a body. */
export function errorAnswer(error: unknown, requestId: string): ErrorAnswer {
  if (error instanceof RequestError) {
    return { status: error.status, body: errorBody(error.status, error.message, error.param, error.code) };
  }
  if (error instanceof EngineError) return { status: 500, body: errorBody(500, error.message, null, "engine_error") };
  const message = `the server made a mistake; its log has the details under request ${requestId}`;
  return { status: 500, body: errorBody(500, message, null, "internal_error") };
}

/** True for refusals: the client has been told all there is to say, a log would only repeat it. */
export function isRefusal(error: unknown): boolean {
  return error instanceof RequestError;
}

function errorBody(status: number, message: string, param: string | null, code: string | null): ErrorBody {
  return { error: { message, type: errorType(status), param, code } };
}

function errorType(status: number): string {
  if (status === 429) return "rate_limit_error";
  return status >= 500 ? "server_error" : "invalid_request_error";
}
