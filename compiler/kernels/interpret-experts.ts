/**
 * What the kernels of an expert layer mean, over whole arrays; see `interpret.ts`.
 */
import { invariant } from "../errors.ts";
import { roundTo } from "../ir/rounding.ts";
import { groupLimit, renormalize, softmax, topK } from "../ir/row-meaning.ts";
import { sortedSlots } from "../ir/sorted-slots.ts";
import { evaluate, type KernelEnvironment, read, rowCount, writeOutput } from "./environment.ts";
import { expertsOf, ROW_ALIGNMENT, slotAt } from "./expert-plan.ts";
import type { KernelOf, RowStep } from "./spec.ts";

type ExpertKind = "route" | "sort_slots" | "grouped_linear" | "expert_sum" | "slot_sum";

/** The meaning of each kernel of an expert layer. */
export const expertMeaning: { readonly [K in ExpertKind]: (spec: KernelOf<K>, env: KernelEnvironment) => void } = {
  route(spec, env) {
    const rows = rowCount(spec.outs[0]!.value, env);
    const outs = spec.outs.map(({ value }) => new Float32Array(rows * value.cols));
    for (let row = 0; row < rows; row++) {
      const made: Float32Array[] = [];
      for (const step of spec.steps) made.push(takeStep(step, row, made, env));
      for (const [i, { step, value }] of spec.outs.entries()) outs[i]!.set(made[step]!, row * value.cols);
    }
    for (const [i, { value }] of spec.outs.entries()) env.buffers.set(value.name, outs[i]!);
  },

  sort_slots(spec, env) {
    const ids = Int32Array.from(read(spec.ids, env));
    const plan = new Float32Array(spec.out.cols).fill(-1);
    let [active, row] = [0, 0];
    let last = -1;
    for (const slot of sortedSlots(ids)) {
      const expert = ids[slot]!;
      if (expert !== last) {
        row = Math.ceil(row / ROW_ALIGNMENT) * ROW_ALIGNMENT;
        plan.set([expert, row, 0], 1 + 3 * active++);
        last = expert;
      }
      plan[3 * active]!++;
      plan[1 + 3 * spec.numExperts + row++] = slot;
    }
    plan[0] = active;
    env.buffers.set(spec.out.name, plan);
  },

  grouped_linear(spec, env) {
    const { k, n, ways, perToken, numExperts } = spec;
    const [x, w, plan] = [read(spec.x, env), env.tensor(spec.w), read(spec.plan, env)];
    const vectors = spec.operands.map((o) => env.tensor(o));
    // Rows between experts are nobody's: NaN, so that whoever reads one is found out.
    const out = new Float32Array(rowCount(spec.out, env) * n).fill(Number.NaN);
    for (const { expert, begin, count } of expertsOf(plan)) {
      for (let row = begin; row < begin + count; row++) {
        const slot = slotAt(plan, numExperts, row);
        const from = (spec.gathers ? Math.floor(slot / perToken) : row) * k;
        const to = (spec.scatters ? slot : row) * n;
        for (let col = 0; col < n; col++) {
          const accs = Array.from({ length: ways }, (_, way) => dot(x, from, w, ((expert * ways + way) * n + col) * k, k));
          out[to + col] = evaluate(spec.epilogue, accs, (i) => vectors[i]![expert * n + col]!);
        }
      }
    }
    env.buffers.set(spec.out.name, roundTo(spec.out.dtype, out));
  },

  expert_sum(spec, env) {
    const { k, n, perToken, numExperts } = spec;
    const [x, w, plan, weights] = [read(spec.x, env), env.tensor(spec.w), read(spec.plan, env), read(spec.weights, env)];
    const bias = spec.bias && env.tensor(spec.bias);
    const sums = new Float64Array(rowCount(spec.out, env) * n);
    for (const { expert, begin, count } of expertsOf(plan)) {
      for (let row = begin; row < begin + count; row++) {
        const slot = slotAt(plan, numExperts, row);
        const at = Math.floor(slot / perToken) * n;
        for (let col = 0; col < n; col++) {
          const y = dot(x, row * k, w, (expert * n + col) * k, k);
          sums[at + col]! += weights[slot]! * (bias ? Math.fround(y + bias[expert * n + col]!) : y);
        }
      }
    }
    writeOutput(spec.out, spec.operands, spec.epilogue, env, (row, col) => [Math.fround(sums[row * n + col]!)]);
  },

  slot_sum(spec, env) {
    const { cols } = spec.out;
    const perToken = spec.weights.cols;
    const [y, weights] = [read(spec.y, env), read(spec.weights, env)];
    writeOutput(spec.out, spec.operands, spec.epilogue, env, (row, col) => {
      let sum = 0;
      for (let slot = row * perToken; slot < (row + 1) * perToken; slot++) sum += weights[slot]! * y[slot * cols + col]!;
      return [Math.fround(sum)];
    });
  },
};

function dot(x: Float32Array, from: number, w: Float32Array, at: number, k: number): number {
  let sum = 0;
  for (let i = 0; i < k; i++) sum += x[from + i]! * w[at + i]!;
  return Math.fround(sum);
}

function takeStep(step: RowStep, row: number, made: readonly Float32Array[], env: KernelEnvironment): Float32Array {
  const array = (index: number): Float32Array => {
    const found = made[index];
    invariant(found, `step ${index} is read before it is made`);
    return found;
  };
  switch (step.op) {
    case "load": {
      const data = step.from.kind === "buffer" ? read(step.from, env) : env.tensor(step.from);
      const at = step.from.rows === 1 ? 0 : row * step.size;
      return data.slice(at, at + step.size);
    }
    case "map":
      return Float32Array.from({ length: step.size }, (_, i) => evaluate(step.expr, [], (o) => array(step.operands[o]!)[i]!));
    case "softmax":
      return softmax(array(step.x));
    case "renormalize":
      return renormalize(array(step.x), step.eps);
    case "group_limit":
      return groupLimit(array(step.x), step);
    case "top_k":
      return Float32Array.from(topK(array(step.x), step.size));
    case "gather_cols":
      return Float32Array.from(array(step.ids), (col) => array(step.x)[col]!);
  }
}
