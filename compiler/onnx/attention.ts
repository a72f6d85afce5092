/**
 * Positions, rotation and attention in ONNX: whole sequences at once, without a cache.
 */
import { UnsupportedError } from "../errors.ts";
import type { Node, NodeOf } from "../ir/ops.ts";
import type { Value } from "./builder.ts";
import { type Context, type KeysAndValues, length, sequence, tokensShape } from "./context.ts";
import { elementType } from "./proto.ts";

/** (batch, length): every sequence starts at 0. */
export const positions = (c: Context): Value =>
  c.onnx.at({ path: "tokens", doc: "positions" }, () => c.onnx.op("Expand", [sequence(c), tokensShape(c)]));

/** (batch, length, 2·half): cos, then sin. */
export function ropeAngles(
  { operands: [position], attrs: { invFreq, attentionFactor, long } }: NodeOf<"rope_angles">,
  c: Context,
): Value {
  const { onnx } = c;
  const column = onnx.op("Unsqueeze", [onnx.op("Cast", [c.value(position)], { to: elementType.f32 }), onnx.ints([-1])]);
  let frequencies = onnx.floats("inv_freq", invFreq);
  if (long) {
    const isLong = onnx.op("Greater", [length(c), onnx.ints(long.beyond)]);
    frequencies = onnx.op("Where", [isLong, onnx.floats("inv_freq_long", long.invFreq), frequencies]);
  }
  const angles = onnx.op("Mul", [column, frequencies]);
  const turns = onnx.op("Concat", [onnx.op("Cos", [angles]), onnx.op("Sin", [angles])], { axis: -1 });
  return attentionFactor === 1 ? turns : onnx.op("Mul", [turns, onnx.float(attentionFactor)]);
}

/** x (batch, length, heads, headDim), of which the first 2·half elements of each head are rotated. */
export function rope({ operands: [x, angles], attrs: { style } }: NodeOf<"rope">, c: Context): Value {
  const { onnx } = c;
  const headDim = x.type.shape[2] as number;
  const width = angles.type.shape[1] as number;
  const half = width / 2;
  const [cos, sin] = cosAndSin(angles, half, c);
  const split = (value: Value, sizes: readonly number[]) =>
    onnx.ops("Split", [value, onnx.ints(sizes)], { axis: -1 }, sizes.length);
  const turned = (p: Value, q: Value): [Value, Value] => [
    onnx.op("Sub", [onnx.op("Mul", [p, cos]), onnx.op("Mul", [q, sin])]),
    onnx.op("Add", [onnx.op("Mul", [q, cos]), onnx.op("Mul", [p, sin])]),
  ];
  const rest = headDim > width ? [headDim - width] : [];
  if (style === "half") {
    const [p, q, ...still] = split(c.f32(x), [half, half, ...rest]) as [Value, Value, ...Value[]];
    return onnx.op("Concat", [...turned(p, q), ...still], { axis: -1 });
  }
  const [rotated, ...still] = (rest.length > 0 ? split(c.f32(x), [width, ...rest]) : [c.f32(x)]) as [Value, ...Value[]];
  const every = (start: number) =>
    onnx.op("Slice", [rotated, ...[[start], [width], [-1], [2]].map((v) => onnx.ints(v))]); // biome-ignore format: one line
  const pairs = turned(every(0), every(1)).map((part) => onnx.op("Unsqueeze", [part, onnx.ints([-1])]));
  const joined = onnx.op("Reshape", [onnx.op("Concat", pairs, { axis: -1 }), onnx.ints([0, 0, 0, width])]);
  return still.length > 0 ? onnx.op("Concat", [joined, ...still], { axis: -1 }) : joined;
}

/** (batch, length, 1, half) each. */
function cosAndSin(angles: Node, half: number, c: Context): [Value, Value] {
  const { onnx } = c;
  return c.once(`cos and sin ${angles.id}`, () =>
    onnx.at(c.place(angles), () => {
      const perHead = onnx.op("Unsqueeze", [c.value(angles), onnx.ints([2])]);
      return onnx.ops("Split", [perHead, onnx.ints([half, half])], { axis: -1 }, 2) as [Value, Value];
    }),
  );
}

