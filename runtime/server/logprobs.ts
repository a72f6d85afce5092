/**
 * Log-probabilities in OpenAI's two shapes: a list of tokens with bytes (chat), parallel lists with text offsets (completions).
 *
 * The lists cover the tokens that make up the text: the id that ended an output is in neither.
 */
import type { OutputDelta, TokenLogprob } from "../request.ts";
import type { SamplingParams } from "../sampling-params.ts";
import type { ServerTokenizer } from "./server-model.ts";

export interface ChatTopLogprob {
  readonly token: string;
  readonly logprob: number;
  readonly bytes: readonly number[];
}

export interface ChatTokenLogprob extends ChatTopLogprob {
  readonly top_logprobs: readonly ChatTopLogprob[];
}

export interface ChatLogprobs {
  content: ChatTokenLogprob[];
  refusal: null;
}

export interface CompletionLogprobs {
  /** In code points, from the start of the choice's text. */
  text_offset: number[];
  token_logprobs: number[];
  tokens: string[];
  top_logprobs: Record<string, number>[];
}

/** JSON has no −∞; OpenAI and vLLM send this for what has no probability at all. */
const LEAST_LOGPROB = -9999;

/** The delta's log-probabilities without that of an id which ended the output and is not in its text. */
export function textLogprobs(delta: OutputDelta, params: SamplingParams): readonly TokenLogprob[] {
  const all = delta.logprobs ?? [];
  const endedById = delta.finishReason === "stop" && typeof delta.stopReason !== "string";
  return endedById && !params.includeStopStrInOutput ? all.slice(0, -1) : all;
}

/** Chat's shape for a piece of the output. */
export function chatLogprobs(tokenizer: ServerTokenizer, logprobs: readonly TokenLogprob[]): ChatLogprobs {
  const entry = ({ id, logprob }: { readonly id: number; readonly logprob: number }): ChatTopLogprob => {
    const bytes = tokenizer.tokenBytes(id);
    return { token: utf8(bytes) ?? escapeBytes(bytes), logprob: Math.max(logprob, LEAST_LOGPROB), bytes: [...bytes] };
  };
  const content = logprobs.map((token) => ({ ...entry(token), top_logprobs: token.top.map(entry) }));
  return { content, refusal: null };
}

/** Builds the completions' shape piece by piece; offsets go on from the last one. */
export class CompletionLogprobsBuilder {
  readonly #tokenizer: ServerTokenizer;
  readonly #decoder = new TextDecoder("utf-8");
  #offset = 0;

  constructor(tokenizer: ServerTokenizer) {
    this.#tokenizer = tokenizer;
  }

  next(logprobs: readonly TokenLogprob[]): CompletionLogprobs {
    const piece: CompletionLogprobs = { text_offset: [], token_logprobs: [], tokens: [], top_logprobs: [] };
    for (const { id, logprob, top } of logprobs) {
      const token = this.#spell(id);
      const value = Math.max(logprob, LEAST_LOGPROB);
      // The sampled token is always among them. Ids that spell alike share a key; the likelier one has it.
      const alternatives = new Map([[token, value]]);
      for (const other of top) {
        const name = this.#spell(other.id);
        if (!alternatives.has(name)) alternatives.set(name, Math.max(other.logprob, LEAST_LOGPROB));
      }
      piece.tokens.push(token);
      piece.token_logprobs.push(value);
      piece.top_logprobs.push(Object.fromEntries(alternatives));
      piece.text_offset.push(this.#offset);
      this.#offset += [...this.#decoder.decode(this.#tokenizer.tokenBytes(id), { stream: true })].length;
    }
    return piece;
  }

  #spell(id: number): string {
    const bytes = this.#tokenizer.tokenBytes(id);
    return utf8(bytes) ?? `bytes:${escapeBytes(bytes)}`;
  }
}

/** The pieces of one choice as one. */
export function joinCompletionLogprobs(pieces: readonly CompletionLogprobs[]): CompletionLogprobs {
  return {
    text_offset: pieces.flatMap((piece) => piece.text_offset),
    token_logprobs: pieces.flatMap((piece) => piece.token_logprobs),
    tokens: pieces.flatMap((piece) => piece.tokens),
    top_logprobs: pieces.flatMap((piece) => piece.top_logprobs),
  };
}

/** The text, or undefined where the bytes are only a part of a character. */
function utf8(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

function escapeBytes(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
}
