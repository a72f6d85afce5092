/**
 * Flags that several verbs share, each with its `INGOT_…` variable; names are vLLM's where vLLM has one.
 */
import { type Command, InvalidArgumentError, Option } from "commander";
import { MAX_LIMITS } from "../../runtime/manifest.ts";
import { knownTargets } from "../schedule/target.ts";
import { UsageError } from "./exit.ts";

/** A whole number of at least `least`, and of at most `most` where that is given. */
export const integer =
  (least: number, most = Number.MAX_SAFE_INTEGER) =>
  (text: string): number => {
    const value = Number(text);
    if (text.trim() !== "" && Number.isInteger(value) && value >= least && value <= most) return value;
    const range = most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `from ${least} to ${most}`;
    throw new InvalidArgumentError(`expected a whole number ${range}.`);
  };

/** A number between two bounds, both included. */
export const between =
  (low: number, high: number) =>
  (text: string): number => {
    const value = Number(text);
    if (text.trim() === "" || !(value >= low && value <= high))
      throw new InvalidArgumentError(`expected a number from ${low} to ${high}.`);
    return value;
  };

/** A size such as `8GiB`, `500MB` or plain bytes. */
export function byteSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(B|kB|KB|KiB|MB|MiB|GB|GiB|TB|TiB)?$/.exec(text.trim());
  if (!match) throw new InvalidArgumentError("expected a size such as 8GiB, 500MB or a number of bytes.");
  const units: Record<string, number> = {
    B: 1,
    kB: 1e3,
    KB: 1e3,
    MB: 1e6,
    GB: 1e9,
    TB: 1e12,
    KiB: 2 ** 10,
    MiB: 2 ** 20,
    GiB: 2 ** 30,
    TiB: 2 ** 40,
  };
  return Math.floor(Number(match[1]) * (units[match[2] ?? "B"] as number));
}

/** Adds a flag with a value, read from the command line or from its `INGOT_…` variable. */
export function flag<T>(
  command: Command,
  flags: string,
  description: string,
  parse?: (text: string) => T,
  fallback?: T,
): Command {
  const option = new Option(flags, description);
  const name = variableOf(option);
  if (process.env[name] !== "") option.env(name); // what is set to nothing counts as unset
  if (parse) option.argParser(parse);
  if (fallback !== undefined) option.default(fallback);
  return command.addOption(option);
}

/**
 * Adds a flag without a value: `--json`, or `--no-build` for what is on by default. Its variable says 1 or 0 about the thing itself:
 * `INGOT_BUILD=0` is `--no-build`. Throws `UsageError` for a variable that says something else.
 */
export function toggle(command: Command, flags: string, description: string): Command {
  const option = new Option(flags);
  const name = variableOf(option);
  option.description = `${description} (env: ${name})`;
  const said = process.env[name];
  const value = said === undefined || said === "" ? option.negate : TOGGLES[said.toLowerCase()];
  if (value === undefined) throw new UsageError(`${name} is ${JSON.stringify(said)}; expected 1 or 0`);
  command.addOption(option);
  // Not as the option's default: where a flag has a negated twin, only one of the two may have one.
  if (value !== option.negate) command.setOptionValueWithSource(option.attributeName(), value, "env");
  return command;
}

const TOGGLES: Readonly<Record<string, boolean>> = {
  1: true,
  true: true,
  yes: true,
  on: true,
  0: false,
  false: false,
  no: false,
  off: false,
};

const variableOf = (option: Option): string =>
  `INGOT_${(option.long ?? "")
    .replace(/^--(no-)?/, "")
    .replaceAll("-", "_")
    .toUpperCase()}`;

/** Which model, whatever it becomes. */
export interface ModelFlags {
  readonly dtype: string;
  readonly weights: string;
  readonly weightsSeed: number;
  readonly layers?: number;
  /** A TypeScript file that exports the model's architecture. */
  readonly arch?: string;
}

/** How a model becomes an engine. */
export interface CompileFlags extends ModelFlags {
  readonly target: string;
  readonly kvCacheDtype: string;
  readonly maxModelLen?: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
}

export function addCompileFlags(command: Command): Command {
  const d = defaultCompileFlags();
  const targets = `native, or ${knownTargets.join(" | ")}`;
  flag(command, "--target <target>", targets, undefined, d.target);
  const kvDtypes = "auto (the weights' dtype), float32, bfloat16, float16, or fp8 on a GPU";
  flag(command, "--kv-cache-dtype <dtype>", kvDtypes, undefined, d.kvCacheDtype);
  flag(command, "--max-model-len <tokens>", "longest context; default: what the model says", integer(1));
  flag(command, "--max-num-seqs <n>", "most sequences in one step", integer(1, MAX_LIMITS.maxNumSeqs), d.maxNumSeqs);
  flag(
    command,
    "--max-num-batched-tokens <n>",
    "most tokens in one step",
    integer(1, MAX_LIMITS.maxNumBatchedTokens),
    d.maxNumBatchedTokens,
  );
  return addModelFlags(command);
}

export function addModelFlags(command: Command): Command {
  const d = defaultCompileFlags();
  flag(command, "--dtype <dtype>", "auto (the checkpoint's), float32, bfloat16 or float16", undefined, d.dtype);
  flag(command, "--weights <source>", "checkpoint, or random for a built-in preset's true shapes", undefined, d.weights);
  flag(command, "--weights-seed <n>", "seed of random weights", integer(0), d.weightsSeed);
  flag(command, "--layers <n>", "keep only the first n layers (for experiments)", integer(1));
  flag(command, "--arch <file>", "TypeScript that exports the model's architecture (see models/TUTORIAL.md)");
  return command;
}

/** How an engine is loaded. */
export interface LoadFlags {
  readonly threads?: number;
  readonly kvCacheMemory?: number;
  readonly memoryUtilization: number;
  /** Default true. */
  readonly enablePrefixCaching?: boolean;
  /** Refuses an engine that is not. */
  readonly batchInvariant?: boolean;
  /** Index of the GPU. */
  readonly device?: number;
}

export function addLoadFlags(command: Command): Command {
  flag(command, "--threads <n>", "threads that compute; default: one a physical core", integer(1));
  flag(command, "--device <n>", "which GPU, as its driver counts them; default: 0", integer(0));
  flag(command, "--kv-cache-memory <size>", "memory for the KV cache, such as 4GiB; default: from free memory", byteSize);
  flag(command, "--memory-utilization <share>", "share of free memory the KV cache may take", between(0.01, 1), 0.9);
  toggle(command, "--enable-prefix-caching", "reuse what was computed of equal beginnings: on by default");
  toggle(command, "--no-enable-prefix-caching", "compute every prompt from its first token");
  toggle(command, "--batch-invariant", "the same tokens whatever else is in the batch: always so on CPUs, refused elsewhere");
  return command;
}

export function addJsonFlag(command: Command): Command {
  return toggle(command, "--json", "print the result as JSON");
}

/** Any number; what reads it checks its range. */
export function number(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || Number.isNaN(value)) throw new InvalidArgumentError("expected a number.");
  return value;
}

/** What the flags say when nobody says anything, neither on the command line nor in a variable. */
export const defaultCompileFlags = (): CompileFlags => ({
  target: "native",
  dtype: "auto",
  kvCacheDtype: "auto",
  maxNumSeqs: 256,
  maxNumBatchedTokens: 2048,
  weights: "checkpoint",
  weightsSeed: 0,
});
