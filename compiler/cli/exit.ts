/**
 * Exit codes and the one way an error reaches the terminal.
 */

import { EngineError, ManifestError, RequestError } from "../../runtime/errors.ts";
import { CompileError, ToolchainError } from "../errors.ts";

export const EXIT = { ok: 0, failure: 1, usage: 2, toolchain: 3, interrupted: 130 } as const;

/** A flag or argument that does not make sense; exits with 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** The work was stopped by the user; exits with 130. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";
}

export function exitCodeOf(error: unknown): number {
  if (error instanceof UsageError) return EXIT.usage;
  if (error instanceof ToolchainError) return EXIT.toolchain;
  if (error instanceof Interrupted) return EXIT.interrupted;
  return EXIT.failure;
}

/** A sentence for mistakes with a known remedy; a stack trace only for our own. */
export function printError(error: unknown): void {
  const expected =
    error instanceof UsageError ||
    error instanceof Interrupted ||
    error instanceof CompileError ||
    error instanceof ToolchainError ||
    error instanceof ManifestError ||
    error instanceof EngineError ||
    error instanceof RequestError ||
    isSystemError(error);
  process.stderr.write(`ingot: ${expected ? (error as Error).message : error instanceof Error ? error.stack : String(error)}\n`);
}

const isSystemError = (error: unknown): boolean => error instanceof Error && "syscall" in error && "code" in error;

/**
 * Runs an author's code, which may never return: without handlers, which would wait until it does, an interrupt ends the process.
 */
export function interruptible<R>(body: () => R): R {
  const handlers = process.rawListeners("SIGINT") as NodeJS.SignalsListener[];
  process.removeAllListeners("SIGINT");
  try {
    return body();
  } finally {
    for (const handler of handlers) process.on("SIGINT", handler);
  }
}
