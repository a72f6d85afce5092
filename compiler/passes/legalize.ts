/**
 * Gives each op its operands in the dtype the target computes them in. What a target wants is data; no rule knows its name.
 */
import type { Node } from "../ir/ops.ts";
import type { DType } from "../ir/tensor-type.ts";
import { any, op } from "../rewrite/pattern.ts";
import { rule } from "../rewrite/rewrite.ts";
import type { Pass } from "./pass.ts";

/** What a target computes in. */
export interface LegalizeTarget {
  /** The dtype a linear over weights of `weightDtype` reads its input in. */
  readonly linearInput: (weightDtype: DType) => DType;
}

/** The pass for one target: where a linear's input has another dtype, it is rounded first. */
export function legalize(target: LegalizeTarget): Pass {
  const wanted = (w: Node) => target.linearInput(w.type.dtype);
  return {
    name: "legalize",
    rules: [
      // x·wᵀ = cast(x)·wᵀ, up to the rounding the target asks for
      rule("a linear reads its input in the target's dtype", op("linear", [any("x"), any("w")]), ({ x, w }, g) =>
        x.type.dtype === wanted(w) ? undefined : g.linear(g.cast(x, wanted(w)), w),
      ),
      // The rows are rounded before they are dispatched: once each, and together with whoever else reads them so.
      rule(
        "a grouped linear reads its input in the target's dtype",
        op("grouped_linear", [any("x"), any("w"), any("ids")]),
        ({ x, w, ids }, g) => {
          const dtype = wanted(w);
          if (x.type.dtype === dtype) return undefined;
          const rounded = x.op === "dispatch" ? g.dispatch(g.cast(x.operands[0], dtype), ids) : g.cast(x, dtype);
          return g.groupedLinear(rounded, w, ids);
        },
      ),
    ],
    ensures: [
      {
        says: "a linear's input has the dtype the target asks for",
        counterexample: (graph) =>
          graph
            .liveNodes()
            .find((n) => (n.op === "linear" || n.op === "grouped_linear") && n.operands[0].type.dtype !== wanted(n.operands[1])),
      },
    ],
  };
}
