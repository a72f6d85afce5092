/**
 * What the server needs of a loaded model. `AsyncEngine`, a tokenizer and a chat template satisfy it together; so does a fake in tests.
 */
import type { EngineStats, GenerateRequest, OutputDelta } from "../request.ts";
import type { SamplingParams } from "../sampling-params.ts";

/** A message of a conversation as the chat template sees it: parts joined, "developer" turned into "system". */
export interface ServerChatMessage {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
  readonly name?: string;
  readonly reasoning_content?: string;
}

export interface RenderChatRequest {
  readonly messages: readonly ServerChatMessage[];
  readonly addGenerationPrompt: boolean;
  /** Further variables of the template, such as `enable_thinking`. */
  readonly templateKwargs: Readonly<Record<string, unknown>>;
}

export interface ServerTokenizer {
  /** @throws RequestError 400 on a text of more than `maxTokens`. */
  encode(text: string, options: { readonly addSpecialTokens: boolean; readonly maxTokens?: number }): readonly number[];
  decode(ids: readonly number[], options: { readonly skipSpecialTokens: boolean }): string;
  /** The token as the vocabulary spells it; undefined for an id that is not in it. */
  idToToken(id: number): string | undefined;
  /** What the token adds to the text, as UTF-8; may be part of a character. Special tokens give their name. */
  tokenBytes(id: number): Uint8Array;
}

export interface ServerModel {
  readonly modelName: string;
  /** Most tokens of prompt and output together. */
  readonly maxModelLen: number;
  readonly tokenizer: ServerTokenizer;
  /** What a request gets where it says nothing (`generation_config.json`). */
  readonly defaultParams: Partial<SamplingParams>;
  /** Why the engine has stopped for good, if it has. One failed request is none. */
  readonly failure: Error | undefined;
  /** @throws RequestError 400 when the model has no chat template or the template refuses the messages. */
  renderChat(request: RenderChatRequest): string;
  /**
   * Checks a request at once and starts it when the result is first asked for news.
   * @throws RequestError when it cannot be served; EngineError when the engine has stopped, also from the iteration.
   */
  generate(request: GenerateRequest): AsyncIterable<OutputDelta>;
  stats(): EngineStats;
}
