/**
 * Patterns over graph nodes, with typed captures: a misspelt capture or a wrong number of operands does not compile.
 *
 * A pattern is data. A name captured twice must be the very same node both times, which interning makes an equality of values.
 */
import { COMMUTATIVE, type Node, type NodeOf, type Operands, type OpName } from "../ir/ops.ts";

/** Matches a node and captures some of what it is made of; `C` names the captures and their types. */
export interface Pattern<C extends object = object> {
  readonly op: OpName | null;
  /** Null: whatever the operands are. */
  readonly operands: readonly Pattern[] | null;
  readonly capture: string | null;
  /** Only in the type: what a match captures. */
  readonly captures?: C;
}

/** One pattern an operand, as many as the op has. */
type OperandPatterns<T extends readonly unknown[]> = { readonly [I in keyof T]: Pattern };
type CapturesOf<P> = P extends Pattern<infer C> ? C : never;
type Intersection<U> = (U extends object ? (u: U) => void : never) extends (i: infer I) => void ? I & object : object;
type CapturesOfAll<P extends readonly unknown[]> = P extends readonly [] ? object : Intersection<CapturesOf<P[number]>>;

/** Any node. */
export function any<N extends string>(capture: N): Pattern<{ readonly [C in N]: Node }> {
  return { op: null, operands: null, capture };
}

/** A node of one op, whatever its operands. */
export function a<K extends OpName, N extends string>(op: K, capture: N): Pattern<{ readonly [C in N]: NodeOf<K> }> {
  return { op, operands: null, capture };
}

/** A node of one op over matching operands; those of a commutative op match in either order. */
export function op<K extends OpName, const P extends OperandPatterns<Operands<K>>>(
  name: K,
  operands: P,
): Pattern<CapturesOfAll<P>>;
export function op<K extends OpName, const P extends OperandPatterns<Operands<K>>, N extends string>(
  name: K,
  operands: P,
  capture: N,
): Pattern<CapturesOfAll<P> & { readonly [C in N]: NodeOf<K> }>;
export function op(name: OpName, operands: readonly Pattern[], capture: string | null = null): Pattern {
  return { op: name, operands, capture };
}

export type Captures = Readonly<Record<string, Node>>;

/** Every way `pattern` matches `node`, none when it does not. */
export function matches(pattern: Pattern, node: Node, captures: Captures = {}): Captures[] {
  if (pattern.op !== null && pattern.op !== node.op) return [];
  let found = captures;
  if (pattern.capture !== null) {
    const known = captures[pattern.capture];
    if (known && known !== node) return [];
    found = { ...captures, [pattern.capture]: node };
  }
  if (pattern.operands === null) return [found];
  const patterns = pattern.operands;
  if (patterns.length !== node.operands.length) return [];
  const orders: (readonly Node[])[] = [node.operands];
  if (COMMUTATIVE.has(node.op)) orders.push([...node.operands].reverse());
  return orders.flatMap((operands) =>
    patterns.reduce<Captures[]>((alternatives, p, i) => alternatives.flatMap((c) => matches(p, operands[i] as Node, c)), [found]),
  );
}
