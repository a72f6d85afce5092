/**
 * Each op in ONNX: a total table over the op table. Arithmetic is done in f32; other dtypes are what weights are stored in.
 *
 * https://onnx.ai/onnx/operators defines the nodes.
 */
import { UnsupportedError } from "../errors.ts";
import type { Node, NodeOf, OpName } from "../ir/ops.ts";
import { attention, positions, rope, ropeAngles, storeKv } from "./attention.ts";
import type { Value } from "./builder.ts";
import { axisOf, type Context, extentsOf, INPUT_IDS, isPerToken, type KeysAndValues, perToken } from "./context.ts";
import { combine, dispatch, expertRows, groupedLinear, groupLimit } from "./experts.ts";
import { elementType } from "./proto.ts";
import { transposed, weight } from "./weights.ts";

type Form<K extends OpName> = (node: NodeOf<K>, c: Context) => Value | KeysAndValues;

/** Adds the nodes of an op whose operands have values. Throws `UnsupportedError` for what a whole sequence at once does not have. */
export const forms: { readonly [K in OpName]: Form<K> } = {
  input({ attrs: { name } }, c) {
    if (name === "token_ids") return INPUT_IDS;
    if (name === "positions") return positions(c);
    throw new UnsupportedError(`the graph computes with ${name}; the ONNX form has whole sequences, and no ${name}`);
  },
  weight,
  kv_cache: (node) => {
    throw new UnsupportedError(
      `attention reads what earlier steps left of layer ${node.attrs.layer}; the ONNX form has no cache`,
    );
  },
  constant: ({ attrs: { value } }, c) => c.onnx.float(value),

  cast: ({ operands: [x], attrs: { dtype } }, c) =>
    x.type.dtype === dtype ? c.value(x) : c.onnx.op("Cast", [c.value(x)], { to: elementType[dtype] }),
  add: (node, c) => elementwise("Add", node, c),
  mul: (node, c) => elementwise("Mul", node, c),
  min: (node, c) => elementwise("Min", node, c),
  max: (node, c) => elementwise("Max", node, c),
  sigmoid: (node, c) => elementwise("Sigmoid", node, c),
  silu: ({ operands: [x] }, c) => c.onnx.op("Mul", [c.f32(x), c.onnx.op("Sigmoid", [c.f32(x)])]),
  gelu_tanh: ({ operands: [x] }, c) => c.onnx.op("Gelu", [c.f32(x)], { approximate: "tanh" }),
  tanh: (node, c) => elementwise("Tanh", node, c),

  slice({ operands: [x], attrs: { axis, start, size } }, c) {
    const [starts, ends, axes] = [[start], [start + size], [axisOf(x, axis)]].map((v) => c.onnx.ints(v)) as [Value, Value, Value];
    return c.onnx.op("Slice", [c.value(x), starts, ends, axes]);
  },
  transpose({ operands: [x] }, c) {
    const rank = x.type.shape.length;
    const perm = Array.from({ length: rank }, (_, i) => i)
      .with(rank - 2, rank - 1)
      .with(rank - 1, rank - 2);
    return c.onnx.op("Transpose", [c.value(x)], { perm });
  },
  concat: (node, c) => c.onnx.op("Concat", node.operands.map(c.value), { axis: axisOf(node, node.attrs.axis) }),
  reshape(node, c) {
    const { operands: [x] } = node; // biome-ignore format: one line
    const extents = extentsOf(node);
    const rest = extents.filter((d) => typeof d === "number");
    if (!isPerToken(node))
      return c.onnx.op("Reshape", [c.value(x), c.onnx.ints(rest.length < extents.length ? [-1, ...rest] : rest)]);
    // 0 keeps an extent.
    return isPerToken(x) ? c.onnx.op("Reshape", [c.value(x), c.onnx.ints([0, 0, ...rest])]) : perToken(c, c.value(x), rest);
  },

  embedding({ operands: [ids, table] }, c) {
    const rows = c.onnx.op("Gather", [c.value(table), c.value(ids)], { axis: 0 });
    return table.type.dtype === "f32" ? rows : c.onnx.op("Cast", [rows], { to: elementType.f32 });
  },
  linear: ({ operands: [x, w] }, c) => c.onnx.op("MatMul", [c.f32(x), transposed(w, c)]),
  rms_norm({ operands: [x, gain], attrs: { eps } }, c) {
    const { onnx } = c;
    const squares = onnx.op("ReduceMean", [onnx.op("Mul", [c.f32(x), c.f32(x)]), onnx.ints([-1])]);
    const root = onnx.op("Sqrt", [onnx.op("Add", [squares, onnx.float(eps)])]);
    return onnx.op("Mul", [onnx.op("Div", [c.f32(x), root]), c.f32(gain)]);
  },
  layer_norm: ({ operands, attrs: { eps } }, c) =>
    c.onnx.op("LayerNormalization", operands.map(c.f32), { axis: -1, epsilon: { float: eps } }),
  softmax: ({ operands: [x] }, c) => c.onnx.op("Softmax", [c.f32(x)], { axis: -1 }),

  group_limit: groupLimit,
  // Of equal values ONNX's TopK, too, takes the lower index first.
  top_k: ({ operands: [x], attrs: { k } }, c) =>
    c.onnx.ops("TopK", [c.f32(x), c.onnx.ints([k])], { axis: -1, largest: 1, sorted: 1 }, 2)[1] as Value,
  gather_cols: ({ operands: [x, ids] }, c) => c.onnx.op("GatherElements", [c.f32(x), c.value(ids)], { axis: -1 }),
  renormalize({ operands: [x], attrs: { eps } }, c) {
    const total = c.onnx.op("ReduceSum", [c.f32(x), c.onnx.ints([-1])]);
    return c.onnx.op("Div", [c.f32(x), c.onnx.op("Add", [total, c.onnx.float(eps)])]);
  },
  dispatch,
  grouped_linear: groupedLinear,
  expert_rows: expertRows,
  combine,

  rope_angles: ropeAngles,
  rope,
  store_kv: storeKv,
  paged_attention: attention,
  gather_rows({ operands: [x, rows] }, c) {
    if (rows.op === "input" && rows.attrs.name === "sample_rows") return c.value(x); // every row is sampled
    throw new UnsupportedError(`rows are gathered by ${rows.op}; the ONNX form knows only sample_rows`);
  },
};

const elementwise = (opType: string, { operands }: { readonly operands: readonly Node[] }, c: Context): Value =>
  c.onnx.op(opType, operands.map(c.f32));
