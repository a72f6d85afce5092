/**
 * A wall-clock limit on synchronous code that runs someone else's program: a pre-tokenizer's pattern, a chat template.
 *
 * V8 interrupts both script and backtracking regular expressions for a `vm` timeout; nothing else can. It is a limit, not
 * a sandbox: what runs must have no access to anything to begin with.
 */
import { createContext, Script } from "node:vm";

const script = new Script("run()");

/** Thrown when guarded code was still running at its limit. */
export class TimeLimitError extends Error {
  override readonly name = "TimeLimitError";
}

/** Runs code under a limit. Making one costs about 1 ms, a call 0.07 ms, so its owner keeps it. */
export class TimeLimit {
  private readonly scope: { run: () => void } = { run: () => {} };

  constructor() {
    createContext(this.scope);
  }

  /** Returns `run()`; throws `TimeLimitError` when it takes longer than `limitMs`, and whatever `run` throws. */
  run<T>(limitMs: number, run: () => T): T {
    const results: T[] = [];
    this.scope.run = () => {
      results.push(run());
    };
    try {
      script.runInContext(this.scope, { timeout: limitMs });
    } catch (error) {
      // Made in the context's own realm, so not an instance of this one's Error.
      if ((error as NodeJS.ErrnoException | null)?.code === "ERR_SCRIPT_EXECUTION_TIMEOUT") {
        throw new TimeLimitError(`still running after ${limitMs} ms`);
      }
      throw error;
    } finally {
      this.scope.run = () => {};
    }
    return results[0] as T; // the script returned, so `run` did
  }
}
