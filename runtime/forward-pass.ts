/**
 * A scoring pass in progress: gathers what its chunks' steps hand out into whole arrays.
 */
import type { StepResult } from "./batch.ts";
import { EngineError, RequestError } from "./errors.ts";

/** What a scoring pass is asked for. */
export interface ForwardOptions {
  /** The residual stream too; default false. */
  readonly hidden?: boolean;
  /** Most tokens of one of its steps, below the engine's own limits: 1 computes tokens one by one, as decode does. */
  readonly maxNumBatchedTokens?: number;
}

export interface ForwardResult {
  readonly logits: Float32Array; // (T, vocab)
  /** numLayers + 1 arrays (T, hiddenSize), or undefined when not asked for. */
  readonly hidden: readonly Float32Array[] | undefined;
}

/** Names of the rows a forward step asks the device for. */
export function forwardTaps(numLayers: number, hidden: boolean): readonly string[] {
  return hidden ? ["logits", ...Array.from({ length: numLayers + 1 }, (_, l) => `hidden.${l}`)] : ["logits"];
}

export class ForwardPass {
  readonly taps: readonly string[];
  readonly #numTokens: number;
  readonly #vocabSize: number;
  readonly #settle: { readonly resolve: (result: ForwardResult) => void; readonly reject: (error: unknown) => void };
  readonly #arrays = new Map<string, Float32Array>();

  constructor(
    numTokens: number,
    vocabSize: number,
    taps: readonly string[],
    settle: { readonly resolve: (result: ForwardResult) => void; readonly reject: (error: unknown) => void },
  ) {
    this.taps = taps;
    this.#numTokens = numTokens;
    this.#vocabSize = vocabSize;
    this.#settle = settle;
  }

  /**
   * Copies the rows of tokens `start` … `start + count` − 1.
   * @throws RequestError 400 when there is no memory for all rows; EngineError when the device did not give what was asked for.
   */
  take(start: number, count: number, result: StepResult): void {
    for (const name of this.taps) {
      const rows = result.taps.get(name);
      if (rows === undefined) throw new EngineError(`the engine's program has no tap ${name}; compile it again`);
      const width = name === "logits" ? this.#vocabSize : rows.length / count;
      if (rows.length !== width * count || !Number.isInteger(width)) {
        throw new EngineError(`tap ${name} gave ${rows.length} numbers for ${count} tokens`);
      }
      let whole = this.#arrays.get(name);
      if (whole === undefined) {
        whole = allocate(name, this.#numTokens, width);
        this.#arrays.set(name, whole);
      }
      whole.set(rows, start * width);
    }
  }

  resolve(): void {
    const hidden = this.taps.filter((name) => name !== "logits").map((name) => this.#arrays.get(name)!);
    this.#settle.resolve({ logits: this.#arrays.get("logits")!, hidden: hidden.length > 0 ? hidden : undefined });
  }

  reject(error: unknown): void {
    this.#settle.reject(error);
  }
}

function allocate(name: string, numTokens: number, width: number): Float32Array {
  try {
    return new Float32Array(numTokens * width);
  } catch (cause) {
    const message = `${name} of ${numTokens} tokens are ${numTokens * width} numbers, more than fit in one array here: score fewer tokens at a time`;
    throw new RequestError(400, message, { param: "tokenIds", cause });
  }
}
