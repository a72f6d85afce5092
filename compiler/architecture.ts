/**
 * What the compiler asks of a model: a configuration read from `config.json` and a function that builds the graph.
 *
 * Models live outside the compiler and are handed to it; this file is the contract between the two.
 */
import { inspect } from "node:util";
import { z } from "zod";
import type { ModelFacts } from "../runtime/manifest.ts";
import { modelFactsFaults } from "../runtime/manifest-schema.ts";
import { CompileError } from "./errors.ts";
import { Graph } from "./ir/graph.ts";
import { authorsLine, printSourceLine, sourceLines } from "./ir/source-line.ts";
import type { DType } from "./ir/tensor-type.ts";

/** The facts every model states; an architecture extends them with its own. `dtype` is what the model computes in. */
export type ModelConfig = ModelFacts;

/** A checkpoint tensor a model reads. `dtype` is what the graph wants it as, whatever the checkpoint stores. */
export interface WeightSpec {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** Checkpoint tensors, by how their names begin, that a model knowingly does not read. */
export interface UnusedTensors {
  readonly prefix: string;
  /** A clause for a report: "layer 46 predicts further tokens ahead, which is not done". */
  readonly why: string;
}

export interface Architecture<C extends ModelConfig = ModelConfig> {
  /** As `architectures` of config.json says it: "Qwen3ForCausalLM". */
  readonly name: string;
  /** Reads untrusted `config.json`. Throws `CompileError` naming the field, what was expected and what was found. */
  readConfig(json: unknown): C;
  /** Builds the model into `g`, ending with `g.setLogits`. Throws `CompileError`. */
  build(config: C, g: Graph): void;
  /** Every tensor the built graph reads, in the order of its first use. */
  weights(config: C): readonly WeightSpec[];
  /** What published checkpoints hold beyond `weights`. Absent: nothing that is known. */
  unusedTensors?(config: C): readonly UnusedTensors[];
}

/** What the author of an architecture writes; the rest follows from the graph. */
export interface ArchitectureDefinition<C extends ModelConfig> {
  readonly name: string;
  readonly readConfig: (json: unknown) => Omit<C, "architecture" | "numParameters">;
  readonly build: (config: C, g: Graph) => void;
  readonly unusedTensors?: (config: C) => readonly UnusedTensors[];
}

/**
 * Completes an architecture: its weights and its number of parameters are read off the graph it builds. What the author's functions
 * throw or leave out becomes a `CompileError` that names the author's line.
 */
export function defineArchitecture<C extends ModelConfig>(definition: ArchitectureDefinition<C>): Architecture<C> {
  const [, caller] = sourceLines(new Error().stack ?? "");
  const definedAt = caller ? printSourceLine(caller) : "an unknown place";
  checkDefinition(definition, definedAt);
  const { name, unusedTensors } = definition;
  const author: Author = { name, definedAt };
  const build = (config: C, g: Graph): void => {
    const result: unknown = atAuthorsLine(author, "build", () => definition.build(config, g));
    if (result instanceof Promise)
      throw new CompileError(`${printAuthor(author)}: build is async; the graph must be built when it returns`);
    checkBuilt(author, config, g);
  };
  const weights = (config: C): readonly WeightSpec[] => {
    const g = new Graph({ maxModelLen: 1, maxNumSeqs: 1, maxNumBatchedTokens: 1, blockSize: 1 });
    build(config, g);
    return g.liveNodes().flatMap((node) => {
      if (node.op !== "weight") return [];
      return [{ name: node.attrs.name, dtype: node.type.dtype, shape: node.type.shape as readonly number[] }];
    });
  };
  return {
    name,
    build,
    weights,
    ...(unusedTensors ? { unusedTensors: (config) => atAuthorsLine(author, "unusedTensors", () => unusedTensors(config)) } : {}),
    readConfig(json) {
      const read = atAuthorsLine(author, "readConfig", () => definition.readConfig(json));
      const config = { ...read, architecture: name, numParameters: 0 } as C;
      const faults = modelFactsFaults(config);
      if (faults.length > 0) throw new CompileError(faults.map((f) => `${printAuthor(author)}: readConfig gave ${f}`).join("\n"));
      const sizes = weights(config).map(({ shape }) => shape.reduce((a, b) => a * b, 1));
      return { ...config, numParameters: sizes.reduce((a, b) => a + b, 0) };
    },
  };
}

/** An architecture and where it is defined, for errors about what is not there. */
interface Author {
  readonly name: string;
  readonly definedAt: string;
}

/** Throws `CompileError` for a definition that no type checker saw. */
function checkDefinition(definition: unknown, definedAt: string): void {
  const { name, readConfig, build } = (definition ?? {}) as Record<string, unknown>;
  if (typeof name === "string" && name !== "" && typeof readConfig === "function" && typeof build === "function") return;
  throw new CompileError(
    `${definedAt}: defineArchitecture takes { name, readConfig, build }: a name as config.json has it and two functions; ` +
      `found ${inspect(definition, { depth: 0, breakLength: Number.POSITIVE_INFINITY })}`,
  );
}

const printAuthor = ({ name, definedAt }: Author): string => `${name} (${definedAt})`;

/** Frames kept of a stack: the author's line stands above those of layers within layers. */
const STACK_DEPTH = 64;

/** Runs an author's function. What it throws without naming a place of its own is named by the author's line. */
function atAuthorsLine<R>(author: Author, what: string, body: () => R): R {
  const depth = Error.stackTraceLimit;
  Error.stackTraceLimit = STACK_DEPTH;
  try {
    return body();
  } catch (error) {
    if (error instanceof CompileError) throw error;
    const line = error instanceof Error ? authorsLine(error.stack ?? "") : undefined;
    if (error instanceof Error && !line) throw error; // a mistake of this program
    const thrown = error instanceof z.core.$ZodError ? `for config.json:\n${z.prettifyError(error)}` : printThrown(error);
    throw new CompileError(`${line ? printSourceLine(line) : author.definedAt}: ${what} of ${author.name} threw ${thrown}`, {
      cause: error,
    });
  } finally {
    Error.stackTraceLimit = depth;
  }
}

/** What was thrown, in a line: anything can be. */
export const printThrown = (thrown: unknown): string =>
  thrown instanceof Error || typeof thrown === "string"
    ? String(thrown)
    : inspect(thrown, { breakLength: Number.POSITIVE_INFINITY });

/** Throws `CompileError` where a graph lacks what every model has: logits, and a tap of the residual stream for each layer. */
function checkBuilt(author: Author, { numLayers }: ModelConfig, g: Graph): void {
  if (!g.hasLogits) throw new CompileError(`${printAuthor(author)}: build set no logits; it must end with g.setLogits(node)`);
  for (let layer = 0; layer <= numLayers; layer++) {
    if (g.taps.has(`hidden.${layer}`)) continue;
    throw new CompileError(
      `${printAuthor(author)}: build set no tap hidden.${layer}; expected g.tap("hidden.0", …) after the embedding, ` +
        `hidden.1 … hidden.${numLayers - 1} after each layer but the last, hidden.${numLayers} after the final norm`,
    );
  }
}

/** The dtype of weights and KV cache for a `dtype` as config.json names it. */
export const computeDType = (dtype: ModelConfig["dtype"]): DType =>
  ({ float32: "f32", float16: "f16", bfloat16: "bf16" })[dtype] as DType;
