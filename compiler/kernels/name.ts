/**
 * Kernel names: what it does, in a fixed order — anchor, dtype and shape, then what rides in its slots.
 */
import type { Expr, HeadChain, KernelKind, KernelOf } from "./spec.ts";

/** Words of a slot that a name repeats. */
const MOST_WORDS = 8;

/** A spec before its name is known. */
export type Unnamed = { [K in KernelKind]: Omit<KernelOf<K>, "name"> }[KernelKind];

/** `linear_bf16_3072x1024__silu_mul`. Different specs may share it; the planner numbers those apart. */
export function kernelName(spec: Unnamed): string {
  return [base(spec), slotName(spec)].filter(Boolean).join("__");
}

function base(spec: Unnamed): string {
  switch (spec.kind) {
    case "embedding":
      return `embedding_${spec.table.dtype}_${spec.out.cols}`;
    case "rms_norm":
    case "layer_norm":
      return `${spec.kind}_${spec.rows ? "gather_" : ""}${spec.out.dtype}_${spec.out.cols}`;
    case "gather":
      return `${spec.rows ? "gather_rows" : "slice"}_${spec.out.cols}`;
    case "linear":
      return `${spec.norm ? "rms_norm_" : ""}linear_${spec.w.dtype}_${spec.n}x${spec.k}${spec.split ? `_${spec.split.parts}parts` : ""}`;
    case "rope_angles":
      return `rope_angles_${spec.invFreq.length}${spec.long ? `_beyond_${spec.long.beyond}` : ""}`;
    case "store_kv":
      return `${spec.projection ? `${spec.projection.linear.name}_` : ""}${[...new Set([...chainName(spec.q), ...chainName(spec.k), ...chainName(spec.v)])].map((w) => `${w}_`).join("")}store_kv_${spec.kv.dtype}_${spec.q.numHeads}x${spec.kv.numKvHeads}x${spec.headDim}`;
    case "paged_attention":
      return `paged_attention_${spec.kv.dtype}_${spec.numHeads}x${spec.kv.numKvHeads}x${spec.headDim}${spec.window === null ? "" : `_window${spec.window}`}${spec.sinks ? "_sinks" : ""}`;
    case "elementwise":
      return `elementwise_${spec.out.cols}`;
    case "route": {
      const sizes = spec.steps.map((s) => s.size);
      const words = spec.steps.flatMap((s) => (s.op === "load" || s.op === "gather_cols" || s.op === "map" ? [] : [s.op]));
      return `route_${Math.max(...spec.steps.flatMap((s) => (s.op === "top_k" ? [s.size] : [])))}of${Math.max(...sizes)}__${words.join("_")}`;
    }
    case "sort_slots":
      return `sort_slots_${spec.ids.cols}of${spec.numExperts}`;
    case "grouped_linear":
      return `grouped_linear_${spec.w.dtype}_${spec.numExperts}x${spec.n}x${spec.k}`;
    case "expert_sum":
      return `expert_sum_${spec.w.dtype}_${spec.numExperts}x${spec.n}x${spec.k}${spec.bias ? "_bias" : ""}`;
    case "slot_sum":
      return `slot_sum_${spec.weights.cols}x${spec.out.cols}`;
    case "attention_units": {
      const { window, tileTokens } = spec.units.cut;
      return `attention_units_${tileTokens}${window === null ? "" : `_window${window}`}`;
    }
    case "sample":
      return `sample_${spec.vocabSize}`;
  }
}

const chainName = (chain: HeadChain): string[] => [...(chain.norm ? ["norm"] : []), ...(chain.rope ? ["rope"] : [])];

function slotName(spec: Unnamed): string {
  if (!("epilogue" in spec)) return "";
  const operands = "operands" in spec ? spec.operands : [];
  const words: string[] = [];
  const visit = (e: Expr): void => {
    if (e.kind === "unary") {
      visit(e.x);
      words.push(e.fn);
    } else if (e.kind === "binary") {
      visit(e.a);
      visit(e.b);
      const rowVector = [e.a, e.b].some((x) => x.kind === "operand" && operands[x.index]?.kind === "tensor");
      words.push(rowVector && e.fn === "add" ? "bias" : e.fn);
    }
  };
  visit(spec.epilogue);
  return shortened(words);
}

/** A name is a C symbol and a file: of a long slot it says the beginning and the number of words left out. */
function shortened(words: readonly string[]): string {
  const kept = words.slice(0, MOST_WORDS);
  return [...kept, ...(kept.length < words.length ? [`and_${words.length - kept.length}_more`] : [])].join("_");
}
