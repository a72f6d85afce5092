/**
 * The library's front door: an engine folder loaded, prompts as text or token ids in, outputs and streams of news out.
 *
 * It puts engine, tokenizer, chat template and generation defaults together; the loop that runs requests is `AsyncEngine`. It takes
 * engine folders only: who wants model folders compiled on first use passes `resolve`.
 */
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { AsyncEngine } from "./async-engine.ts";
import type { Device } from "./batch.ts";
import { type ChatMessage, ChatTemplate } from "./chat/template.ts";
import type { Detokenizer } from "./completion.ts";
import { Engine, type EngineOptions } from "./engine.ts";
import { RequestError } from "./errors.ts";
import type { ForwardOptions, ForwardResult } from "./forward-pass.ts";
import { loadGenerationConfig } from "./generation-config.ts";
import type { ModelFacts } from "./manifest.ts";
import type { GenerateRequest, OutputDelta, RequestOutput } from "./request.ts";
import { collectOutput } from "./request-output.ts";
import { type SamplingParams, samplingParams } from "./sampling-params.ts";
import { Tokenizer } from "./tokenizer/tokenizer.ts";

/** Text, which the tokenizer turns into ids with its own BOS or EOS, or the ids themselves. */
export type Prompt = string | readonly number[];

export interface LLMOptions extends EngineOptions {
  /** Turns the path given to `load` into an engine folder, for instance by compiling a model folder. */
  readonly resolve?: (path: string) => Promise<string>;
  /** Whether `generation_config.json` gives the defaults (true) or `defaultSamplingParams` alone; its EOS ids count either way. */
  readonly useGenerationConfig?: boolean;
  /** Default true. */
  readonly enablePrefixCaching?: boolean;
}

/** What one call may say beside the sampling parameters. */
export interface RequestOptions {
  readonly signal?: AbortSignal;
  /** Prefix cache blocks are shared only among requests of the same salt. */
  readonly cacheSalt?: string;
}

export interface ChatOptions extends RequestOptions {
  /** Functions that the template tells the model of, as JSON schemas in OpenAI's form; its calls come back as text. */
  readonly tools?: readonly unknown[];
  /** Further variables of the template, such as `enable_thinking`. */
  readonly templateKwargs?: Readonly<Record<string, unknown>>;
}

/** A device whose memory and threads are given back with `close`. */
export type ClosableDevice = Device & Pick<Engine, "threads" | "close">;

export interface LLMParts {
  readonly device: ClosableDevice;
  readonly name: string;
  readonly model: ModelFacts;
  /** Ids that end an output, those of `model` and of the generation config. */
  readonly eosTokenIds: readonly number[];
  /** undefined for an engine of random weights: such one takes and gives ids only. */
  readonly tokenizer: Tokenizer | undefined;
  readonly chatTemplate: ChatTemplate | undefined;
  readonly defaultParams: Partial<SamplingParams>;
  readonly enablePrefixCaching?: boolean;
}

const NO_TEXT: Detokenizer = { stream: () => ({ push: () => "", flush: () => "" }) };

/** A loaded language model. It holds memory and threads until `close`. */
export class LLM {
  /** The loop below: requests by ids, statistics, draining. */
  readonly engine: AsyncEngine;
  /** The engine's name in its manifest. */
  readonly name: string;
  readonly model: ModelFacts;
  /** Threads of a CPU's team; null where a GPU runs the kernels. */
  readonly threads: number | null;
  readonly chatTemplate: ChatTemplate | undefined;
  /** What a request gets where it says nothing. */
  readonly defaultParams: Partial<SamplingParams>;
  readonly #device: ClosableDevice;
  readonly #tokenizer: Tokenizer | undefined;

  /** Puts loaded parts together; `LLM.load` is the usual way. */
  constructor(parts: LLMParts) {
    this.#device = parts.device;
    this.name = parts.name;
    this.model = parts.model;
    this.threads = parts.device.threads;
    this.#tokenizer = parts.tokenizer;
    this.chatTemplate = parts.chatTemplate;
    this.defaultParams = parts.defaultParams;
    const { eosTokenIds, enablePrefixCaching } = parts;
    const { numLayers } = parts.model;
    this.engine = new AsyncEngine(parts.device, parts.tokenizer ?? NO_TEXT, { eosTokenIds, numLayers, enablePrefixCaching });
  }

  /**
   * Loads the engine in `path`.
   *
   * @throws ManifestError when the folder's files are missing or damaged; EngineError when it cannot run here as asked.
   */
  static async load(path: string, options: LLMOptions = {}): Promise<LLM> {
    return new LLM(await loadParts(path, options));
  }

