/**
 * `ingot run`: one prompt answered on stdout, or a chat in the terminal.
 */
import { createInterface } from "node:readline/promises";
import { Command } from "commander";
import type { ChatMessage } from "../../../runtime/chat/template.ts";
import { RequestError } from "../../../runtime/errors.ts";
import type { LLM, Prompt } from "../../../runtime/llm.ts";
import type { OutputDelta } from "../../../runtime/request.ts";
import { type SamplingParams, samplingParams } from "../../../runtime/sampling-params.ts";
import { engineOf } from "../engine-of.ts";
import { Interrupted, UsageError } from "../exit.ts";
import { loadLlm, readManifest } from "../load.ts";
import {
  addCompileFlags,
  addJsonFlag,
  addLoadFlags,
  type CompileFlags,
  flag,
  integer,
  type LoadFlags,
  number,
  toggle,
} from "../options.ts";
import { log } from "../progress.ts";

type Flags = CompileFlags &
  LoadFlags & {
    json?: boolean;
    raw?: boolean;
    promptIds?: number[];
    system?: string;
    maxTokens?: number;
    temperature?: number;
    topK?: number;
    topP?: number;
    minP?: number;
    repetitionPenalty?: number;
    presencePenalty?: number;
    frequencyPenalty?: number;
    seed?: number;
    stop?: string[];
    ignoreEos?: boolean;
  };

export function runCommand(): Command {
  const command = new Command("run")
    .description("answer one prompt, or chat in the terminal when none is given")
    .argument("<model>", "an engine folder or a model folder (compiled on first use)")
    .argument("[prompt]", "what to answer; - reads it from standard input")
    .action(run);
  toggle(command, "--raw", "complete the prompt as it is, without the chat template");
  flag(command, "--prompt-ids <ids>", "token ids such as 1,2,3 in the place of a prompt: answered with token ids", tokenIds);
  flag(command, "--system <text>", "system message of the chat");
  flag(command, "--max-tokens <n>", "most tokens to generate", integer(1));
  flag(command, "--temperature <t>", "0 is greedy; default: the model's", number);
  flag(command, "--top-k <n>", "sample among the n likeliest tokens", number);
  flag(command, "--top-p <p>", "sample among the likeliest tokens that hold this probability", number);
  flag(command, "--min-p <p>", "drop tokens below this share of the likeliest one's probability", number);
  flag(command, "--repetition-penalty <r>", "above 1 makes tokens seen before less likely", number);
  flag(command, "--presence-penalty <p>", "subtracted once from the logits of tokens already generated", number);
  flag(command, "--frequency-penalty <p>", "subtracted per occurrence from the logits of tokens already generated", number);
  flag(command, "--seed <n>", "same seed, same text", number);
  flag(command, "--stop <text>", "end before this text; may be repeated", (s, all: string[] = []) => [...all, s]);
  toggle(command, "--ignore-eos", "go on past the end of the answer");
  addCompileFlags(command);
  addLoadFlags(command);
  return addJsonFlag(command);
}

async function run(model: string, argument: string | undefined, flags: Flags): Promise<void> {
  checkSampling(flags); // before a model is compiled
  if (flags.promptIds && argument !== undefined)
    throw new UsageError("--prompt-ids stand in the place of a prompt: give one of them");
  const prompt = flags.promptIds ?? (await textPrompt(argument));
  if (prompt === "") throw new UsageError("the prompt is empty: give one as an argument or on standard input");
  if (prompt === undefined && flags.json) throw new UsageError("--json needs a prompt: a chat in the terminal has no result");
  const folder = await engineOf(model, flags);
  const llm = await loadLlm(folder, flags);
  try {
    if (prompt === undefined) await chat(llm, readManifest(folder).name, flags);
    else await answer(llm, prompt, flags);
  } finally {
    await llm.close();
  }
}

function checkSampling(flags: Flags): void {
  try {
    samplingParams(paramsOf(flags));
  } catch (error) {
    if (!(error instanceof RequestError) || error.param === null) throw error;
    const flag = error.param.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    throw new UsageError(error.message.replace(error.param, `--${flag}`));
  }
}

/** Only what the user said: everything else is the model's default. */
function paramsOf(flags: Flags): Partial<SamplingParams> {
  const { maxTokens, temperature, topK, topP, minP, seed, stop, ignoreEos } = flags;
  const { repetitionPenalty, presencePenalty, frequencyPenalty } = flags;
  const penalties = { repetitionPenalty, presencePenalty, frequencyPenalty };
  const said = { maxTokens, temperature, topK, topP, minP, seed, stop, ignoreEos, ...penalties };
  return Object.fromEntries(Object.entries(said).filter(([, value]) => value !== undefined));
}

