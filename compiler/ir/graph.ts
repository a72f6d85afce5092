/**
 * A model as a graph of interned, frozen nodes: equal nodes are the same object, so common subexpressions vanish by themselves.
 *
 * Nodes are made only here. A graph is never edited: passes build a new one with `rebuild`, which carries taps, logits and origins.
 */
import { CompileError, invariant } from "../errors.ts";
import { inferType, TypeRuleError } from "./infer.ts";
import type { Attrs, InputName, LongFrequencies, Node, NodeOf, Operands, OpName, RopeStyle } from "./ops.ts";
import { type Origin, originHere, printOrigins } from "./origin.ts";
import type { Dim, DType, SymbolName, SymDim, TensorType } from "./tensor-type.ts";

/** The largest step an engine will run; bounds the symbols. */
export interface StepLimits {
  /** Tokens of one sequence, prompt and output. */
  readonly maxModelLen: number;
  /** Sequences of one step, and rows whose logits it computes (S): a step samples at most one token a sequence. */
  readonly maxNumSeqs: number;
  /** Tokens of one step, over all sequences. */
  readonly maxNumBatchedTokens: number;
  /** Tokens in one block of the KV cache. */
  readonly blockSize: number;
}

/** What `rebuild` hands a visitor: the node of the old graph, the new value of any older node, and the graph being built. */
export type Rebuilder = (node: Node, map: (old: Node) => Node, into: Graph) => Node | undefined;

export class Graph {
  readonly T: SymDim;
  readonly B: SymDim;
  readonly S: SymDim;
  readonly P: SymDim;

  private readonly interned = new Map<string, Node>();
  private readonly originTable = new Map<Node, readonly Origin[]>();
  private readonly tapTable = new Map<string, Node>();
  private readonly scopes: string[] = [];
  private inherited: readonly Origin[] | null = null;
  private root: Node | null = null;

  constructor(readonly limits: StepLimits) {
    const symbol = (sym: SymbolName, max: number): SymDim => Object.freeze({ sym, times: 1, max, multipleOf: 1 });
    for (const [name, value] of Object.entries(limits)) {
      if (!Number.isInteger(value) || value < 1)
        throw new CompileError(`${name} is ${value}; expected a whole number of at least 1`);
    }
    this.T = symbol("T", limits.maxNumBatchedTokens);
    this.B = symbol("B", limits.maxNumSeqs);
    this.S = symbol("S", limits.maxNumSeqs);
    this.P = symbol("P", Math.ceil(limits.maxModelLen / limits.blockSize));
  }

  // Structure

  /** The one node for `op` over these operands and attributes. Throws `CompileError` naming the model path when types do not fit. */
  add<K extends OpName>(op: K, operands: Operands<K>, attrs: Attrs<K>): NodeOf<K> {
    const key = `${op}(${operands.map((o) => o.id).join()})${encode(attrs)}`;
    const known = this.interned.get(key);
    if (known) return known as NodeOf<OpName> as NodeOf<K>;
    for (const operand of operands) {
      invariant(this.originTable.has(operand), `an operand of ${op} belongs to another graph`);
    }
    const origins = this.inherited ?? [originHere(this.path)];
    const node = Object.freeze({
      op,
      attrs: Object.freeze({ ...attrs }),
      operands: Object.freeze([...operands]),
      type: Object.freeze(this.infer(op, operands, attrs, origins)),
      id: this.interned.size,
    }) as unknown as NodeOf<K>;
    this.interned.set(key, node as NodeOf<OpName> as Node);
    this.originTable.set(node as NodeOf<OpName> as Node, origins);
    return node;
  }

  private infer<K extends OpName>(op: K, operands: Operands<K>, attrs: Attrs<K>, origins: readonly Origin[]): TensorType {
    if (!Object.hasOwn(inferType, op)) {
      throw new CompileError(`${op} at ${printOrigins(origins)}: there is no such op; ops: ${Object.keys(inferType).join(", ")}`);
    }
    try {
      return inferType[op](operands, attrs);
    } catch (error) {
      if (error instanceof TypeRuleError) throw new CompileError(`${op} at ${printOrigins(origins)}: ${error.message}`);
      throw error;
    }
  }

  /** The model's result: f32(S, vocab). */
  get logits(): Node {
    if (!this.root) throw new CompileError("the model built no logits; its build function must end with g.setLogits(node)");
    return this.root;
  }

  get hasLogits(): boolean {
    return this.root !== null;
  }

  setLogits(node: Node): void {
    if (this.root && this.root !== node)
      throw new CompileError(`g.setLogits at ${this.here}: called twice; a model has one result`);
    this.root = node;
  }

