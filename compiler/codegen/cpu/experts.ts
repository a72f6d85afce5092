/**
 * Contexts of the skeletons of an expert layer; see `render.ts`.
 */
import { kernelArgs } from "../../kernels/operands.ts";
import type { ExpertSumKernel, GroupedLinearKernel, KernelOf, RouteKernel, RowStep } from "../../kernels/spec.ts";
import { floatLiteral, formulaText, laneText } from "../expression.ts";
import type { TemplateContext } from "../template.ts";
import type { KernelSchedule } from "./kernel-schedule.ts";
import { extentText, field, rowCountText, slots } from "./kernel-text.ts";
import { productContext, tileSums } from "./product.ts";
import { readsExperts } from "./slots.ts";

type ExpertKind = "route" | "sort_slots" | "grouped_linear" | "expert_sum";

/** What each skeleton of an expert layer is given. */
export const expertContexts: {
  readonly [K in ExpertKind]: (spec: KernelOf<K>, schedule: KernelSchedule) => TemplateContext;
} = {
  route: (s) => route(s),

  sort_slots: (s) => ({
    experts: s.numExperts,
    perToken: s.ids.cols,
    cols: s.out.cols,
    rows: extentText(s.ids.rows),
    rowCount: rowCountText(s.ids.rows),
  }),

  grouped_linear: (s, schedule) => {
    const perExpert = readsExperts(s.operands);
    const firstOperandArg = 3;
    const accs = (next: string) => (s.ways === 1 ? "load(acc)" : `load(acc), load(acc + ${next})`);
    const isTiles = schedule.skeleton === "grouped_linear_amx";
    return {
      ...expertsContext(s),
      ...productContext(s, schedule, s.ways),
      ways: s.ways,
      gathers: s.gathers,
      xRows: s.gathers ? extentText(s.tokens) : "sorted rows",
      weightRows: s.n * s.ways,
      outPanels: Math.ceil(s.n / 16),
      outRows: "sorted rows",
      outDtype: s.out.dtype,
      sums:
        s.ways === 1
          ? "acc[r, j] = Σ_k x[r, k] · w[e, j, k]"
          : `acc0[r, j] = Σ_k x[r, k] · w[e, j, k];  acc1[r, j] = Σ_k x[r, k] · w[e, ${s.n} + j, k]`,
      ...slots({ ...s, isa: schedule.isa, x: null, firstOperandArg, outArg: firstOperandArg + s.operands.length }),
      writeAcc: `write(slots, ${perExpert ? "expert, " : ""}first_row + row0 + row, (panel + u) * 16, ${accs(isTiles ? "kTileC" : "16")});`,
      ...(isTiles && s.gathers
        ? { scratchBytes: tileSums(schedule, s.ways) + field(schedule.blocking, "rowTilesPerPass") * Math.ceil(s.k / 32) * 1024 }
        : {}),
    };
  },

  expert_sum: (s, schedule) => {
    const firstOperandArg = s.bias ? 5 : 4;
    const outArg = kernelArgs(s).length - 1;
    return {
      ...expertsContext(s),
      ...productContext(s, schedule, 1),
      units: Math.ceil(s.n / 16),
      rows: extentText(s.tokens),
      rowCount: rowCountText(s.tokens),
      hasBias: s.bias !== null,
      biasTerm: s.bias ? " + bias[e, j]" : "",
      outArg,
      ...slots({ ...s, isa: schedule.isa, x: null, firstOperandArg, outArg, ways: 1 }),
    };
  },
};

const expertsContext = (s: GroupedLinearKernel | ExpertSumKernel) => ({ experts: s.numExperts, perToken: s.perToken });

/** Each step as a declaration and a statement over `v0`, `v1`, …, padded to whole vectors. */
function route(s: RouteKernel): TemplateContext {
  const pointers: string[] = [];
  const steps = s.steps.map((step, i) => {
    if (step.op === "load") {
      const row = step.from.rows === 1 ? "" : ` + row * ${step.size}`;
      const input = `input${pointers.length}`;
      pointers.push(`const float* ${input} = (const float*)launch->args[${pointers.length}];`);
      return stepText(
        i,
        step,
        [`memcpy(v${i}, ${input}${row}, ${step.size} * sizeof(float));`],
        row ? "x[t]" : "a vector of weights",
      );
    }
    return stepText(i, step, ...workText(i, step, s.steps));
  });
  const stores = s.outs.map(({ step, value }, i) => {
    const type = value.dtype === "i32" ? "int32_t" : "float";
    pointers.push(`${type}* out${i} = (${type}*)launch->args[${s.inputs.length + i}];`);
    return `memcpy(out${i} + row * ${value.cols}, v${step}, ${value.cols} * sizeof(${type}));`;
  });
  return {
    k: Math.max(...s.steps.map((step) => (step.op === "top_k" ? step.size : 0))),
    steps,
    pointers,
    stores,
    hasSoftmax: s.steps.some((step) => step.op === "softmax"),
    hasRenormalize: s.steps.some((step) => step.op === "renormalize"),
    hasGroups: s.steps.some((step) => step.op === "group_limit"),
  };
}

const stepText = (i: number, step: RowStep, lines: readonly string[], formula: string) => ({
  declaration: `alignas(64) ${step.op === "top_k" ? "int32_t" : "float"} v${i}[${Math.ceil(step.size / 16) * 16}];`,
  lines,
  formula: `v${i} (${step.size}) = ${formula}`,
});

/** The statements that make `v<i>` of earlier steps, and what they say in mathematical notation. */
function workText(
  i: number,
  step: Exclude<RowStep, { op: "load" }>,
  steps: readonly RowStep[],
): [lines: readonly string[], formula: string] {
  const { size } = step;
  switch (step.op) {
    case "map": {
      const formula = formulaText(step.expr, 1).replace(/operand(\d+)/g, (_, at: string) => `v${step.operands[Number(at)]}`);
      const lines = [
        `for (int64_t i = 0; i < ${size}; i += 16) {`,
        ...step.operands.map((o, at) => `  const f32x16 operand${at} = load(v${o} + i);`),
        `  store(v${i} + i, ${laneText(step.expr, 1)});`,
        "}",
      ];
      return [lines, formula];
    }
    case "softmax":
      return [[`softmax<${size}>(v${step.x}, v${i});`], `softmax(v${step.x})`];
    case "renormalize":
      return [
        [`renormalize<${size}>(v${step.x}, ${floatLiteral(step.eps)}, v${i});`],
        `v${step.x} / (Σ v${step.x} + ${step.eps})`,
      ];
    case "group_limit": {
      const { x, groups, keep, best } = step;
      return [
        [`group_limit<${size}, ${groups}, ${keep}, ${best}>(v${x}, v${i});`],
        `v${x} in the ${keep} best of ${groups} groups, −∞ elsewhere`,
      ];
    }
    case "top_k":
      return [
        [`top_k<${steps[step.x]?.size ?? 0}, ${size}>(v${step.x}, v${i});`],
        `columns of the ${size} largest of v${step.x}`,
      ];
    case "gather_cols": {
      const { x, ids } = step;
      return [[`for (int64_t i = 0; i < ${size}; ++i) v${i}[i] = v${x}[v${ids}[i]];`], `v${x} at columns v${ids}`];
    }
  }
}
