/**
 * A model for tests of the server: it answers with the words of a given reply, one after the other, after small delays.
 *
 * Words are tokens; what is not ASCII is one token per byte. Log-probabilities are made up but consistent: the sampled token is the
 * likeliest, its alternatives follow.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { EngineError, RequestError } from "../../runtime/errors.ts";
import type { EngineStats, GenerateRequest, OutputDelta, TokenLogprob } from "../../runtime/request.ts";
import type { RenderChatRequest, ServerModel, ServerTokenizer } from "../../runtime/server/server-model.ts";
import { StopStrings } from "../../runtime/stop-strings.ts";
import type { EncodeOptions } from "../../runtime/tokenizer/tokenizer.ts";

const EOS = 256;

/** Ids 0 … 255 are bytes, 256 is the end, words get the next free id when they are first seen. */
export class WordTokenizer implements ServerTokenizer {
  readonly #tokens: (string | undefined)[] = [...Array.from({ length: 256 }, () => undefined), "<|end|>"];
  readonly #ids = new Map<string, number>([["<|end|>", EOS]]);

  encode(text: string, { addSpecialTokens, maxTokens = Number.POSITIVE_INFINITY }: EncodeOptions): readonly number[] {
    const ids = (text.match(/<\|end\|>|\s*\w+|\s|[^\w\s]/g) ?? []).flatMap((piece) => this.#idsOf(piece));
    if (ids.length > maxTokens) {
      const message = `the text of ${text.length} characters has more than ${maxTokens} tokens`;
      throw new RequestError(400, message, { param: "prompt", code: "context_length_exceeded" });
    }
    return addSpecialTokens ? [EOS, ...ids] : ids;
  }

  decode(ids: readonly number[], { skipSpecialTokens }: { readonly skipSpecialTokens: boolean }): string {
    const shown = ids.filter((id) => !(skipSpecialTokens && id === EOS));
    return Buffer.concat(shown.map((id) => this.tokenBytes(id))).toString("utf8");
  }

  idToToken(id: number): string | undefined {
    return id >= 0 && id < 256 ? `<0x${id.toString(16).toUpperCase().padStart(2, "0")}>` : this.#tokens[id];
  }

  tokenBytes(id: number): Uint8Array {
    return id < 256 ? Uint8Array.of(id) : Buffer.from(this.#tokens[id] ?? "", "utf8");
  }

  #idsOf(piece: string): readonly number[] {
    if (/[^\x20-\x7e\n\t]/.test(piece)) return [...Buffer.from(piece, "utf8")];
    let id = this.#ids.get(piece);
    if (id === undefined) {
      id = this.#tokens.push(piece) - 1;
      this.#ids.set(piece, id);
    }
    return [id];
  }
}

export interface FakeLlmOptions {
  /** The answer to a rendered prompt; default: "You said: " and the last message. */
  readonly reply?: (prompt: string, index: number) => string;
  /** Between tokens; default 0. */
  readonly delayMs?: number;
  /** Breaks the engine after so many tokens of a request. */
  readonly failAfter?: number;
  /** Fails a request, but not the engine, after so many of its tokens. */
  readonly failRequestAfter?: number;
  readonly modelName?: string;
  readonly defaultParams?: ServerModel["defaultParams"];
}

export class FakeLlm implements ServerModel {
  readonly modelName: string;
  readonly maxModelLen = 512;
  readonly tokenizer = new WordTokenizer();
  readonly defaultParams: ServerModel["defaultParams"];
  /** Every request the server made, in order. */
  readonly requests: GenerateRequest[] = [];
  /** Every conversation the server rendered. */
  readonly rendered: RenderChatRequest[] = [];
  /** Requests that ended because their signal was aborted. */
  readonly aborted: string[] = [];
  failure: Error | undefined;
  numRunning = 0;
  #generated = 0;
  readonly #options: FakeLlmOptions;

  constructor(options: FakeLlmOptions = {}) {
    this.#options = options;
    this.modelName = options.modelName ?? "fake";
    this.defaultParams = options.defaultParams ?? {};
  }

