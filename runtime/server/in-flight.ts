/**
 * The generations that run, and their ends: a client that goes away, a server that shuts down.
 */
import { setMaxListeners } from "node:events";
import type { ServerResponse } from "node:http";
import { RequestError } from "../errors.ts";

export interface Flight {
  /** Aborted when the client has gone or the server cannot wait any longer. */
  readonly signal: AbortSignal;
  /** Stops it because of a failure of its own. */
  abort(error: unknown): void;
  /** It is over; to be called exactly once. */
  end(): void;
}

/** Why a generation was aborted when nobody is left to read its answer. */
export class ClientGone extends Error {
  override readonly name = "ClientGone";
}

export class InFlight {
  readonly #controllers = new Set<AbortController>();
  readonly #onEmpty: (() => void)[] = [];
  #isDraining = false;

  get isDraining(): boolean {
    return this.#isDraining;
  }

  /** Registers the generation that answers `res`. @throws RequestError 503 while draining. */
  begin(res: ServerResponse): Flight {
    if (this.#isDraining) throw shuttingDown("the server is shutting down and takes no new requests; try another one");
    const controller = new AbortController();
    setMaxListeners(0, controller.signal); // one for each prompt of the request
    const onClose = () => {
      if (!res.writableFinished) controller.abort(new ClientGone("the client closed the connection"));
    };
    res.on("close", onClose);
    if (res.destroyed) onClose();
    this.#controllers.add(controller);
    return {
      signal: controller.signal,
      abort: (error) => controller.abort(error),
      end: () => {
        res.off("close", onClose);
        this.#controllers.delete(controller);
        if (this.#controllers.size === 0) for (const resolve of this.#onEmpty.splice(0)) resolve();
      },
    };
  }

  /** Refuses new generations and waits for those that run; after `timeoutMs` they are aborted. */
  async drain(timeoutMs: number): Promise<void> {
    this.#isDraining = true;
    if (this.#controllers.size === 0) return;
    const empty = new Promise<void>((resolve) => this.#onEmpty.push(resolve));
    const timer = setTimeout(() => {
      for (const controller of this.#controllers)
        controller.abort(shuttingDown("the server shut down before the answer was complete"));
    }, timeoutMs);
    await empty;
    clearTimeout(timer);
  }
}

function shuttingDown(message: string): RequestError {
  return new RequestError(503, message, { code: "shutting_down" });
}
