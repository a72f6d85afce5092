/**
 * Compares an engine with a reference: recorded activations, or the interpreter of its own graph.
 *
 * Each prompt is computed whole, as in prefill, and once more token by token over the KV cache, as in decode: other kernels, the same
 * reference. Errors are ‖Δ‖/‖ref‖ over a whole tensor and NaN never passes. Rows are one quantity of one prompt, in the order the
 * model computes them; the first tensor that is off is the first place to look, since tokens differ for any reason.
 */
import { kvKind } from "../../runtime/batch.ts";
import type { ManifestDType, ModelFacts } from "../../runtime/manifest.ts";
import type { Golden, ReferencePrompt } from "./golden.ts";

/** Logits (T, vocab) of every position and, on request, hidden states as `hidden.0` … `hidden.L`, each (T, hiddenSize). */
export interface Outputs {
  readonly logits: Float32Array;
  readonly hidden?: readonly Float32Array[];
}

/** What verification asks of an engine. */
export interface Verifiable {
  /** Most tokens of prompt and output together. */
  readonly maxTokens: number;
  /** Lengths beyond which a sequence has other keys, as the manifest says. */
  readonly rebuiltBeyond: readonly number[];
  /** Whether a row's sums depend on how many rows a step has, whose order kernels for few rows and for many do not share. */
  readonly sumsVary: boolean;
  /** All tokens in as few steps as the engine's limits allow. */
  forward(ids: readonly number[], options: { hidden: boolean }): Promise<Outputs>;
  /** The same in steps of one token. */
  decode(ids: readonly number[], options: { hidden: boolean }): Promise<Outputs>;
  /** Tokens generated at temperature 0; fewer than `count` where the engine gives none. */
  greedy(ids: readonly number[], count: number): Promise<readonly number[]>;
}

export interface Row {
  readonly prompt: number;
  readonly tokens: number;
  /**
   * `hidden.3` and `logits` of the prompt computed whole, `decode.hidden.3` and `decode.logits` token by token; `sampler`: generated
   * tokens that are not the argmax of the engine's own logits, nor as near to it as logits may be off where sums vary; `greedy`: those
   * that are not the recorded ones.
   */
  readonly what: string;
  /** ‖Δ‖/‖ref‖, or the number of tokens that differ. */
  readonly error: number;
  readonly allowed: number;
  readonly ok: boolean;
}

/** Rows whose error is a number of tokens. */
export const COUNTS: ReadonlySet<string> = new Set(["sampler", "greedy"]);

export interface Verification {
  readonly reference: string;
  readonly dtype: ModelFacts["dtype"];
  readonly rows: readonly Row[];
  readonly ok: boolean;
  /** Where to look first, or null: the first tensor that is off; where all are right, tokens. */
  readonly firstFailure: Row | null;
}

/** Called with the tokens compared so far, and all of them. */
export type OnProgress = (done: number, total: number) => void;

/** Largest ‖Δ‖/‖ref‖ between recorded activations and an engine that computes in f32. */
export const GOLDEN_F32_TOLERANCE = 1e-4;

/** Tokens generated after a prompt whose continuation is not recorded. */
export const GREEDY_TOKENS = 8;

/**
 * What an e4m3 cache may add to the error against activations recorded without one. Of four significant bits, half a last place is
 * 2^-5 … 2^-4 of a value. Seen, in models of 2 and 3 layers without experts: up to 0.060; where a router chose another expert, which no
 * bound on rounding covers, up to 0.2.
 */
const FP8_CACHE_TOLERANCE = 2 ** -4;

/**
 * Compares with recorded activations, of a model of `dtype` whose cache is `cache`. In f32 the greedy tokens must be the recorded ones,
 * unless the cache is of fp8, under which two likely tokens change places.
 */
export function verifyGolden(
  engine: Verifiable,
  golden: Golden,
  { dtype, cache, reference }: { dtype: ModelFacts["dtype"]; cache: ManifestDType; reference: string },
  onProgress?: OnProgress,
): Promise<Verification> {
  const computed = dtype === "float32" ? GOLDEN_F32_TOLERANCE : 2 * golden.bf16RelativeError;
  const isFp8 = cache === "fp8_e4m3";
  const tolerance = computed + (isFp8 ? FP8_CACHE_TOLERANCE : 0);
  const sameTokens = dtype === "float32" && !isFp8;
  return verifyAgainst(engine, golden.prompts, { dtype, tolerance, reference, sameTokens }, onProgress);
}

/** Compares with what a reference gave for each prompt, its greedy tokens included where `sameTokens` says so. */
export async function verifyAgainst(
  engine: Verifiable,
  prompts: readonly ReferencePrompt[],
  options: { dtype: ModelFacts["dtype"]; tolerance: number; reference: string; sameTokens?: boolean },
  onProgress: OnProgress = () => {},
): Promise<Verification> {
  const { dtype, tolerance, reference, sameTokens = false } = options;
  const total = prompts.reduce((sum, { ids }) => sum + ids.length, 0);
  const rows: Row[] = [];
  let done = 0;
  for (const [prompt, expected] of prompts.entries()) {
    onProgress(done, total);
    rows.push(...(await compare(engine, prompt, expected, sameTokens, tolerance)));
    done += expected.ids.length;
  }
  onProgress(done, total);
  const off = rows.filter((r) => !r.ok);
  const firstFailure = off.find((r) => !COUNTS.has(r.what)) ?? off[0] ?? null;
  return { reference, dtype, rows, ok: rows.length > 0 && firstFailure === null, firstFailure };
}

