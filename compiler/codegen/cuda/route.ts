/**
 * The context of the skeleton that chooses experts: each step as statements over arrays in shared memory, a warp's own.
 */
import type { RouteKernel, RowStep } from "../../kernels/spec.ts";
import { floatLiteral, formulaText, scalarText } from "../expression.ts";
import type { TemplateContext } from "../template.ts";
import { cudaScalars } from "./slots.ts";

/** Each step as statements over `v0`, `v1`, …, which lie in shared memory with what groups of experts are chosen by. */
export function route(s: RouteKernel): TemplateContext {
  const groups = s.steps.find((step) => step.op === "group_limit");
  let inputs = 0;
  const steps = s.steps.map((step, i) => {
    const { lines, formula } = step.op === "load" ? load(i, step, `input${inputs++}`) : work(i, step, s.steps);
    const type = step.op === "top_k" ? "int32_t" : "float";
    return {
      array: sharedByWarps(type, `v${i}`, step.size),
      lines: [`${type}* v${i} = all_v${i} + warp_id() * ${step.size};`, ...lines],
      formula: `v${i} (${step.size}) = ${formula}`,
    };
  });
  const rooms = groups
    ? [sharedByWarps("float", "worth", groups.groups), sharedByWarps("int32_t", "kept", Math.max(groups.keep, groups.best))]
    : [];
  return {
    k: Math.max(...s.steps.map((step) => (step.op === "top_k" ? step.size : 0))),
    arrays: [...rooms, ...steps.map((step) => step.array)],
    steps,
    stores: s.outs.map(({ step, value }, i) => overLanes(value.cols, `out${i}[int64_t(row) * ${value.cols} + i] = v${step}[i];`)),
    hasSoftmax: s.steps.some((step) => step.op === "softmax"),
    hasRenormalize: s.steps.some((step) => step.op === "renormalize"),
    hasGroups: groups !== undefined,
  };
}

const sharedByWarps = (type: string, name: string, size: number): string =>
  `INGOT_SHARED(${type}, all_${name}, kWarps * ${size});`;

const overLanes = (size: number, statement: string): string => `for (int i = lane_id(); i < ${size}; i += 32) ${statement}`;

interface Work {
  readonly lines: readonly string[];
  readonly formula: string;
}

function load(i: number, { from, size }: Extract<RowStep, { op: "load" }>, input: string): Work {
  const isVector = from.rows === 1;
  return {
    lines: [overLanes(size, `v${i}[i] = widen(${input}[${isVector ? "i" : `int64_t(row) * ${size} + i`}]);`)],
    formula: isVector ? "a vector of weights" : "x[t]",
  };
}

/** The statements that make `v<i>` of earlier steps, and what they say in mathematical notation. */
function work(i: number, step: Exclude<RowStep, { op: "load" }>, steps: readonly RowStep[]): Work {
  const { size } = step;
  switch (step.op) {
    case "map": {
      const named = (text: string, of: (at: number) => string) =>
        text.replace(/operand(\d+)/g, (_, at: string) => of(Number(at)));
      return {
        lines: [
          overLanes(size, `v${i}[i] = ${named(scalarText(step.expr, 1, cudaScalars), (at) => `v${step.operands[at]}[i]`)};`),
        ],
        formula: named(formulaText(step.expr, 1), (at) => `v${step.operands[at]}`),
      };
    }
    case "softmax":
      return { lines: [`softmax<${size}>(v${step.x}, v${i});`], formula: `softmax(v${step.x})` };
    case "renormalize":
      return {
        lines: [`renormalize<${size}>(v${step.x}, ${floatLiteral(step.eps)}, v${i});`],
        formula: `v${step.x} / (Σ v${step.x} + ${step.eps})`,
      };
    case "group_limit": {
      const { x, groups, keep, best } = step;
      const room = `all_worth + warp_id() * ${groups}, all_kept + warp_id() * ${Math.max(keep, best)}`;
      return {
        lines: [`group_limit<${size}, ${groups}, ${keep}, ${best}>(v${x}, v${i}, ${room});`],
        formula: `v${x} in the ${keep} best of ${groups} groups, −∞ elsewhere`,
      };
    }
    case "top_k":
      return {
        lines: [`top_k<${steps[step.x]?.size}, ${size}>(v${step.x}, v${i});`],
        formula: `columns of the ${size} largest of v${step.x}`,
      };
    case "gather_cols":
      return { lines: [overLanes(size, `v${i}[i] = v${step.x}[v${step.ids}[i]];`)], formula: `v${step.x} at v${step.ids}` };
  }
}
