/**
 * Checkpoint tensors in ONNX: initializers under their published names.
 *
 * Expressions over them are nodes, which a runtime computes once when it loads; but not those of experts, which would then all be in
 * memory: they are initializers too, folded as they are written.
 */
import { UnsupportedError } from "../errors.ts";
import type { Node, NodeOf } from "../ir/ops.ts";
import { isWeightExpression, weightNames } from "../kernels/weight-expression.ts";
import { type PackRequest, planWeights, printNames, type WeightsPlan } from "../weights/layout.ts";
import { weightRows } from "../weights/rows.ts";
import type { Value } from "./builder.ts";
import type { Context } from "./context.ts";
import { elementType, type TensorProto } from "./proto.ts";

/** The initializers of a model, in the order of their first use. */
export class Initializers {
  private readonly byName = new Map<Value, { readonly request: PackRequest; readonly proto: TensorProto }>();

  /** The value of an expression over checkpoint tensors. Throws `WeightRowsError` for what the packer does not fold. */
  add(name: string, node: Node): Value {
    const { dtype, shape } = node.type;
    if (dtype !== "f32" && dtype !== "f16" && dtype !== "bf16") {
      throw new UnsupportedError(`${name} is wanted as ${dtype}; weights in ONNX files are f32, f16 or bf16`);
    }
    const request: PackRequest = { name, rows: weightRows(node), dtype, layout: "rows", ways: 1, readShare: 1 };
    this.byName.set(name, { request, proto: { name, dataType: elementType[dtype], dims: shape as number[] } });
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

export const weight = (node: NodeOf<"weight">, { initializers }: Context): Value => initializers.add(node.attrs.name, node);

/** Matrices of all experts, (E, …), as one initializer: `mlp.experts.{0..127}.up_proj.weight/stack`. */
export function stack(node: Node, c: Context): Value {
  if (node.op === "weight" || !isWeightExpression(node)) return c.value(node);
  const name = `${printNames(weightNames(node)).join("+")}/stack`;
  return c.once(`stack ${node.id}`, () => c.initializers.add(c.onnx.unique(name), node));
}

/** w (N, K) as f32 (K, N). */
export const transposed = (w: Node, c: Context): Value =>
  w.op === "transpose"
    ? c.f32(w.operands[0])
    : c.once(`transposed ${w.id}`, () => c.onnx.op("Transpose", [c.f32(w)], { perm: [1, 0] }));
