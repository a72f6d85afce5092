/**
 * Builds an ONNX graph node by node: unique names below the model path, constants of equal content once.
 */
import type { DType } from "../ir/tensor-type.ts";
import {
  type Attribute,
  attribute,
  type Extent,
  elementType,
  type GraphProto,
  type NodeProto,
  type TensorProto,
  tensorType,
  type ValueInfoProto,
} from "./proto.ts";

/** The name of a value. */
export type Value = string;

/** Where nodes come from. */
export interface Place {
  /** Begins the names: `layers.0.mlp.gate_proj/linear`. */
  readonly path: string;
  /** The line that asked for it, or what it is for. */
  readonly doc: string;
}

export class GraphBuilder {
  private readonly made: NodeProto[] = [];
  private readonly values = new Map<Value, ValueInfoProto>();
  private place: Place = { path: "", doc: "" };

  /** `shared` are names and constants of the graph around this one. */
  constructor(private readonly shared: Shared = { uses: new Map(), constants: new Map() }) {}

  get nodes(): readonly NodeProto[] {
    return this.made;
  }

  get valueInfo(): readonly ValueInfoProto[] {
    return [...this.values.values()];
  }

  /** Constants of this graph and of those inside it. */
  get constants(): readonly TensorProto[] {
    return [...this.shared.constants.values()];
  }

  /** Runs `body`; its nodes come from `place`. */
  at<R>(place: Place, body: () => R): R {
    const outer = this.place;
    this.place = place;
    try {
      return body();
    } finally {
      this.place = outer;
    }
  }

  /** A node of one result. */
  op(opType: string, inputs: readonly Value[], attributes: Readonly<Record<string, Attribute>> = {}): Value {
    return this.ops(opType, inputs, attributes, 1)[0] as Value;
  }

  /** A node of `count` results. */
  ops(opType: string, inputs: readonly Value[], attributes: Readonly<Record<string, Attribute>>, count: number): Value[] {
    const name = this.unique(`${this.place.path}/${opType}`);
    const output = Array.from({ length: count }, (_, i) => (count === 1 ? name : `${name}.${i}`));
    const node = { opType, name, docString: this.place.doc, input: [...inputs], output };
    this.made.push({ ...node, attribute: Object.entries(attributes).map(([key, value]) => attribute(key, value)) });
    return output;
  }

  /** Says what a value is. */
  describe(name: Value, dtype: DType, shape: readonly Extent[]): void {
    this.values.set(name, { name, type: tensorType(dtype, shape) });
  }

  /** Gives a value another name, by which the graph's users know it. */
  rename(value: Value, to: Value): void {
    const renamed = (names: readonly Value[] | null | undefined) => (names ?? []).map((name) => (name === value ? to : name));
    for (const node of this.made) Object.assign(node, { input: renamed(node.input), output: renamed(node.output) });
    this.values.delete(value);
  }

  /** Whole numbers: one, or a list. */
  ints(values: number | readonly number[]): Value {
    const list = typeof values === "number" ? [values] : values;
    const dims = typeof values === "number" ? [] : [list.length];
    const name = typeof values === "number" ? `${values}` : `[${list.join(", ")}]`;
    return this.constant(name, "i32", dims, new BigInt64Array(list.map(BigInt)));
  }

  /** An f32 scalar. */
  float(value: number): Value {
    return this.constant(`f32 ${value}`, "f32", [], Float32Array.of(value));
  }

  /** A list of f32. */
  floats(name: string, values: readonly number[]): Value {
    return this.constant(this.unique(name), "f32", [values.length], Float32Array.from(values));
  }

  /** The body of a loop: `build` returns its results. */
  body(
    name: string,
    inputs: readonly ValueInfoProto[],
    build: (inner: GraphBuilder) => readonly ValueInfoProto[],
  ): { readonly graph: GraphProto } {
    const inner = new GraphBuilder(this.shared);
    const output = inner.at(this.place, () => build(inner));
    return { graph: { name, input: [...inputs], output: [...output], node: [...inner.nodes] } };
  }

  /** `name`, or `name_1` and so on when it is taken. */
  unique(name: string): string {
    const uses = this.shared.uses.get(name) ?? 0;
    this.shared.uses.set(name, uses + 1);
    return uses === 0 ? name : this.unique(`${name}_${uses}`);
  }

  private constant(name: string, dtype: DType, dims: readonly number[], data: BigInt64Array | Float32Array): Value {
    const rawData = new Uint8Array(data.buffer);
    if (!this.shared.constants.has(name)) {
      this.shared.constants.set(name, { name, dims: [...dims], dataType: elementType[dtype], rawData });
    }
    return name;
  }
}

interface Shared {
  /** How often a name was asked for. */
  readonly uses: Map<string, number>;
  readonly constants: Map<Value, TensorProto>;
}
