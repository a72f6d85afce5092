/**
 * What the routes share: the model, its name, the metrics, and how a generation begins, streams, fails and ends.
 */
import { errorAnswer, isRefusal } from "./error-body.ts";
import type { EventStream } from "./event-stream.ts";
import type { Exchange } from "./exchange.ts";
import { Generation, type GenerationInit } from "./generation.ts";
import { ClientGone, InFlight } from "./in-flight.ts";
import { readJsonObject } from "./json-body.ts";
import { ServerMetrics } from "./metrics.ts";
import type { ServerModel } from "./server-model.ts";

export interface ServerContextOptions {
  readonly modelName: string;
  readonly version: string;
  readonly maxBodyBytes: number;
  readonly onError: (error: unknown, requestId: string) => void;
}

export class ServerContext {
  readonly llm: ServerModel;
  readonly modelName: string;
  readonly version: string;
  /** OpenAI's word for what the same seed needs to give the same text. */
  readonly fingerprint: string;
  readonly metrics: ServerMetrics;
  readonly inFlight = new InFlight();
  /** When the model was loaded, in seconds since 1970. */
  readonly created = Math.floor(Date.now() / 1000);
  readonly #maxBodyBytes: number;
  readonly #onError: (error: unknown, requestId: string) => void;

  constructor(llm: ServerModel, options: ServerContextOptions) {
    this.llm = llm;
    this.modelName = options.modelName;
    this.version = options.version;
    this.fingerprint = `ingot-${options.version}`;
    this.metrics = new ServerMetrics(options.modelName, llm.maxModelLen, () => llm.stats());
    this.#maxBodyBytes = options.maxBodyBytes;
    this.#onError = options.onError;
  }

  /** The request's body. @throws RequestError 400 or 413. */
  readJson({ req }: Exchange): Promise<Record<string, unknown>> {
    return readJsonObject(req, this.#maxBodyBytes);
  }

  /** The ids of a prompt. One of several contexts' length is refused without being encoded to its end. @throws RequestError 400. */
  encodePrompt(text: string, addSpecialTokens: boolean): readonly number[] {
    return this.llm.tokenizer.encode(text, { addSpecialTokens, maxTokens: 4 * this.llm.maxModelLen });
  }

  /** Runs `use` on a generation that is aborted when the client goes away. @throws what the generation throws. */
  async generate(
    { res }: Exchange,
    init: Omit<GenerationInit, "llm" | "metrics" | "flight">,
    use: (generation: Generation) => Promise<void>,
  ): Promise<void> {
    const flight = this.inFlight.begin(res);
    try {
      await use(new Generation({ ...init, llm: this.llm, metrics: this.metrics, flight }));
    } finally {
      flight.end();
    }
  }

  /** Runs `produce` and ends the stream as it ended: `[DONE]`, or an event with the error. */
  async streaming({ requestId }: Exchange, events: EventStream, produce: () => Promise<void>): Promise<void> {
    try {
      await produce();
      events.done();
    } catch (error) {
      this.report(error, requestId);
      events.fail(errorAnswer(error, requestId).body);
    }
  }

  /** Notes a failure: what is neither a refusal nor a client's departure. */
  report(error: unknown, requestId: string): void {
    if (isRefusal(error) || error instanceof ClientGone) return;
    this.#onError(error, requestId);
  }
}
