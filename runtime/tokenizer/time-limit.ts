/**
 * A wall-clock limit on synchronous code that runs someone else's program: a pre-tokenizer's pattern, a chat template.
 *
 * V8 interrupts both script and backtracking regular expressions for a `vm` timeout; nothing else can. It is a limit, not
 * a sandbox: what runs must have no access to anything to begin with. A guarded call costs about 0.07 ms.
 */
import { createContext, Script } from "node:vm";

const script = new Script("run()");

/** Thrown when guarded code was still running at its limit. */
export class TimeLimitError extends Error {
  override readonly name = "TimeLimitError";
}

/** Returns `run()`; throws `TimeLimitError` when it takes longer than `limitMs`, and whatever `run` throws. */
export function withTimeLimit<T>(limitMs: number, run: () => T): T {
  let result: { readonly value: T } | undefined;
  const context = createContext({
    run: () => {
      result = { value: run() };
    },
  });
  try {
    script.runInContext(context, { timeout: limitMs });
  } catch (error) {
    if (error instanceof Error && (error as NodeJS.ErrnoException).code === "ERR_SCRIPT_EXECUTION_TIMEOUT") {
      throw new TimeLimitError(`still running after ${limitMs} ms`);
    }
    throw error;
  }
  // The script returned, so `run` did.
  return (result as { readonly value: T }).value;
}
