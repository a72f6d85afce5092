/**
 * What the sampling kernel must know about one sequence, kept in the layout of `runtime/batch.ts` so that a step only copies it.
 *
 * Token counts for penalties exist only for requests that use them and grow by one entry per new token; nothing is rebuilt per step.
 */
import { randomBytes } from "node:crypto";
import { SAMPLE_FLOATS, SAMPLE_FLOATS_WIDTH } from "../batch.ts";
import type { SamplingParams } from "../sampling-params.ts";

const FLOAT_BITS = (value: number): number => new Int32Array(Float32Array.of(value).buffer)[0]!;

/** Occurrences per token id as rows (id, count in output; 0 means prompt only), in order of first appearance. */
export class TokenCounts {
  #rows = new Int32Array(64); // (capacity, 2)
  #size = 0;
  readonly #rowOf = new Map<number, number>();

  get size(): number {
    return this.#size;
  }

  /** Counts one token of the prompt (0: it only becomes known) or of the output (1). */
  add(id: number, occurrences: 0 | 1): void {
    let row = this.#rowOf.get(id);
    if (row === undefined) {
      row = this.#size++;
      this.#rowOf.set(id, row);
      if (row * 2 === this.#rows.length) {
        const grown = new Int32Array(this.#rows.length * 2);
        grown.set(this.#rows);
        this.#rows = grown;
      }
      this.#rows[row * 2] = id;
    }
    this.#rows[row * 2 + 1]! += occurrences;
  }

  /** Copies the rows to row `at` of `target` (n, 2). */
  copyTo(target: Int32Array, at: number): void {
    target.set(this.#rows.subarray(0, this.#size * 2), at * 2);
  }
}

/** One sequence's sampling settings; `counts` changes with every output token, the rest stays. */
export class SamplingState {
  readonly floats = new Float32Array(SAMPLE_FLOATS_WIDTH);
  readonly topK: number;
  readonly seedLow: number;
  readonly seedHigh: number;
  readonly numLogprobs: number;
  readonly minTokens: number;
  /** undefined when no penalty is on. */
  readonly counts: TokenCounts | undefined;
  /** Rows (id, f32 bits) added to the logits. */
  readonly bias: Int32Array;
  /** The same until `minTokens` are out, with the ids that would end the output banned. */
  readonly biasBeforeMinTokens: Int32Array;

  /**
   * @param index which of the request's completions this is; it shifts the seed.
   * @param endTokenIds ids that end the output (EOS and stop ids): banned until `minTokens` are out.
   */
  constructor(params: SamplingParams, index: number, promptTokenIds: ArrayLike<number>, endTokenIds: Iterable<number>) {
    this.floats[SAMPLE_FLOATS.temperature] = params.temperature;
    this.floats[SAMPLE_FLOATS.topP] = params.topP;
    this.floats[SAMPLE_FLOATS.minP] = params.minP;
    this.floats[SAMPLE_FLOATS.repetitionPenalty] = params.repetitionPenalty;
    this.floats[SAMPLE_FLOATS.presencePenalty] = params.presencePenalty;
    this.floats[SAMPLE_FLOATS.frequencyPenalty] = params.frequencyPenalty;
    this.topK = params.topK;
    this.numLogprobs = params.logprobs === null ? 0 : params.logprobs + 1;
    this.minTokens = params.minTokens;

    if (params.seed === null) {
      const bytes = randomBytes(8);
      this.seedLow = bytes.readInt32LE(0);
      this.seedHigh = bytes.readInt32LE(4);
    } else {
      const seed = BigInt.asIntN(64, BigInt(params.seed) + BigInt(index));
      this.seedLow = Number(BigInt.asIntN(32, seed));
      this.seedHigh = Number(BigInt.asIntN(32, seed >> 32n));
    }

    const penalizesPrompt = params.repetitionPenalty !== 1;
    if (penalizesPrompt || params.presencePenalty !== 0 || params.frequencyPenalty !== 0) {
      this.counts = new TokenCounts();
      if (penalizesPrompt) for (let i = 0; i < promptTokenIds.length; i++) this.counts.add(promptTokenIds[i]!, 0);
    }

    const biases = new Map<number, number>();
    for (const [id, bias] of Object.entries(params.logitBias)) if (bias !== 0) biases.set(Number(id), FLOAT_BITS(bias));
    this.bias = Int32Array.from([...biases].flat());
    if (params.minTokens > 0) {
      for (const id of endTokenIds) biases.set(id, FLOAT_BITS(Number.NEGATIVE_INFINITY));
      this.biasBeforeMinTokens = Int32Array.from([...biases].flat());
    } else {
      this.biasBeforeMinTokens = this.bias;
    }
  }

  /** The bias rows that hold for output token number `outputIndex`. */
  biasAt(outputIndex: number): Int32Array {
    return outputIndex < this.minTokens ? this.biasBeforeMinTokens : this.bias;
  }
}
