/**
 * A model's chat template: messages in, the prompt's text out, as transformers' `apply_chat_template` renders it.
 *
 * The template is a program from outside: @huggingface/jinja interprets it without access to anything, and a time limit ends
 * one that does not stop. This does not parse what the model answers, and it does not cut or encode the text: a rendered prompt
 * brings its own special tokens, so it is encoded with `addSpecialTokens: false`.
 */
import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";
import { RequestError } from "../errors.ts";
import { TimeLimit, TimeLimitError } from "../tokenizer/time-limit.ts";
import { loadTokenizerConfig, readModelFile } from "../tokenizer/tokenizer-config.ts";
import { strftime } from "./strftime.ts";

/** A part of a message's content; templates of text models want strings, those of others may loop over parts. */
export interface ChatContentPart {
  readonly type: string;
  readonly text?: string;
}

/** A call that the model made; `arguments` is an object for most templates, some also take JSON text. */
export interface ChatToolCall {
  readonly id?: string;
  readonly type?: string;
  readonly function: { readonly name: string; readonly arguments: unknown };
}

/** One message of a conversation; fields are OpenAI's, and reach the template under the same names. */
export interface ChatMessage {
  readonly role: string;
  readonly content?: string | readonly ChatContentPart[] | null;
  readonly name?: string;
  readonly reasoning_content?: string;
  readonly tool_calls?: readonly ChatToolCall[];
  readonly tool_call_id?: string;
}

export interface ChatRenderRequest {
  readonly messages: readonly ChatMessage[];
  /** Functions that the model may call, as JSON schemas in OpenAI's form; empty counts as none. */
  readonly tools?: readonly unknown[];
  /** Whether the text ends where the assistant's answer begins; default true. */
  readonly addGenerationPrompt?: boolean;
  /** Further variables of the template, such as `enable_thinking`; they do not replace the ones above. */
  readonly templateKwargs?: Readonly<Record<string, unknown>>;
}

const maxTemplateBytes = 2 ** 20;
const renderLimitMs = 5000;
/** The sandbox of Python's jinja2 has the same limit (`MAX_RANGE`). */
const maxRange = 100_000;

type Program = ReturnType<typeof parse>;

const constants = { true: true, false: false, none: null, True: true, False: false, None: null };

/** What a template's `raise_exception` throws. */
class TemplateRefusal extends Error {}

export class ChatTemplate {
  private readonly sources: Readonly<Record<string, string>>;
  private readonly specialTokens: Readonly<Record<string, string>>;
  private readonly parsed = new Map<string, Program>();
  private readonly timeLimit = new TimeLimit();

  /** `sources` by name, as transformers names them ("default", "tool_use"); `specialTokens` (`bos_token`, …) become variables. */
  constructor(sources: Readonly<Record<string, string>>, specialTokens: Readonly<Record<string, string>> = {}) {
    this.sources = sources;
    this.specialTokens = specialTokens;
  }

  /**
   * Reads the template of a model or engine folder: `chat_template.jinja`, else `chat_template` of tokenizer_config.json;
   * undefined where there is neither. Throws `ManifestError` on files that cannot be read.
   */
  static async load(folder: string): Promise<ChatTemplate | undefined> {
    const [source, config] = await Promise.all([
      readModelFile(folder, "chat_template.jinja", maxTemplateBytes),
      loadTokenizerConfig(folder),
    ]);
    const sources = source === undefined ? config.chatTemplates : { default: source };
    return Object.keys(sources).length === 0 ? undefined : new ChatTemplate(sources, config.specialTokens);
  }

  /** Renders the prompt. Throws `RequestError` 400 with the template's own words when it refuses the messages. */
  render(request: ChatRenderRequest): string {
    const { messages, addGenerationPrompt = true, templateKwargs = {} } = request;
    const tools = request.tools !== undefined && request.tools.length > 0 ? request.tools : null;
    const program = this.program(tools !== null);
    const variables = {
      ...this.specialTokens,
      ...templateKwargs,
      messages,
      tools,
      documents: null,
      add_generation_prompt: addGenerationPrompt,
      raise_exception: (message: unknown) => {
        throw new TemplateRefusal(String(message));
      },
      strftime_now: (format: unknown) => strftime(new Date(), String(format)),
      range: boundedRange,
      ...constants,
    };
    try {
      const environment = new Environment();
      for (const [name, value] of Object.entries(variables)) environment.set(name, value);
      return String(this.timeLimit.run(renderLimitMs, () => new Interpreter(environment).run(program)).value);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      const what =
        error instanceof TemplateRefusal
          ? `the model's chat template refuses these messages: ${why}`
          : error instanceof TimeLimitError
            ? `the model's chat template was ${why}`
            : `the model's chat template fails on these messages: ${why}`;
      throw new RequestError(400, what, { param: "messages", cause: error });
    }
  }

  /** Parses on first use: a model whose template cannot be parsed still completes plain prompts. */
  private program(withTools: boolean): Program {
    const names = Object.keys(this.sources);
    const wanted = withTools ? ["tool_use", "default"] : ["default"];
    const name = wanted.find((n) => Object.hasOwn(this.sources, n)) ?? (names.length === 1 ? names[0] : undefined);
    if (name === undefined) {
      throw new RequestError(
        400,
        `the model has the chat templates ${names.map((n) => JSON.stringify(n)).join(", ")}; expected one named "default". Use completions with the whole prompt`,
        { param: "messages" },
      );
    }
    const known = this.parsed.get(name);
    if (known !== undefined) return known;
    try {
      // As transformers sets its environment.
      const program = parse(tokenize(this.sources[name]!, { lstrip_blocks: true, trim_blocks: true }));
      this.parsed.set(name, program);
      return program;
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new RequestError(
        400,
        `the model's chat template cannot be parsed: ${why}. Use completions with the whole prompt, or repair the template in the model's folder`,
        { param: "messages", cause: error },
      );
    }
  }
}

/** Python's `range`, no longer than its sandbox allows. */
function boundedRange(first: number, second?: number, step = 1): number[] {
  const [start, stop] = second === undefined ? [0, first] : [first, second];
  if (![start, stop, step].every(Number.isInteger) || step === 0)
    throw new Error("range() takes integers and a step other than 0");
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (length > maxRange) throw new Error(`range() of ${length} is too long; the limit is ${maxRange}`);
  return Array.from({ length }, (_, i) => start + i * step);
}
