/**
 * ONNX's protocol buffers: the few types and constants of `onnx-proto` that an export needs.
 */
import type { onnx } from "onnx-proto";
import proto from "onnx-proto"; // CommonJS whose names Node cannot see: the values come by the default export
import type { DType } from "../ir/tensor-type.ts";

/** Encoders of messages. */
export const { ModelProto, GraphProto, TensorProto } = proto.onnx;

export type NodeProto = onnx.INodeProto;
export type TensorProto = onnx.ITensorProto;
export type GraphProto = onnx.IGraphProto;
export type ModelProto = onnx.IModelProto;
export type ValueInfoProto = onnx.IValueInfoProto;
export type AttributeProto = onnx.IAttributeProto;
export type TypeProto = onnx.ITypeProto;

/** https://onnx.ai/onnx/operators: 20 is the first with GELU and is read by every runtime of 2024 and later. */
export const OPSET = 20;
/** The version of the file format that came with the opset. */
export const IR_VERSION = 9;

const { AttributeType } = proto.onnx.AttributeProto;
const { DataType, DataLocation } = proto.onnx.TensorProto;
export const EXTERNAL = DataLocation.EXTERNAL;

/** Element types as ONNX numbers them. Indices are 64-bit there. */
export const elementType: { readonly [K in DType]: number } = {
  f32: DataType.FLOAT,
  f16: DataType.FLOAT16,
  bf16: DataType.BFLOAT16,
  i32: DataType.INT64,
  u8: DataType.UINT8,
  bool: DataType.BOOL,
  fp8_e4m3: 17, // FLOAT8E4M3FN, younger than the package's table
};

/** A whole number or a list of them, a text, a graph, or a float, which must say so. */
export type Attribute = number | readonly number[] | string | { readonly float: number } | { readonly graph: GraphProto };

/** An attribute of a node. */
export function attribute(name: string, value: Attribute): AttributeProto {
  if (typeof value === "number") return { name, type: AttributeType.INT, i: value };
  if (typeof value === "string") return { name, type: AttributeType.STRING, s: Buffer.from(value) };
  if ("float" in value) return { name, type: AttributeType.FLOAT, f: value.float };
  if ("graph" in value) return { name, type: AttributeType.GRAPH, g: value.graph };
  return { name, type: AttributeType.INTS, ints: [...value] };
}

/** An extent: a number, or the name of one that a run binds. */
export type Extent = number | string;

/** The type of a tensor; without a shape only its elements are known. */
export const tensorType = (dtype: DType, shape?: readonly Extent[]): TypeProto => ({
  tensorType: {
    elemType: elementType[dtype],
    ...(shape && { shape: { dim: shape.map((d) => (typeof d === "number" ? { dimValue: d } : { dimParam: d })) } }),
  },
});

/** The type of a list of tensors. */
export const sequenceType = (dtype: DType): TypeProto => ({ sequenceType: { elemType: tensorType(dtype) } });