  /** @throws RequestError 400 when the engine has none. */
  get tokenizer(): Tokenizer {
    if (this.#tokenizer === undefined) throw noTokenizer();
    return this.#tokenizer;
  }

  /** Stop strings are compared with text. @throws RequestError 400 when there are some and the engine has no tokenizer. */
  checkStops({ stop }: Pick<SamplingParams, "stop">): void {
    if (stop.length > 0 && this.#tokenizer === undefined) throw noTokenizer();
  }

  /** Most tokens of prompt and output together. */
  get maxModelLen(): number {
    return this.engine.maxTotalTokens;
  }

  /**
   * Completes every prompt, all of them in one batch, in the order given. One that cannot be served stops all: none is half done.
   *
   * @throws RequestError for a prompt or parameter that cannot be served; EngineError when the engine fails or is closed.
   */
  async generate(
    prompts: Prompt | readonly Prompt[],
    params: Partial<SamplingParams> = {},
    options: RequestOptions = {},
  ): Promise<RequestOutput[]> {
    // All are checked before the first one starts. Each has a signal of its own: many listeners on one would raise a warning.
    const jobs = asList(prompts).map((prompt) => {
      const controller = new AbortController();
      const request = this.#request(prompt, params, { ...options, signal: controller.signal });
      return { controller, request, text: typeof prompt === "string" ? prompt : null, deltas: this.engine.generate(request) };
    });
    const { signal } = options;
    const abort = (): void => {
      for (const { controller } of jobs) controller.abort();
    };
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort);
    try {
      return await Promise.all(jobs.map(({ request, text, deltas }) => collectOutput(request, text, deltas)));
    } catch (error) {
      abort();
      throw error;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /**
   * Completes one prompt and tells what comes as it comes. Leaving the loop early aborts it.
   *
   * @throws RequestError at once when it cannot be served; EngineError also from the iteration.
   */
  stream(prompt: Prompt, params: Partial<SamplingParams> = {}, options: RequestOptions = {}): AsyncIterableIterator<OutputDelta> {
    return this.engine.generate(this.#request(prompt, params, options));
  }

  /** Answers a conversation, rendered by the model's chat template. @throws as `generate` does, also when there is no template. */
  async chat(
    messages: readonly ChatMessage[],
    params: Partial<SamplingParams> = {},
    options: ChatOptions = {},
  ): Promise<RequestOutput> {
    const prompt = this.#renderChat(messages, options);
    const request = this.#request(this.#encodeChat(prompt), params, options);
    return collectOutput(request, prompt, this.engine.generate(request));
  }

  /** Answers a conversation and tells what comes as it comes. @throws as `stream` does. */
  streamChat(
    messages: readonly ChatMessage[],
    params: Partial<SamplingParams> = {},
    options: ChatOptions = {},
  ): AsyncIterableIterator<OutputDelta> {
    return this.stream(this.#encodeChat(this.#renderChat(messages, options)), params, options);
  }

  /**
   * Scores tokens without generating: logits (T, vocab) and, with `hidden`, the residual stream: numLayers + 1 arrays (T, hiddenSize).
   *
   * @throws RequestError when they do not fit; EngineError when the engine fails or is closed.
   */
  forward(tokenIds: readonly number[], options: ForwardOptions = {}): Promise<ForwardResult> {
    return this.engine.forward(tokenIds, options);
  }

  /** Aborts what runs, waits for the step in flight, gives back memory and threads. */
  async close(): Promise<void> {
    await this.engine.close();
    await this.#device.close();
  }

  #request(prompt: Prompt, given: Partial<SamplingParams>, { signal, cacheSalt }: RequestOptions): GenerateRequest {
    const asked = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
    const params = samplingParams({ ...this.defaultParams, ...asked });
    this.checkStops(params);
    const promptTokenIds = typeof prompt === "string" ? this.tokenizer.encode(prompt, { addSpecialTokens: true }) : prompt;
    return { requestId: randomUUID(), promptTokenIds, params, signal, cacheSalt };
  }

  #renderChat(messages: readonly ChatMessage[], { tools, templateKwargs }: ChatOptions): string {
    if (this.chatTemplate === undefined) {
      throw new RequestError(400, "this model has no chat template; use generate or stream with the whole prompt");
    }
    return this.chatTemplate.render({ messages, tools, templateKwargs, addGenerationPrompt: true });
  }

  /** A rendered chat brings its own special tokens. */
  #encodeChat(rendered: string): readonly number[] {
    return this.tokenizer.encode(rendered, { addSpecialTokens: false });
  }
}

function noTokenizer(): RequestError {
  return new RequestError(
    400,
    "this engine has no tokenizer: give prompts as token ids and no stop strings, or compile a model folder with a tokenizer.json",
  );
}

/** Loads what an `LLM` is put together of. @throws as `LLM.load` does. */
export async function loadParts(path: string, options: LLMOptions = {}): Promise<LLMParts> {
  const folder = options.resolve === undefined ? path : await options.resolve(path);
  const generationConfig = loadGenerationConfig(folder);
  const hasTokenizer = existsSync(join(folder, "tokenizer.json"));
  const tokenizer = hasTokenizer ? await Tokenizer.load(folder) : undefined;
  const chatTemplate = await ChatTemplate.load(folder);
  const engine = await Engine.load(folder, options); // last: nothing to give back when the rest fails
  const { name, model } = engine.manifest;
  return {
    device: engine,
    name,
    model,
    eosTokenIds: [...new Set([...model.eosTokenIds, ...generationConfig.eosTokenIds])],
    tokenizer,
    chatTemplate,
    defaultParams: (options.useGenerationConfig ?? true) ? generationConfig.params : {},
    enablePrefixCaching: options.enablePrefixCaching,
  };
}

function asList(prompts: Prompt | readonly Prompt[]): readonly Prompt[] {
  if (typeof prompts === "string") return [prompts];
  if (!Array.isArray(prompts)) {
    throw new RequestError(400, "prompts must be a text, token ids, or a list of texts and lists of token ids");
  }
  return typeof prompts[0] === "number" ? [prompts as readonly number[]] : (prompts as readonly Prompt[]);
}
