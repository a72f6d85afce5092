/**
 * Experts in ONNX: rows are sorted by expert as in the graph, and a loop over the experts that have rows multiplies each one's rows
 * with its own matrix, so that memory holds one expert's matrix at a time and no other is read.
 */
import type { Node, NodeOf } from "../ir/ops.ts";
import type { Value } from "./builder.ts";
import { type Context, perToken } from "./context.ts";
import { elementType, sequenceType, tensorType } from "./proto.ts";
import { stack } from "./weights.ts";

/** Scores of which the best groups remain, the others −∞. */
export function groupLimit({ operands: [scores], attrs: { groups, keep, best } }: NodeOf<"group_limit">, c: Context): Value {
  const { onnx } = c;
  const experts = scores.type.shape.at(-1) as number;
  const topK = (x: Value, k: number) =>
    onnx.ops("TopK", [x, onnx.ints([k])], { axis: -1, largest: 1, sorted: 1 }, 2) as [values: Value, indices: Value];
  const grouped = perToken(c, c.f32(scores), [groups, experts / groups]);
  const worth = onnx.op("ReduceSum", [topK(grouped, best)[0], onnx.ints([-1])], { keepdims: 0 }); // (batch, length, groups)
  const kept = topK(worth, keep)[1]; // (batch, length, keep)
  const [off, on] = [onnx.float(Number.NEGATIVE_INFINITY), onnx.float(0)];
  const allOff = onnx.op("Expand", [off, onnx.op("Shape", [worth])]);
  const penalty = onnx.op("ScatterElements", [allOff, kept, onnx.op("Expand", [on, onnx.op("Shape", [kept])])], { axis: -1 });
  const limited = onnx.op("Add", [grouped, onnx.op("Unsqueeze", [penalty, onnx.ints([-1])])]);
  return perToken(c, limited, [experts]);
}

/** How the rows of `ids` (batch, length, k) are sorted. */
interface Routing {
  /** The slot, k · token + choice, of each sorted row. */
  readonly slots: Value;
  /** The sorted row of each slot. */
  readonly rows: Value;
  readonly tokens: Value;
  /** The expert of each sorted row. */
  readonly experts: Value;
  /** Experts that have rows, ascending, and where their rows begin and end. */
  readonly active: Value;
  readonly begins: Value;
  readonly ends: Value;
}

function routing(ids: Node, c: Context): Routing {
  const { onnx } = c;
  const k = ids.type.shape[1] as number;
  const place = { path: `${c.place(ids).path}/sort`, doc: "tokens sorted by expert" };
  return c.once(`routing ${ids.id}`, () =>
    onnx.at(place, () => {
      const chosen = onnx.op("Reshape", [c.value(ids), onnx.ints([-1])]);
      const count = onnx.op("Size", [chosen]);
      const slot = onnx.op("Range", [onnx.ints(0), count, onnx.ints(1)]);
      // By expert, then by slot: no two keys are equal.
      const key = onnx.op("Add", [onnx.op("Mul", [chosen, count]), slot]);
      const all = onnx.op("Unsqueeze", [count, onnx.ints([0])]);
      const slots = onnx.ops("TopK", [key, all], { axis: 0, largest: 0, sorted: 1 }, 2)[1] as Value;
      const experts = onnx.op("Gather", [chosen, slots], { axis: 0 });
      const [active, , , counts] = onnx.ops("Unique", [experts], { sorted: 1 }, 4) as [Value, Value, Value, Value];
      const ends = onnx.op("CumSum", [counts, onnx.ints(0)]);
      return {
        slots,
        rows: onnx.op("ScatterElements", [slot, slots, slot], { axis: 0 }),
        tokens: onnx.op("Div", [slots, onnx.ints(k)]),
        experts,
        active,
        begins: onnx.op("Sub", [ends, counts]),
        ends,
      };
    }),
  );
}

/** (k·batch·length, K) */
export function dispatch({ operands: [x, ids] }: NodeOf<"dispatch">, c: Context): Value {
  const rows = c.onnx.op("Reshape", [c.value(x), c.onnx.ints([-1, x.type.shape[1] as number])]);
  return c.onnx.op("Gather", [rows, routing(ids, c).tokens], { axis: 0 });
}

/** (k·batch·length, N) */
export function expertRows({ operands: [v, ids] }: NodeOf<"expert_rows">, c: Context): Value {
  return c.onnx.op("Gather", [c.f32(v), routing(ids, c).experts], { axis: 0 });
}

/** Sorted rows x, each times its expert's matrix: one loop turn an active expert. */
export function groupedLinear({ operands: [x, w, ids] }: NodeOf<"grouped_linear">, c: Context): Value {
  const { onnx } = c;
  const { active, begins, ends } = routing(ids, c);
  const rows = c.f32(x);
  // A transposed stack (E, K, N) is read as it is: transposing all of it would cost more than the product.
  const isTransposed = w.op === "transpose";
  const matrices = stack(isTransposed ? w.operands[0] : w, c);
  const [turn, going, parts] = ["turn", "going", "parts"].map((name) => onnx.unique(name)) as [Value, Value, Value];
  const inputs = [
    { name: turn, type: tensorType("i32", []) },
    { name: going, type: tensorType("bool", []) },
    { name: parts, type: sequenceType("f32") },
  ];
  const body = onnx.body("rows of one expert", inputs, (inner) => {
    const at = inner.op("Unsqueeze", [turn, inner.ints([0])]);
    const [begin, end] = [begins, ends].map((list) => inner.op("Gather", [list, at], { axis: 0 })) as [Value, Value];
    const own = inner.op("Slice", [rows, begin, end, inner.ints([0])]);
    const expert = inner.op("Gather", [active, turn], { axis: 0 });
    const stored = inner.op("Gather", [matrices, expert], { axis: 0 });
    const matrix = w.type.dtype === "f32" ? stored : inner.op("Cast", [stored], { to: elementType.f32 });
    const product = inner.op("MatMul", [own, isTransposed ? matrix : inner.op("Transpose", [matrix], { perm: [1, 0] })]);
    return [
      { name: inner.op("Identity", [going]), type: tensorType("bool", []) },
      { name: inner.op("SequenceInsert", [parts, product]), type: sequenceType("f32") },
    ];
  });
  const none = onnx.op("SequenceEmpty", [], { dtype: elementType.f32 });
  const products = onnx.op("Loop", [onnx.op("Size", [active]), "", none], { body });
  return onnx.op("ConcatFromSequence", [products], { axis: 0 });
}

/** Σ over a token's choices of weight · row: (batch, length, N). */
export function combine({ operands: [y, weights, ids] }: NodeOf<"combine">, c: Context): Value {
  const { onnx } = c;
  const [k, n] = [ids.type.shape[1], y.type.shape[1]] as [number, number];
  const bySlot = onnx.op("Gather", [c.f32(y), routing(ids, c).rows], { axis: 0 });
  const chosen = perToken(c, bySlot, [k, n]);
  const row = onnx.op("Unsqueeze", [c.f32(weights), onnx.ints([2])]); // (batch, length, 1, k)
  return onnx.op("Squeeze", [onnx.op("MatMul", [row, chosen]), onnx.ints([2])]);
}
