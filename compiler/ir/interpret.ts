/**
 * What a graph means: slow, obvious f32 arithmetic, one node at a time. Everything fast is compared with it.
 *
 * Values are rounded to f32 (or to a cast's dtype) where a node ends; sums inside a node run in double precision, so that the
 * result does not depend on an order of summation.
 */
import { CompileError, invariant } from "../errors.ts";
import type { Graph } from "./graph.ts";
import { type Context, meaning, type Value } from "./meaning.ts";
import type { Node } from "./ops.ts";
import type { InterpretEnvironment, KvState, StepInputs, WeightSource } from "./step.ts";
import { extentOf, printType } from "./tensor-type.ts";

/** Row-major values; a tap's and the logits' shapes are their nodes' types under the step's binding. */
export interface Interpretation {
  readonly logits: Float32Array;
  readonly taps: ReadonlyMap<string, Float32Array>;
  /** The cache of each layer after the step. */
  readonly kv: ReadonlyMap<number, KvState>;
}

/** Evaluates one step of a graph. Throws `CompileError` when an input or a weight does not have the size its type says. */
export function interpret(graph: Graph, env: InterpretEnvironment): Interpretation {
  const nodes = graph.liveNodes();
  const uses = new Map<Node, number>();
  const use = (node: Node, by: number) => uses.set(node, (uses.get(node) ?? 0) + by);
  for (const node of nodes) for (const operand of node.operands) use(operand, 1);
  for (const node of [graph.logits, ...graph.taps.values()]) use(node, 1);

  const values = new Map<Node, Value>();
  const kv = new Map<number, KvState>();
  for (const node of nodes) {
    values.set(node, evaluate(node, values, env));
    if (node.op === "store_kv") kv.set(layerOf(node), values.get(node) as KvState);
    for (const operand of node.operands) {
      use(operand, -1);
      if (uses.get(operand) === 0) values.delete(operand);
    }
  }
  const array = (node: Node) => values.get(node) as Float32Array;
  return { logits: array(graph.logits), taps: new Map([...graph.taps].map(([name, node]) => [name, array(node)])), kv };
}

/** Runs a graph step after step over a cache of its own, as an engine would. */
export class Interpreter {
  private readonly constants = new Map<Node, Float32Array>();
  private readonly cache = new Map<number, KvState>();

  constructor(
    private readonly graph: Graph,
    private readonly weights: WeightSource,
    private readonly numBlocks: number,
  ) {
    for (const node of graph.liveNodes()) {
      if (node.op !== "kv_cache") continue;
      const size = numBlocks * graph.limits.blockSize * node.attrs.numKvHeads * node.attrs.headDim;
      const state = { blockSize: graph.limits.blockSize, k: new Float32Array(size), v: new Float32Array(size) };
      this.cache.set(node.attrs.layer, state);
    }
  }

  /** Evaluates one step and keeps the caches it leaves. */
  step(step: StepInputs): Interpretation {
    const { weights, constants, numBlocks } = this;
    invariant(
      step.arrays.block_tables.every((b) => b >= 0 && b < numBlocks),
      `block_tables names a block outside the ${numBlocks} there are`,
    );
    const kv = (layer: number) => this.cache.get(layer) as KvState;
    const result = interpret(this.graph, { step, weights, constants, kv });
    for (const [layer, state] of result.kv) this.cache.set(layer, state);
    return result;
  }
}

function evaluate(node: Node, values: ReadonlyMap<Node, Value>, env: InterpretEnvironment): Value {
  const known = env.constants?.get(node);
  if (known) return known;
  const context: Context = {
    env,
    f32: (n) => values.get(n) as Float32Array,
    i32: (n) => values.get(n) as Int32Array,
    kv: (n) => values.get(n) as KvState,
    shape: (n) => n.type.shape.map((d) => extentOf(d, env.step.binding)),
  };
  const value = (meaning[node.op] as (n: Node, c: Context) => Value)(node, context);
  if (node.op !== "kv_cache" && node.op !== "store_kv") {
    const expected = context.shape(node).reduce((a, b) => a * b, 1);
    const { length } = value as Float32Array;
    if (length !== expected) {
      const name = node.op === "input" || node.op === "weight" ? ` ${node.attrs.name}` : "";
      throw new CompileError(`${node.op}${name} holds ${length} elements; ${printType(node.type)} has ${expected} in this step`);
    }
  }
  const madeOfWeights = node.op === "weight" || (node.operands.length > 0 && node.operands.every((o) => env.constants?.has(o)));
  if (madeOfWeights) env.constants?.set(node, value as Float32Array);
  return value;
}

function layerOf(node: Node): number {
  if (node.op === "kv_cache") return node.attrs.layer;
  return layerOf(node.operands[0] as Node);
}
