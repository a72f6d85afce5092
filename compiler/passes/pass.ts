/**
 * A pass is data: a name, rules or one function over the whole graph, and what must hold before and after it.
 *
 * The ordered list of passes stands in `compiler/pipeline.ts`.
 */
import type { Graph } from "../ir/graph.ts";
import type { Node } from "../ir/ops.ts";
import { printGraph } from "../ir/print.ts";
import { type Claim, verifyClaim, verifyGraph } from "../ir/verify.ts";
import { type Firing, firing, type Rewritten, type Rule, rewriteGraph } from "../rewrite/rewrite.ts";

interface PassFacts {
  /** Kebab-case; dumps are named after it. */
  readonly name: string;
  /** What earlier passes must have established. */
  readonly requires?: readonly Claim[];
  readonly ensures?: readonly Claim[];
}

/** Takes note of a rule that turned `before` into `after`, a node of `into`. */
export type Recorder = (rule: string, before: readonly Node[], after: Node, into: Graph) => void;

export type Pass = PassFacts &
  ({ readonly rules: readonly Rule[] } | { readonly run: (graph: Graph, record: Recorder) => Graph });

/** The name that a stage's dump has: `04-fold`. */
export const stageName = (index: number, name: string): string => `${String(index).padStart(2, "0")}-${name}`;

export interface PassOptions {
  /** Receives the graph as text before the first pass (`00-model`) and after each (`01-canonicalize`, …). */
  readonly dump?: (name: string, text: string) => void;
}

/**
 * Runs passes in order, verifying the graph and each pass's claims on the way.
 * Throws `CompileError` where the model is not well formed, `InternalError` where a pass broke it.
 */
export function runPasses(graph: Graph, passes: readonly Pass[], options: PassOptions = {}): Rewritten {
  const firings: Firing[] = [];
  const dump = (index: number, name: string, g: Graph) =>
    options.dump?.(stageName(index, name), printGraph(g, { origins: true }));
  verifyGraph(graph);
  dump(0, "model", graph);
  let current = graph;
  passes.forEach((pass, i) => {
    for (const claim of pass.requires ?? []) verifyClaim(current, claim, `before ${pass.name}`);
    const result = runPass(current, pass);
    firings.push(...result.firings);
    current = result.graph;
    verifyGraph(current);
    for (const claim of pass.ensures ?? []) verifyClaim(current, claim, `after ${pass.name}`);
    dump(i + 1, pass.name, current);
  });
  return { graph: current, firings };
}

function runPass(graph: Graph, pass: Pass): Rewritten {
  if ("rules" in pass) return rewriteGraph(graph, pass.rules, pass.name);
  const firings: Firing[] = [];
  const record: Recorder = (rule, before, after, into) => firings.push(firing(pass.name, rule, before, after, into));
  return { graph: pass.run(graph, record).rebuild(), firings };
}