  /** Values worth looking at: `hidden.0` after the embedding, `hidden.l` after layer l, the last one after the final norm (S rows). */
  get taps(): ReadonlyMap<string, Node> {
    return this.tapTable;
  }

  /** Names a value; the name must be new. Returns the node. */
  tap<N extends Node>(name: string, node: N): N {
    if (this.tapTable.has(name)) throw new CompileError(`tap ${name} at ${this.here}: set twice; every tap names one value`);
    this.tapTable.set(name, node);
    return node;
  }

  /** Every node that the logits or a tap depend on, operands before users. */
  liveNodes(): Node[] {
    const live = new Set<Node>();
    const pending = [this.logits, ...this.tapTable.values()];
    for (let node = pending.pop(); node; node = pending.pop()) {
      if (live.has(node)) continue;
      live.add(node);
      pending.push(...node.operands);
    }
    return [...live].sort((a, b) => a.id - b.id);
  }

  /**
   * A new graph of the live nodes, ids dense. `visit` may return another value for a node, built in `into`; without it, or when it
   * returns undefined, the node is added again over its mapped operands. Values made by `visit` inherit the origins of the old node.
   */
  rebuild(visit?: Rebuilder): Graph {
    const into = new Graph(this.limits);
    const mapping = new Map<Node, Node>();
    const map = (old: Node): Node => {
      const known = mapping.get(old);
      if (known) return known;
      const value = into.withOrigins(this.originsOf(old), () => visit?.(old, map, into) ?? into.copy(old, map));
      mapping.set(old, value);
      return value;
    };
    for (const node of this.liveNodes()) map(node);
    for (const [name, node] of this.tapTable) into.tap(name, map(node));
    into.setLogits(map(this.logits));
    return into;
  }

  /** A node of an older graph added here over its mapped operands. */
  copy(old: Node, map: (old: Node) => Node): Node {
    return this.add(
      old.op,
      old.operands.map(map) as unknown as Operands<typeof old.op>,
      old.attrs as Attrs<typeof old.op>,
    ) as Node;
  }

  // Origins

  /** The dotted model path being built. */
  get path(): string {
    return this.scopes.join(".");
  }

  /** Runs `body` with `name` at the end of the model path. */
  scope<R>(name: string, body: () => R): R {
    this.scopes.push(name);
    try {
      return body();
    } finally {
      this.scopes.pop();
    }
  }

  originsOf(node: Node): readonly Origin[] {
    return this.originTable.get(node) ?? [];
  }

  /** The place being built, as a node made now would have it. */
  private get here(): string {
    return printOrigins(this.inherited ?? [originHere(this.path)]);
  }

  /** `layers.3.mlp.gate_proj (models/layers.ts:42)` */
  originText(node: Node): string {
    return printOrigins(this.originsOf(node));
  }

  /** Runs `body`; nodes it makes have these origins. */
  withOrigins<R>(origins: readonly Origin[], body: () => R): R {
    const outer = this.inherited;
    this.inherited = origins;
    try {
      return body();
    } finally {
      this.inherited = outer;
    }
  }

  /** Runs `body`; nodes it makes have one origin, the line that calls this: reading a stack costs more than building a node. */
  sameOrigin<R>(body: () => R): R {
    return this.withOrigins(this.inherited ?? [originHere(this.path)], body);
  }

  // One method an op

  input(name: InputName): NodeOf<"input"> {
    const shape = {
      token_ids: [this.T],
      positions: [this.T],
      seq_ids: [this.T],
      seq_lens: [this.B],
      block_tables: [this.B, this.P],
      sample_rows: [this.S],
    }[name];
    return this.add("input", [], { name, type: { dtype: "i32", shape } });
  }

  /** A checkpoint tensor by its published name. */
  weight(name: string, type: TensorType): NodeOf<"weight"> {
    return this.add("weight", [], { name, type });
  }

  kvCache(layer: number, dtype: DType, numKvHeads: number, headDim: number): NodeOf<"kv_cache"> {
    return this.add("kv_cache", [], { layer, dtype, numKvHeads, headDim });
  }

  constant(value: number): NodeOf<"constant"> {
    return this.add("constant", [], { value });
  }

  cast(x: Node, dtype: DType): NodeOf<"cast"> {
    return this.add("cast", [x], { dtype });
  }

  plus(a: Node, b: Node): NodeOf<"add"> {
    return this.add("add", [a, b], {});
  }

  mul(a: Node, b: Node): NodeOf<"mul"> {
    return this.add("mul", [a, b], {});
  }

  min(a: Node, b: Node): NodeOf<"min"> {
    return this.add("min", [a, b], {});
  }

