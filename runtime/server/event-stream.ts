/**
 * Server-sent events: one JSON value per event, never more in memory than the socket's buffer.
 *
 * Format: https://html.spec.whatwg.org/multipage/server-sent-events.html, with OpenAI's `[DONE]` as the last event.
 */
import type { ServerResponse } from "node:http";

export class EventStream {
  readonly #res: ServerResponse;
  #drained: Promise<void> | undefined;

  /** Sends the headers at once: a client waits for them, a proxy may not wait for the first token. */
  constructor(res: ServerResponse) {
    this.#res = res;
    res.writeHead(200, {
      "Content-Type": "text/event-stream; charset=utf-8",
      "Cache-Control": "no-cache",
      "X-Accel-Buffering": "no", // nginx would hold events back
    });
    res.flushHeaders();
  }

  /** Sends one event; resolves when there is room for the next one, or nobody reads any more. */
  send(value: unknown): Promise<void> | undefined {
    return this.#write(`data: ${JSON.stringify(value)}\n\n`);
  }

  /** Ends a stream that is complete. */
  done(): void {
    this.#res.end("data: [DONE]\n\n");
  }

  /** Ends a stream that failed: an error event and no `[DONE]`, so that no client takes it for complete. */
  fail(body: unknown): void {
    this.#res.end(`data: ${JSON.stringify(body)}\n\n`);
  }

  #write(text: string): Promise<void> | undefined {
    if (this.#res.destroyed || this.#res.writableEnded) return undefined;
    if (this.#res.write(text)) return undefined;
    // Several completions of one request share the wait.
    this.#drained ??= new Promise<void>((resolve) => {
      const settle = () => {
        this.#res.off("drain", settle).off("close", settle);
        this.#drained = undefined;
        resolve();
      };
      this.#res.on("drain", settle).on("close", settle);
    });
    return this.#drained;
  }
}
