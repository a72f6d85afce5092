/**
 * Checkpoint tensors in ONNX: initializers under their published names. Matrices that a model stacks (its experts') are one
 * initializer, so that a runtime need not stack them when it loads.
 */
import { UnsupportedError } from "../errors.ts";
import type { Node, NodeOf } from "../ir/ops.ts";
import { type PackRequest, planWeights, type WeightsPlan } from "../weights/layout.ts";
import type { Value } from "./builder.ts";
import type { Context } from "./context.ts";
import { elementType, type TensorProto } from "./proto.ts";

/** What an initializer holds, and how it is described. */
interface Initializer {
  readonly request: PackRequest;
  readonly proto: TensorProto;
}

/** The initializers of a model, in the order of their first use. */
export class Initializers {
  private readonly byName = new Map<Value, Initializer>();

  /** `sources` one after another in memory are a tensor of `node`'s type. */
  add(name: string, node: Node, sources: PackRequest["sources"]): Value {
    const { dtype, shape } = node.type;
    if (dtype !== "f32" && dtype !== "f16" && dtype !== "bf16") {
      throw new UnsupportedError(`${name} is wanted as ${dtype}; weights in ONNX files are f32, f16 or bf16`);
    }
    const request: PackRequest = { name, sources, dtype, layout: "rows", ways: 1 };
    const proto = { name, dataType: elementType[dtype], dims: shape as number[] };
    this.byName.set(name, { request, proto });
    return name;
  }

  /** Their descriptions, without content. */
  get protos(): TensorProto[] {
    return [...this.byName.values()].map(({ proto }) => proto);
  }

  /** Where they lie in a file of their own, each on a page. */
  plan(): WeightsPlan {
    return planWeights([...this.byName.values()].map(({ request }) => request));
  }
}

export const weight = (node: NodeOf<"weight">, { initializers }: Context): Value =>
  initializers.add(node.attrs.name, node, [sourceOf(node)]);

/** Tensors stacked along axis 0 as one initializer; undefined when they are not plain checkpoint tensors. */
export function stacked(node: NodeOf<"concat">, { initializers, onnx }: Context): Value | undefined {
  if (node.attrs.axis !== 0) return undefined;
  const weights = node.operands.map((o) => (o.op === "reshape" ? o.operands[0] : o));
  const sources = weights.flatMap((o) => (o.op === "weight" ? [sourceOf(o)] : []));
  if (sources.length < weights.length) return undefined;
  return initializers.add(onnx.unique(stackName(sources.map((s) => s.name))), node, sources);
}

/** w (N, K) as f32 (K, N). */
export const transposed = (w: Node, c: Context): Value =>
  w.op === "transpose"
    ? c.f32(w.operands[0])
    : c.once(`transposed ${w.id}`, () => c.onnx.op("Transpose", [c.f32(w)], { perm: [1, 0] }));

const sourceOf = (node: NodeOf<"weight">) => ({ name: node.attrs.name, shape: node.type.shape as readonly number[] });

/** `mlp.experts.{0…127}.up_proj.weight` */
function stackName(names: readonly string[]): string {
  const [first, last] = [names[0], names.at(-1)].map((name) => (name as string).split(".")) as [string[], string[]];
  const from = first.findIndex((part, i) => part !== last[i]);
  const after = [...first].reverse().findIndex((part, i) => part !== last.at(-1 - i));
  if (from < 0 || first.length !== last.length) return names.join("+");
  const middle = (parts: string[]) => parts.slice(from, parts.length - after).join(".");
  return [...first.slice(0, from), `{${middle(first)}…${middle(last)}}`, ...first.slice(first.length - after)].join(".");
}