/** What was said on the command line or on standard input; undefined asks for a chat. */
async function textPrompt(argument: string | undefined): Promise<string | undefined> {
  const piped = argument === "-" || (argument === undefined && !process.stdin.isTTY);
  return piped ? await standardInput() : argument;
}

const tokenIds = (text: string): number[] => text.split(",").map(integer(0));

async function answer(llm: LLM, prompt: Prompt, flags: Flags): Promise<void> {
  const interrupt = new AbortController();
  const { signal } = interrupt;
  process.once("SIGINT", () => interrupt.abort());
  const isText = typeof prompt === "string";
  const deltas =
    isText && llm.chatTemplate !== undefined && !flags.raw
      ? llm.streamChat(messagesOf(flags, [{ role: "user", content: prompt }]), paramsOf(flags), { signal })
      : llm.stream(prompt, paramsOf(flags), { signal });
  const result = await show(deltas, flags.json || !isText ? null : process.stdout);
  if (flags.json) console.log(JSON.stringify(result, null, 2));
  else process.stdout.write(isText ? "\n" : `${result.tokenIds}\n`);
  if (result.finishReason === "abort") throw new Interrupted("interrupted");
}

async function chat(llm: LLM, name: string, flags: Flags): Promise<void> {
  if (!llm.chatTemplate) throw new UsageError(`${name} has no chat template: give a prompt, which is completed as it is`);
  const terminal = createInterface({ input: process.stdin, output: process.stderr, prompt: "\n> " });
  log(`chatting with ${name}: /new starts over, /exit or Ctrl-D ends, Ctrl-C stops an answer`);
  let messages = messagesOf(flags, []);
  let running: AbortController | undefined;
  let interrupted = false;
  terminal.on("SIGINT", () => {
    if (running) return running.abort();
    interrupted = true;
    terminal.close();
  });
  terminal.prompt();
  for await (const line of terminal) {
    const text = line.trim();
    if (text === "/exit") break;
    if (text === "/new") {
      messages = messagesOf(flags, []);
      log("(a new conversation)");
    } else if (/^\/\w+$/.test(text)) log(`${text} is not a command: there are /new and /exit`);
    else if (text !== "") {
      running = new AbortController();
      const asked: ChatMessage[] = [...messages, { role: "user", content: text }];
      try {
        const result = await show(llm.streamChat(asked, paramsOf(flags), { signal: running.signal }), process.stdout);
        process.stdout.write("\n");
        log(
          `${result.tokenIds.length} tokens, ${result.tokensPerSecond.toFixed(1)} tok/s${result.finishReason === "abort" ? ", stopped" : ""}`,
        );
        messages = [...asked, { role: "assistant", content: result.text }];
      } catch (error) {
        if (!(error instanceof RequestError)) throw error;
        log(`ingot: ${error.message}`);
      }
      running = undefined;
    }
    terminal.prompt();
  }
  terminal.close();
  if (interrupted) throw new Interrupted("interrupted");
}

const messagesOf = (flags: Flags, messages: readonly ChatMessage[]): ChatMessage[] => [
  ...(flags.system === undefined ? [] : [{ role: "system" as const, content: flags.system }]),
  ...messages,
];

/** Writes text as it comes; what came is the result. */
async function show(deltas: AsyncIterable<OutputDelta>, to: NodeJS.WritableStream | null) {
  const start = performance.now();
  let first = start;
  let text = "";
  const tokenIds: number[] = [];
  let finishReason: OutputDelta["finishReason"] = null;
  for await (const delta of deltas) {
    if (tokenIds.length === 0) first = performance.now();
    text += delta.text;
    tokenIds.push(...delta.tokenIds);
    finishReason = delta.finishReason ?? finishReason;
    to?.write(delta.text);
  }
  const seconds = (performance.now() - first) / 1000;
  const tokens = tokenIds.length;
  const tokensPerSecond = tokens > 1 ? (tokens - 1) / seconds : 0;
  return { text, tokenIds, tokens, finishReason, firstTokenMs: first - start, tokensPerSecond };
}

async function standardInput(): Promise<string> {
  const pieces: Buffer[] = [];
  for await (const piece of process.stdin) pieces.push(piece as Buffer);
  return Buffer.concat(pieces).toString("utf8");
}