  max(a: Node, b: Node): NodeOf<"max"> {
    return this.add("max", [a, b], {});
  }

  sigmoid(x: Node): NodeOf<"sigmoid"> {
    return this.add("sigmoid", [x], {});
  }

  silu(x: Node): NodeOf<"silu"> {
    return this.add("silu", [x], {});
  }

  geluTanh(x: Node): NodeOf<"gelu_tanh"> {
    return this.add("gelu_tanh", [x], {});
  }

  tanh(x: Node): NodeOf<"tanh"> {
    return this.add("tanh", [x], {});
  }

  slice(x: Node, axis: number, start: number, size: number): NodeOf<"slice"> {
    return this.add("slice", [x], { axis, start, size });
  }

  transpose(x: Node): NodeOf<"transpose"> {
    return this.add("transpose", [x], {});
  }

  concat(operands: readonly Node[], axis: number): NodeOf<"concat"> {
    return this.add("concat", operands, { axis });
  }

  reshape(x: Node, shape: readonly Dim[]): NodeOf<"reshape"> {
    return this.add("reshape", [x], { shape });
  }

  embedding(ids: Node, table: Node): NodeOf<"embedding"> {
    return this.add("embedding", [ids, table], {});
  }

  linear(x: Node, w: Node): NodeOf<"linear"> {
    return this.add("linear", [x, w], {});
  }

  rmsNorm(x: Node, gain: Node, eps: number): NodeOf<"rms_norm"> {
    return this.add("rms_norm", [x, gain], { eps });
  }

  layerNorm(x: Node, gain: Node, bias: Node, eps: number): NodeOf<"layer_norm"> {
    return this.add("layer_norm", [x, gain, bias], { eps });
  }

  softmax(x: Node): NodeOf<"softmax"> {
    return this.add("softmax", [x], {});
  }

  groupLimit(scores: Node, groups: number, keep: number, best: number): NodeOf<"group_limit"> {
    return this.add("group_limit", [scores], { groups, keep, best });
  }

  topK(x: Node, k: number): NodeOf<"top_k"> {
    return this.add("top_k", [x], { k });
  }

  gatherCols(x: Node, ids: Node): NodeOf<"gather_cols"> {
    return this.add("gather_cols", [x, ids], {});
  }

  renormalize(x: Node, eps: number): NodeOf<"renormalize"> {
    return this.add("renormalize", [x], { eps });
  }

  dispatch(x: Node, ids: Node): NodeOf<"dispatch"> {
    return this.add("dispatch", [x, ids], {});
  }

  groupedLinear(x: Node, w: Node, ids: Node): NodeOf<"grouped_linear"> {
    return this.add("grouped_linear", [x, w, ids], {});
  }

  expertRows(v: Node, ids: Node): NodeOf<"expert_rows"> {
    return this.add("expert_rows", [v, ids], {});
  }

  combine(y: Node, weights: Node, ids: Node): NodeOf<"combine"> {
    return this.add("combine", [y, weights, ids], {});
  }

  ropeAngles(
    positions: Node,
    invFreq: readonly number[],
    attentionFactor: number,
    long: LongFrequencies | null = null,
  ): NodeOf<"rope_angles"> {
    const lengths = long ? [this.input("seq_ids"), this.input("seq_lens")] : [];
    return this.add("rope_angles", [positions, ...lengths], { invFreq, attentionFactor, long });
  }

  rope(x: Node, angles: Node, style: RopeStyle): NodeOf<"rope"> {
    return this.add("rope", [x, angles], { style });
  }

  storeKv(kv: Node, k: Node, v: Node): NodeOf<"store_kv"> {
    return this.add("store_kv", [kv, k, v, this.input("positions"), this.input("seq_ids"), this.input("block_tables")], {});
  }

  pagedAttention(q: Node, kv: Node, scale: number, window: number | null, sinks?: Node): NodeOf<"paged_attention"> {
    const paging = [this.input("positions"), this.input("seq_ids"), this.input("block_tables")] as const;
    return this.add("paged_attention", sinks ? [q, kv, ...paging, sinks] : [q, kv, ...paging], { scale, window });
  }

  gatherRows(x: Node, rows: Node): NodeOf<"gather_rows"> {
    return this.add("gather_rows", [x, rows], {});
  }
}

/** Attributes as text, keys sorted, so that equal attributes have equal text. */
function encode(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(encode).join()}]`;
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
    return `{${entries.map(([k, v]) => `${k}:${encode(v)}`).join()}}`;
  }
  if (typeof value === "string") return JSON.stringify(value);
  return Object.is(value, -0) ? "-0" : String(value);
}