  renderChat(request: RenderChatRequest): string {
    this.rendered.push(request);
    if (request.messages[0]?.content === "refuse me") {
      throw new RequestError(400, "the chat template refused the messages: no", { param: "messages", code: "invalid_messages" });
    }
    const lines = request.messages.map(({ role, content }) => `${role}: ${content}\n`);
    return lines.join("") + (request.addGenerationPrompt ? "assistant: " : "");
  }

  generate(request: GenerateRequest): AsyncIterable<OutputDelta> {
    this.requests.push(request);
    const { promptTokenIds, params } = request;
    const total = promptTokenIds.length + (params.maxTokens ?? 1);
    if (total > this.maxModelLen) {
      const message = `the prompt of ${promptTokenIds.length} tokens and maxTokens ${params.maxTokens} make ${total}, more than ${this.maxModelLen}`;
      throw new RequestError(400, message, { param: "maxTokens", code: "context_length_exceeded" });
    }
    return this.#outputs(request);
  }

  stats(): EngineStats {
    return {
      numRunning: this.numRunning,
      numWaiting: 0,
      kvCacheUsage: 0.25,
      promptTokens: this.requests.reduce((sum, request) => sum + request.promptTokenIds.length, 0),
      generationTokens: this.#generated,
      prefixCacheQueries: 100,
      prefixCacheHits: 40,
      numPreemptions: 3,
      steps: this.#generated,
      hostMs: 1,
      deviceMs: 2,
    };
  }

  async *#outputs(request: GenerateRequest): AsyncGenerator<OutputDelta> {
    this.numRunning++;
    try {
      for (let index = 0; index < request.params.n; index++) yield* this.#completion(request, index);
    } finally {
      this.numRunning--;
    }
  }

  async *#completion({ requestId, promptTokenIds, params, signal }: GenerateRequest, index: number): AsyncGenerator<OutputDelta> {
    const prompt = this.tokenizer.decode(promptTokenIds, { skipSpecialTokens: true });
    const reply =
      this.#options.reply?.(prompt, index) ?? `You said: ${/(\w+: )?(.*)\n(assistant: )?$/.exec(prompt)?.[2] ?? prompt}`;
    const ids = [...this.tokenizer.encode(reply, { addSpecialTokens: false }), EOS];
    const stops = new StopStrings(params.stop, params.includeStopStrInOutput);
    const decoder = new TextDecoder();
    const numCachedTokens = Math.floor(promptTokenIds.length / 2);
    const startedMs = performance.now();
    const news = (text: string, tokenIds: readonly number[], end: Partial<OutputDelta> = {}): OutputDelta => ({
      index,
      text,
      tokenIds,
      logprobs: params.logprobs === null ? null : tokenIds.map((id) => fakeLogprob(id, params.logprobs!)),
      finishReason: null,
      stopReason: null,
      numCachedTokens,
      startedMs,
      ...end,
    });
    for (const [i, id] of ids.entries()) {
      if (this.#options.delayMs) await sleep(this.#options.delayMs, undefined, { signal }).catch(() => {});
      if (signal?.aborted) {
        this.aborted.push(requestId);
        yield news(stops.flush(), [], { finishReason: "abort" });
        return;
      }
      if (i === this.#options.failRequestAfter) throw new EngineError("the model gave no token");
      if (i === this.#options.failAfter) {
        this.failure = new EngineError("the engine failed: out of memory");
        throw this.failure;
      }
      this.#generated++;
      if (id === EOS) {
        yield news(stops.flush() + (params.includeStopStrInOutput ? "<|end|>" : ""), [id], { finishReason: "stop" });
        return;
      }
      const { text, stop } = stops.push(decoder.decode(this.tokenizer.tokenBytes(id), { stream: true }));
      if (stop !== null) {
        yield news(text, [id], { finishReason: "stop", stopReason: stop });
        return;
      }
      if (i + 1 === params.maxTokens) {
        yield news(text + stops.flush(), [id], { finishReason: "length" });
        return;
      }
      yield news(text, [id]);
    }
  }
}

function fakeLogprob(id: number, numTop: number): TokenLogprob {
  // The last alternative has no probability at all.
  const top = Array.from({ length: numTop }, (_, i) => ({
    id: i === 0 ? id : 32 + i,
    logprob: i === 0 ? -0.25 : i === 19 ? Number.NEGATIVE_INFINITY : -i - 1,
  }));
  return { id, logprob: -0.25, top };
}
