/**
 * Finds stop strings in a text that arrives in pieces, and holds back what may still become one.
 *
 * One Knuth-Morris-Pratt automaton per stop string: time in proportion to the text whatever the strings are, and the outcome does not
 * depend on where the pieces were cut. The first stop string to be completed ends the text; of two completed at the same character,
 * the longer one.
 */

/** Text that may be shown, and the stop string that ended it. */
export interface StopResult {
  readonly text: string;
  readonly stop: string | null;
}

export class StopStrings {
  readonly #stops: readonly { readonly text: string; readonly failure: Int32Array }[];
  readonly #matched: Int32Array; // per stop: how many of its characters the text ends with
  readonly #includeStop: boolean;
  #held = "";

  /** @param includeStop whether the stop string itself is part of the text that is shown. */
  constructor(stops: readonly string[], includeStop: boolean) {
    // Longest first, so that the first to match at a character is the longest.
    this.#stops = [...stops].sort((a, b) => b.length - a.length).map((text) => ({ text, failure: failureFunction(text) }));
    this.#matched = new Int32Array(stops.length);
    this.#includeStop = includeStop;
  }

  /**
   * Takes the next piece of the text and gives what may be shown of it; after a match, nothing more is to be pushed.
   *
   * @param canStop false while a completed stop string is to be ignored (before `minTokens`).
   */
  push(piece: string, canStop = true): StopResult {
    if (this.#stops.length === 0) return { text: piece, stop: null };
    const text = this.#held + piece;
    for (let i = this.#held.length; i < text.length; i++) {
      const unit = text.charCodeAt(i);
      for (let s = 0; s < this.#stops.length; s++) {
        const stop = this.#stops[s]!;
        let k = this.#matched[s]!;
        while (k > 0 && (k === stop.text.length || stop.text.charCodeAt(k) !== unit)) k = stop.failure[k - 1]!;
        if (stop.text.charCodeAt(k) === unit) k++;
        this.#matched[s] = k;
        if (k === stop.text.length && canStop) {
          this.#held = "";
          return { text: text.slice(0, i + 1 - (this.#includeStop ? 0 : k)), stop: stop.text };
        }
      }
    }
    let held = 0;
    for (let s = 0; s < this.#stops.length; s++) {
      const { text: stop, failure } = this.#stops[s]!;
      const k = this.#matched[s]!;
      held = Math.max(held, k === stop.length ? failure[k - 1]! : k); // a whole one was ignored: only its overlap can go on
    }
    this.#held = text.slice(text.length - held);
    return { text: text.slice(0, text.length - held), stop: null };
  }

  /** What is still held back, once the text has ended without a stop string. */
  flush(): string {
    const held = this.#held;
    this.#held = "";
    return held;
  }
}

/** failure[i]: length of the longest proper prefix of `text` that is a suffix of text[0 … i]. */
function failureFunction(text: string): Int32Array {
  const failure = new Int32Array(text.length);
  for (let i = 1, k = 0; i < text.length; i++) {
    while (k > 0 && text[i] !== text[k]) k = failure[k - 1]!;
    if (text[i] === text[k]) k++;
    failure[i] = k;
  }
  return failure;
}
