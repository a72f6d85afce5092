/**
 * What a client iterates over: the news of all completions of one request, until the last one has ended.
 *
 * An async generator would do, but one that waits for news cannot be ended from outside; here `return()` takes effect at once.
 */
import type { Completion } from "./completion.ts";
import type { OutputDelta } from "./request.ts";

export interface OutputStreamEvents {
  /** The client asked for the first time: the request starts now, and may throw. */
  start(): readonly Completion[];
  /** The client lost interest. */
  cancel(): void;
}

interface Waiter {
  readonly resolve: (result: IteratorResult<OutputDelta, undefined>) => void;
  readonly reject: (error: unknown) => void;
}

export class OutputStream implements AsyncIterableIterator<OutputDelta, undefined, undefined> {
  readonly #events: OutputStreamEvents;
  #completions: readonly Completion[] | undefined;
  #nextIndex = 0; // completions take turns
  #isOver = false;
  #failure: { readonly error: unknown } | undefined;
  readonly #waiters: Waiter[] = [];

  constructor(events: OutputStreamEvents) {
    this.#events = events;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<IteratorResult<OutputDelta, undefined>> {
    return new Promise((resolve, reject) => {
      this.#waiters.push({ resolve, reject });
      if (this.#completions === undefined && !this.#isOver) {
        try {
          this.#completions = this.#events.start();
        } catch (error) {
          this.fail(error);
          return;
        }
      }
      this.notify();
    });
  }

  return(): Promise<IteratorResult<OutputDelta, undefined>> {
    if (!this.#isOver) {
      this.#isOver = true;
      const isStarted = this.#completions !== undefined;
      this.#completions = []; // nobody wants the rest
      if (isStarted) this.#events.cancel();
      this.notify();
    }
    return Promise.resolve({ done: true, value: undefined });
  }

  /** Hands news to whoever waits. */
  notify(): void {
    while (this.#waiters.length > 0) {
      const delta = this.#take();
      if (delta !== undefined) {
        this.#waiters.shift()!.resolve({ done: false, value: delta });
      } else if (this.#failure !== undefined) {
        const { error } = this.#failure;
        this.#failure = undefined; // thrown once; then the stream has ended
        this.#isOver = true;
        this.#waiters.shift()!.reject(error);
      } else if (this.#isOver || this.#completions?.every((completion) => completion.isFinished)) {
        this.#isOver = true;
        this.#waiters.shift()!.resolve({ done: true, value: undefined });
      } else {
        return;
      }
    }
  }

  /** Ends the stream with an error, after the news there is. */
  fail(error: unknown): void {
    if (this.#isOver) return;
    this.#completions ??= [];
    this.#failure = { error };
    this.notify();
  }

  #take(): OutputDelta | undefined {
    const completions = this.#completions ?? [];
    for (let tries = 0; tries < completions.length; tries++) {
      const delta = completions[this.#nextIndex]!.take();
      this.#nextIndex = (this.#nextIndex + 1) % completions.length;
      if (delta !== undefined) return delta;
    }
    return undefined;
  }
}