/** The step's own keys and values, as the cache would give them back. */
export function storeKv({ operands: [cache, k, v], type: { dtype } }: NodeOf<"store_kv">, c: Context): KeysAndValues {
  if (cache.op !== "kv_cache") throw new UnsupportedError("a cache is written twice in one step; the ONNX form has one write");
  const { onnx } = c;
  const stored = (x: Node): Value => {
    if (dtype === "f32") return c.f32(x);
    return onnx.op("Cast", [onnx.op("Cast", [c.f32(x)], { to: elementType[dtype] })], { to: elementType.f32 });
  };
  return { k: stored(k), v: stored(v) };
}

/**
 * softmax(q · kᵀ · scale + mask) · v with the heads of one kv head side by side: (batch, numKvHeads, group, length, …).
 * A sink is one more column of scores, whose weight is dropped.
 */
export function attention(
  { operands: [q, kv, , , , sinks], attrs: { scale, window } }: NodeOf<"paged_attention">,
  c: Context,
): Value {
  const { onnx } = c;
  const [, numHeads, headDim] = q.type.shape as [unknown, number, number];
  const numKvHeads = kv.type.shape[1] as number;
  const group = numHeads / numKvHeads;
  const { k, v } = c.kv(kv);
  const transpose = (x: Value, perm: readonly number[]) => onnx.op("Transpose", [x], { perm });
  const perGroup = (x: Value, perm: readonly number[]) => onnx.op("Unsqueeze", [transpose(x, perm), onnx.ints([2])]);

  const grouped = onnx.op("Reshape", [c.f32(q), onnx.ints([0, 0, numKvHeads, group, headDim])]);
  const queries = transpose(grouped, [0, 2, 3, 1, 4]); // (batch, numKvHeads, group, length, headDim)
  const keys = perGroup(k, [0, 2, 3, 1]); // (batch, numKvHeads, 1, headDim, length)
  const values = perGroup(v, [0, 2, 1, 3]); // (batch, numKvHeads, 1, length, headDim)
  const products = onnx.op("Mul", [onnx.op("MatMul", [queries, keys]), onnx.float(scale)]);
  const scores = onnx.op("Add", [products, causalMask(window, c)]);
  let weights: Value;
  if (sinks) {
    const shape = onnx.op("Concat", [onnx.op("Shape", [queries], { start: 0, end: 4 }), onnx.ints([1])], { axis: 0 });
    const perHead = onnx.op("Reshape", [c.f32(sinks), onnx.ints([numKvHeads, group, 1, 1])]);
    const all = onnx.op("Concat", [scores, onnx.op("Expand", [perHead, shape])], { axis: -1 });
    const softmax = onnx.op("Softmax", [all], { axis: -1 });
    weights = onnx.op("Slice", [softmax, onnx.ints([0]), onnx.ints([-1]), onnx.ints([-1])]);
  } else weights = onnx.op("Softmax", [scores], { axis: -1 });
  const mixed = transpose(onnx.op("MatMul", [weights, values]), [0, 3, 1, 2, 4]);
  return onnx.op("Reshape", [mixed, onnx.ints([0, 0, numHeads, headDim])]);
}

/** (length, length): 0 where a row's token sees a column's, else −∞. */
function causalMask(window: number | null, c: Context): Value {
  const { onnx } = c;
  const place = {
    path: window === null ? "causal_mask" : `causal_mask_${window}`,
    doc: window === null ? "a token sees itself and what is before it" : `a token sees itself and the ${window - 1} before it`,
  };
  return c.once(place.path, () => {
    const key = sequence(c);
    return onnx.at(place, () => {
      const query = onnx.op("Unsqueeze", [key, onnx.ints([1])]);
      const later = onnx.op("Greater", [key, query]);
      const hidden =
        window === null
          ? later
          : onnx.op("Or", [later, onnx.op("LessOrEqual", [key, onnx.op("Sub", [query, onnx.ints(window)])])]);
      return onnx.op("Where", [hidden, onnx.float(Number.NEGATIVE_INFINITY), onnx.float(0)]);
    });
  });
}
