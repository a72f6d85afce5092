/**
 * The way from a model's graph to kernel specs: read this first.
 *
 * One ordered list of passes over the graph, then kernels are formed. After every pass the graph is verified and, with a dump,
 * written out as text; so are the kernels. What follows (schedules, memory, text, weights) stands in `compile.ts`.
 */
import type { Graph } from "./ir/graph.ts";
import { formKernels, type KernelProgram } from "./kernels/form.ts";
import { printKernels } from "./kernels/print.ts";
import { verifyKernels } from "./kernels/verify.ts";
import { canonicalize } from "./passes/canonicalize.ts";
import { fold } from "./passes/fold.ts";
import { fuseProjections } from "./passes/fuse-projections.ts";
import { type LegalizeTarget, legalize } from "./passes/legalize.ts";
import { type Pass, runPasses } from "./passes/pass.ts";
import type { Firing } from "./rewrite/rewrite.ts";

/** The passes, in order, for a target that wants its dtypes so. */
export const passesFor = (target: LegalizeTarget): readonly Pass[] => [
  canonicalize, // equal things spelt one way
  fuseProjections, // linears of one input become one: q, k, v; gate, up
  fold, // what the fusion made trivial disappears; weight expressions are left to the packer
  legalize(target), // dtypes that the target's kernels read
];

export interface Lowered extends KernelProgram {
  readonly graph: Graph;
  /** Every rewrite that happened, in order. */
  readonly firings: readonly Firing[];
  /** Texts dumped so far: the number of the next. */
  readonly numDumps: number;
}

/** Runs the passes and forms kernels. `dump` receives numbered texts. Throws `CompileError` pointing at the model's lines. */
export function lower(model: Graph, target: LegalizeTarget, dump?: (name: string, text: string) => void): Lowered {
  const passes = passesFor(target);
  const { graph, firings } = runPasses(model, passes, { dump });
  const program = formKernels(graph);
  verifyKernels(program.kernels, [program.logits, ...program.taps.map((t) => t.buffer)]);
  dump?.(`${String(passes.length + 1).padStart(2, "0")}-form-kernels`, printKernels(program.kernels));
  return { ...program, graph, firings, numDumps: passes.length + 2 };
}
