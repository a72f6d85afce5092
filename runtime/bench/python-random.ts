/**
 * Python's `random.seed(int)` and `random.randint`, bit for bit: benchmark workloads published as Python scripts name their
 * requests by a seed.
 *
 * The MT19937 generator itself is random-js, which seeds from an array as CPython does. Of the other libraries tried, pure-rand
 * seeds from one number only (`init_genrand`, another sequence), @stdlib/random-base-mt19937 refuses the array [0], which is
 * what `seed(0)` means, and mersenne-twister fits but has no types. None offers Python's seeding or `randint`.
 * Not for anything that needs unpredictability.
 */
import { MersenneTwister19937 } from "random-js";

/** A generator in the state that CPython's `random.seed(seed)` leaves. */
export class PythonRandom {
  readonly #engine: MersenneTwister19937;

  /** `seed`: a safe integer; as in CPython its sign is ignored. Throws RangeError on anything else. */
  constructor(seed: number) {
    if (!Number.isSafeInteger(seed)) throw new RangeError(`seed must be an integer, got ${seed}`);
    const magnitude = Math.abs(seed);
    const low = magnitude >>> 0;
    const high = Math.floor(magnitude / 2 ** 32);
    // init_by_array takes the 32-bit limbs, least significant first; 0 is one limb.
    this.#engine = MersenneTwister19937.seedWithArray(high === 0 ? [low] : [low, high]);
  }

  /** An integer of `low` … `high`, both included. Throws RangeError for an empty range or one of 2³² values and more. */
  randint(low: number, high: number): number {
    const width = high - low + 1;
    if (!Number.isSafeInteger(low) || !Number.isSafeInteger(high) || width < 1 || width >= 2 ** 32) {
      throw new RangeError(`randint takes low <= high less than 2^32 - 1 apart, got ${low} and ${high}`);
    }
    // CPython's _randbelow: draw bit_length(width) bits until they are below width.
    const shift = Math.clz32(width);
    let drawn: number;
    do drawn = this.#engine.next() >>> shift;
    while (drawn >= width);
    return low + drawn;
  }
}
