/**
 * A graph as an ONNX model: `input_ids` (batch, length) in, `logits` (batch, length, vocab) out, for a whole sequence at once.
 *
 * There is no cache and no mask for padding: rows of a batch are padded at their end, where no token before can see it.
 */
import { invariant } from "../errors.ts";
import type { Graph } from "../ir/graph.ts";
import type { Node, NodeOf, OpName } from "../ir/ops.ts";
import type { WeightsPlan } from "../weights/layout.ts";
import { GraphBuilder, type Value } from "./builder.ts";
import { type Context, extentsOf, INPUT_IDS, type KeysAndValues } from "./context.ts";
import { forms } from "./forms.ts";
import { elementType, IR_VERSION, type ModelProto, OPSET, type TensorProto, tensorType } from "./proto.ts";
import { Initializers } from "./weights.ts";

/** What a model says of itself. */
export interface OnnxFacts {
  readonly name: string;
  /** Of this compiler. */
  readonly version: string;
  readonly metadata: Readonly<Record<string, string>>;
}

/** A model whose weights are still where they were. */
export interface OnnxModel {
  /** All but the weights. */
  readonly model: ModelProto;
  /** Names, types and shapes of the weights; `plan` has as many tensors in the same order. */
  readonly initializers: readonly TensorProto[];
  readonly plan: WeightsPlan;
}

const OUTPUT = "logits";
const DOC =
  "The logits of every token of whole sequences, which start at position 0. " +
  "Shorter sequences of a batch are padded at their end: no token sees what comes after it.";

/** Throws `UnsupportedError` for graphs that need a cache or another state of earlier steps. */
export function onnxModel(graph: Graph, facts: OnnxFacts): OnnxModel {
  const onnx = new GraphBuilder();
  const initializers = new Initializers();
  addNodes(graph, onnx, initializers);
  const type = tensorType("f32", extentsOf(graph.logits));
  const model: ModelProto = {
    irVersion: IR_VERSION,
    opsetImport: [{ domain: "", version: OPSET }],
    producerName: "ingot",
    producerVersion: facts.version,
    docString: DOC,
    metadataProps: Object.entries(facts.metadata).map(([key, value]) => ({ key, value })),
    graph: {
      name: facts.name,
      docString: DOC,
      input: [{ name: INPUT_IDS, docString: "token ids", type: tensorType("i32", ["batch", "length"]) }],
      output: [{ name: OUTPUT, docString: "before softmax, of every token", type }],
      node: [...onnx.nodes],
      initializer: [...onnx.constants],
      valueInfo: [...onnx.valueInfo],
    },
  };
  return { model, initializers: initializers.protos, plan: initializers.plan() };
}

/** Adds what the logits depend on, and the logits. */
function addNodes(graph: Graph, onnx: GraphBuilder, initializers: Initializers): void {
  const results = new Map<Node, Value | KeysAndValues>();
  const shared = new Map<string, unknown>();
  const place = (node: Node) => {
    const { path = "", source = null } = graph.originsOf(node)[0] ?? {};
    return { path: path === "" ? node.op : `${path}/${node.op}`, doc: source ?? "" };
  };
  const result = (node: Node): Value | KeysAndValues => {
    const known = results.get(node);
    if (known !== undefined) return known;
    const form = forms[node.op] as (node: NodeOf<OpName>, c: Context) => Value | KeysAndValues;
    const made = onnx.at(place(node), () => form(node, context));
    results.set(node, made);
    return made;
  };
  const context: Context = {
    onnx,
    initializers,
    place,
    value(node) {
      const value = result(node);
      invariant(typeof value === "string", `${node.op} is one tensor in ONNX`);
      return value;
    },
    f32: (node) =>
      node.type.dtype === "f32"
        ? context.value(node)
        : context.once(`f32 ${node.id}`, () => onnx.op("Cast", [context.value(node)], { to: elementType.f32 })),
    kv(node) {
      const kv = result(node);
      invariant(typeof kv !== "string", `${node.op} is keys and values in ONNX`);
      return kv;
    },
    once<R>(key: string, make: () => R): R {
      if (!shared.has(key)) shared.set(key, make());
      return shared.get(key) as R;
    },
  };
  for (const node of computed(graph)) {
    const value = result(node);
    if (typeof value === "string") onnx.describe(value, node.type.dtype, extentsOf(node));
  }
  onnx.rename(context.f32(graph.logits), OUTPUT);
}

/** The nodes computed anew in each run that the logits depend on, operands first. Others are added when one of these asks for them. */
function computed(graph: Graph): Node[] {
  const nodes = graph.liveNodes();
  const needed = new Set([graph.logits]);
  for (const node of nodes.toReversed()) if (needed.has(node)) for (const operand of node.operands) needed.add(operand);
  const varies = new Set<Node>();
  for (const node of nodes) {
    if (node.op === "input" || node.operands.some((o) => varies.has(o))) varies.add(node);
  }
  return nodes.filter((node) => needed.has(node) && varies.has(node) && node.op !== "input");
}
