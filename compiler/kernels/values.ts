/**
 * The values that kernels read and write, by the nodes they stand for: buffers as kernels are formed that write them, tensors as they
 * are asked for.
 */
import { invariant, UnsupportedError } from "../errors.ts";
import type { Graph } from "../ir/graph.ts";
import type { Node } from "../ir/ops.ts";
import { type Dim, printType } from "../ir/tensor-type.ts";
import { WeightRowsError, weightRows } from "../weights/rows.ts";
import { rowElements } from "./region.ts";
import type { BufferValue, InputValue, KvValue, TensorValue } from "./spec.ts";
import { isWeightExpression, printWeights } from "./weight-expression.ts";

export class KernelValues {
  private readonly buffers = new Map<Node, BufferValue>();
  private readonly tensors = new Map<Node, TensorValue>();
  /** How many tensors are made of the same checkpoint tensors: different parts of them are numbered apart. */
  private readonly alike = new Map<string, number>();

  constructor(private readonly graph: Graph) {}

  /** The buffer of a value, if a kernel writes it already. */
  bufferAt(node: Node): BufferValue | undefined {
    return this.buffers.get(node);
  }

  /** Lets `node` name memory that is there. */
  alias(node: Node, buffer: BufferValue): void {
    this.buffers.set(node, buffer);
  }

  /** The buffer that a kernel writes the value of `node` to; its name and rows where they are not the node's own. */
  output(node: Node, { name = `v${node.id}`, rows = node.type.shape[0] }: { name?: string; rows?: Dim } = {}): BufferValue {
    invariant(rows !== undefined, `a kernel writes rows, not a scalar: ${printType(node.type)}`);
    const value: BufferValue = {
      kind: "buffer",
      name,
      dtype: node.type.dtype,
      rows,
      cols: rowElements(node.type.shape),
      node,
    };
    this.buffers.set(node, value);
    return value;
  }

  /** The buffer of a value that a kernel before this one wrote. */
  bufferOf(node: Node): BufferValue {
    const value = this.buffers.get(node);
    if (!value && node.op === "reshape") return this.bufferOf(node.operands[0]);
    if (!value) return this.refuse(node, "its value is needed as a buffer, but no kernel writes it");
    return value;
  }

  /** What the packer makes of a weight expression. */
  tensor(node: Node): TensorValue {
    if (!isWeightExpression(node)) return this.refuse(node, "a weight is expected here");
    const known = this.tensors.get(node);
    if (known) return known;
    try {
      weightRows(node);
    } catch (error) {
      if (error instanceof WeightRowsError) return this.refuse(error.node, error.message);
      throw error;
    }
    const words = printWeights(node);
    const alike = (this.alike.get(words) ?? 0) + 1;
    this.alike.set(words, alike);
    const shape = node.type.shape as readonly number[];
    const cols = shape.at(-1) ?? 1;
    const rows = shape.slice(0, -1).reduce((a, b) => a * b, 1);
    const name = alike === 1 ? words : `${words} (${alike})`;
    const tensor: TensorValue = { kind: "tensor", name, dtype: node.type.dtype, rows, cols, node };
    this.tensors.set(node, tensor);
    return tensor;
  }

  input(node: Node): InputValue {
    if (node.op !== "input") return this.refuse(node, "a step input is expected here");
    return { kind: "input", name: node.attrs.name, dtype: node.type.dtype, node };
  }

  kv(node: Node): KvValue {
    if (node.op === "store_kv") return this.kv(node.operands[0]);
    if (node.op !== "kv_cache") return this.refuse(node, "a KV cache is expected here");
    return { kind: "kv", ...node.attrs, node };
  }

  /** Throws `UnsupportedError` at the model's line. */
  refuse(node: Node, why: string): never {
    throw new UnsupportedError(`${node.op} at ${this.graph.originText(node)}: ${why}`);
  }
}
