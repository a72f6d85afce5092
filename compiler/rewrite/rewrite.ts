/**
 * The rewrite driver: applies rules to a graph until none fires, and records every firing.
 *
 * A rule sees one node and what it is made of, never its users; it gives a node of equal value and type, or declines with undefined.
 */
import { invariant } from "../errors.ts";
import type { Graph } from "../ir/graph.ts";
import type { Node, OpName } from "../ir/ops.ts";
import type { Origin } from "../ir/origin.ts";
import { printExpression } from "../ir/print.ts";
import { printType } from "../ir/tensor-type.ts";
import { type Captures, matches, type Pattern } from "./pattern.ts";

export interface Rule {
  /** A phrase a person would say: "a cast to the dtype a value already has is dropped". */
  readonly name: string;
  readonly pattern: Pattern;
  readonly rewrite: (captures: Captures, g: Graph, node: Node) => Node | undefined;
}

/** A row of a rule table. `rewrite` builds in `g`; `node` is what the pattern matched. */
export function rule<C extends object>(
  name: string,
  pattern: Pattern<C>,
  rewrite: (captures: C, g: Graph, node: Node) => Node | undefined,
): Rule {
  return { name, pattern, rewrite: rewrite as Rule["rewrite"] };
}

/** One application of a rule. */
export interface Firing {
  readonly pass: string;
  readonly rule: string;
  readonly before: string;
  readonly after: string;
  /** Of what it replaced, and so of every node it made. */
  readonly origins: readonly Origin[];
  /** The ops of what it made, and of what that is made of. */
  readonly ops: ReadonlySet<OpName>;
}

/** What is recorded of a rule that turned `before` into `after`, a node of `graph`. */
export function firing(pass: string, rule: string, before: readonly Node[], after: Node, graph: Graph): Firing {
  const operands = after.operands.flatMap((o) => [o, ...o.operands]);
  return {
    pass,
    rule,
    before: before.map((node) => printExpression(node)).join(", "),
    after: printExpression(after),
    origins: graph.originsOf(after),
    ops: new Set([after, ...operands].map((node) => node.op)),
  };
}

export interface Rewritten {
  readonly graph: Graph;
  readonly firings: readonly Firing[];
}

/**
 * Applies `rules` in order to every live node until a whole sweep changes nothing. The graph itself when no rule fires, else one of
 * live nodes only.
 * Throws `InternalError` naming the rule that keeps firing, or one that changes a value's shape.
 */
export function rewriteGraph(graph: Graph, rules: readonly Rule[], pass: string): Rewritten {
  const firings: Firing[] = [];
  const cap = 1000 + 20 * graph.liveNodes().length;
  let current = graph;
  for (let before = -1; firings.length !== before; ) {
    before = firings.length;
    const swept = current.rebuild((old, map, into) => simplify(into.copy(old, map), into));
    if (firings.length > 0) current = swept;
  }
  return { graph: current, firings };

  function simplify(node: Node, g: Graph): Node {
    let value = node;
    for (let next = fire(value, g); next; next = fire(value, g)) value = next;
    return value;
  }

  function fire(node: Node, g: Graph): Node | undefined {
    for (const { name, pattern, rewrite } of rules) {
      for (const captures of matches(pattern, node)) {
        const after = rewrite(captures, g, node);
        if (!after || after === node) continue;
        invariant(
          printType({ ...after.type, dtype: node.type.dtype }) === printType(node.type),
          `${pass}: rule "${name}" turned ${printType(node.type)} into ${printType(after.type)}`,
        );
        firings.push(firing(pass, name, [node], after, g));
        invariant(firings.length <= cap, `${pass}: rule "${mostFrequent(firings)}" still fires after ${cap} firings`);
        return after;
      }
    }
    return undefined;
  }
}

function mostFrequent(firings: readonly Firing[]): string {
  const counts = new Map<string, number>();
  for (const { rule: name } of firings) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts].reduce((best, entry) => (entry[1] > best[1] ? entry : best))[0];
}