/** What the first failure means for who looks for it: `hidden.2 is what layer 1 gives; prompts of 1 token are right, so …`. */
export function whereToLook({ rows, firstFailure }: Verification): string | null {
  if (firstFailure === null) return null;
  const { what, tokens } = firstFailure;
  if (what === "sampler") return "logits are right: look at how a token is chosen";
  if (what === "greedy") return "logits are right: two tokens may be as likely as each other";
  const path = /^decode\./.exec(what)?.[0] ?? "";
  const quantity = what.slice(path.length);
  const layer = Number(/^hidden\.(\d+)$/.exec(quantity)?.[1]);
  const isLast = !rows.some((r) => r.what === `hidden.${layer + 1}`);
  const after = layer === 0 ? "the embedding" : `layer ${layer - 1}${isLast ? " and the final norm" : ""}`;
  const notes = [`${what}: what stands after ${quantity === "logits" ? "the head" : after}`];
  const isRight = (row: Row) => row.ok || COUNTS.has(row.what);
  const single = rows.filter((r) => r.tokens === 1);
  if (path) notes.push("computed whole it is right: look at what decode reads of the KV cache");
  else if (tokens > 1 && single.length > 0 && single.every(isRight))
    notes.push("a prompt of 1 token is right: look at what mixes positions, such as rotation and window");
  return notes.join("; ");
}

async function compare(
  engine: Verifiable,
  prompt: number,
  expected: ReferencePrompt,
  sameTokens: boolean,
  tolerance: number,
): Promise<Row[]> {
  const { ids } = expected;
  const rows: Row[] = [];
  const push = (what: string, error: number, allowed: number) =>
    rows.push({ prompt, tokens: ids.length, what, error, allowed, ok: error <= allowed });
  const pushTensors = (path: string, { logits, hidden = [] }: Outputs) => {
    for (const [l, e] of expected.hidden.entries()) {
      push(`${path}hidden.${l}`, relativeError(hidden[l] ?? new Float32Array(0), e), tolerance);
    }
    push(`${path}logits`, relativeError(logits, expected.logits), tolerance);
  };

  const options = { hidden: expected.hidden.length > 0 };
  pushTensors("", await engine.forward(ids, options));

  const count = Math.min(expected.greedy.length || GREEDY_TOKENS, engine.maxTokens - ids.length);
  const generated = count > 0 ? await engine.greedy(ids, count) : [];
  const fed = [...ids, ...generated.slice(0, -1)];
  // A token generated from n tokens is told by their logits under keys of their kind: the longest beginning of each kind is decoded.
  const kindOf = (length: number) => kvKind(length, engine.rebuiltBeyond);
  const lengths = Array.from({ length: fed.length - ids.length + 1 }, (_, i) => ids.length + i);
  const logitsByKind = new Map<number, Float32Array>();
  for (const [kind, length] of new Map(lengths.map((n) => [kindOf(n), n]))) {
    const decoded = await engine.decode(fed.slice(0, length), options);
    logitsByKind.set(kind, decoded.logits);
    if (kind !== kindOf(ids.length)) continue;
    const ofPrompt = (x: Float32Array) => x.subarray(0, (x.length / length) * ids.length);
    pushTensors("decode.", { logits: ofPrompt(decoded.logits), hidden: decoded.hidden?.map(ofPrompt) });
  }

  if (count <= 0) return rows;
  const vocab = expected.logits.length / ids.length;
  const wrong = generated.filter((id, i) => {
    const length = ids.length + i;
    const logits = logitsByKind.get(kindOf(length))?.subarray((length - 1) * vocab, length * vocab) ?? new Float32Array(0);
    const margin = engine.sumsVary ? 2 * tolerance * rootMeanSquare(logits) : 0; // two logits may be off in opposite directions
    const best = argmax(logits);
    const below = (logits[best] as number) - (logits[id] as number);
    return id !== best && !(below > 0 && below <= margin); // of equal ones only the first is right
  });
  push("sampler", wrong.length + count - generated.length, 0); // tokens that never came are wrong
  const differing = (tokens: readonly number[]) => tokens.filter((id, i) => generated[i] !== id).length;
  if (sameTokens && expected.greedy.length > 0) push("greedy", differing(expected.greedy.slice(0, count)), 0);
  return rows;
}

const rootMeanSquare = (x: Float32Array): number => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / x.length);

/** The first of the largest; −1 of nothing. */
function argmax(x: Float32Array): number {
  let best = x.length > 0 ? 0 : -1;
  for (let i = 1; i < x.length; i++) if ((x[i] as number) > (x[best] as number)) best = i;
  return best;
}

/** ‖actual − expected‖ / ‖expected‖; NaN where either holds one or the lengths differ. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.NaN;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += ((actual[i] as number) - (expected[i] as number)) ** 2;
    norm += (expected[i] as number) ** 2;
  }
  return norm === 0 && difference === 0 ? 0 : Math.sqrt(difference / norm);
}
