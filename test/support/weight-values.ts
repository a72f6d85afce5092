import { type Context, meaning, type Value } from "../../compiler/ir/meaning.ts";
import type { Node } from "../../compiler/ir/ops.ts";
import { dtypeBytes } from "../../compiler/ir/tensor-type.ts";
import { converter } from "../../compiler/weights/convert.ts";
import { elementsOf, type WeightSource } from "../../compiler/weights/source.ts";

/** A whole tensor of a source in f32. */
export async function weightValues(source: WeightSource, name: string): Promise<Float32Array> {
  const info = source.find(name);
  if (!info) throw new Error(`the source has no tensor ${name}`);
  const count = elementsOf(info.shape);
  const stored = new Uint8Array(count * dtypeBytes[info.dtype]);
  await source.read(name, 0, stored);
  const values = new Float32Array(count);
  converter(info.dtype, "f32")(stored, new Uint8Array(values.buffer), count);
  return values;
}

/** What an expression over checkpoint tensors means. */
export function expressionValue(node: Node, weights: (name: string) => Float32Array): Float32Array {
  const known = new Map<Node, Float32Array>();
  const evaluate = (n: Node): Float32Array => {
    const value = known.get(n) ?? ((meaning[n.op] as (n: Node, c: Context) => Value)(n, context) as Float32Array);
    known.set(n, value);
    return value;
  };
  const context = { env: { weights }, f32: evaluate, shape: (n: Node) => n.type.shape } as unknown as Context;
  return evaluate(node);
}
