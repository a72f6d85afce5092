/**
 * One step as the interpreter sees it: the symbols' values, the arrays handed over, the weights and the caches.
 */
import type { InputName, Node } from "./ops.ts";
import type { SymbolName } from "./tensor-type.ts";

/** A checkpoint tensor's values, row-major, by published name. */
export type WeightSource = (name: string) => Float32Array;

/** One step: the symbols' values and the arrays of `runtime/batch.ts`. */
export interface StepInputs {
  readonly binding: Readonly<Record<SymbolName, number>>;
  readonly arrays: Readonly<Record<InputName, Int32Array>>;
}

/** One layer's cache by slot (block · blockSize + offset): k and v are (slots, numKvHeads · headDim). Never written in place. */
export interface KvState {
  readonly blockSize: number;
  readonly k: Float32Array;
  readonly v: Float32Array;
}

export interface InterpretEnvironment {
  readonly step: StepInputs;
  readonly weights: WeightSource;
  readonly kv: (layer: number) => KvState;
  /** Values of nodes made of weights alone, kept from step to step. */
  readonly constants?: Map<Node, Float32Array>;
}

/**
 * A step of one sequence in blocks 0, 1, 2, …: `tokenIds` at positions from `firstPosition`, logits of every row or of the last.
 * `length` is how many tokens the sequence has where more are known than this step computes.
 */
export function oneSequenceStep(
  tokenIds: readonly number[],
  firstPosition: number,
  blockSize: number,
  sample: "all" | "last",
  length = firstPosition + tokenIds.length,
): StepInputs {
  const T = tokenIds.length;
  const P = Math.ceil((firstPosition + T) / blockSize);
  const rows = sample === "all" ? tokenIds.map((_, t) => t) : [T - 1];
  return {
    binding: { T, B: 1, S: rows.length, P },
    arrays: {
      token_ids: Int32Array.from(tokenIds),
      positions: Int32Array.from(tokenIds, (_, t) => firstPosition + t),
      seq_ids: new Int32Array(T),
      seq_lens: Int32Array.of(length),
      block_tables: Int32Array.from({ length: P }, (_, p) => p),
      sample_rows: Int32Array.from(rows),
    },
  };
}
