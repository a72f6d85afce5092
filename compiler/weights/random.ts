/**
 * Weights for benchmarks without a download: normal values that depend only on seed, tensor name and index.
 *
 * Matrices are N(0, 0.02), norm gains 1 + N(0, 0.02), biases N(0, 0.02). Values come from a table of 65,536 quantiles, indexed by
 * the halves of a 32-bit counter hash, so that they are the same on every machine and made faster than a disk could deliver them.
 */
import { createHash } from "node:crypto";
import { CompileError } from "../errors.ts";
import { dtypeBytes } from "../ir/tensor-type.ts";
import { converter } from "./convert.ts";
import { elementsOf, type StoredSize, type WeightDType, type WeightInfo, type WeightSource } from "./source.ts";

const STANDARD_DEVIATION = 0.02;
const QUANTILES = 65536;

/** Random weights of the given shapes, as if read from a checkpoint stored in `dtype`. */
export class RandomWeights implements WeightSource {
  /** Bits of the quantiles around 0, and around 1 for gains. */
  private readonly centered: Uint16Array | Uint32Array;
  private readonly gains: Uint16Array | Uint32Array;

  /** `shapes` by tensor name; `seed` a whole number from 0. */
  constructor(
    readonly seed: number,
    private readonly dtype: WeightDType,
    private readonly shapes: ReadonlyMap<string, readonly number[]>,
  ) {
    if (!Number.isSafeInteger(seed) || seed < 0) throw new CompileError(`the seed is ${seed}; expected a whole number from 0`);
    this.centered = quantileBits(0, dtype);
    this.gains = quantileBits(1, dtype);
  }

  list(): readonly StoredSize[] {
    const names = [...this.shapes.keys()].sort();
    return names.map((name) => ({ name, bytes: elementsOf(this.shapes.get(name) ?? []) * dtypeBytes[this.dtype] }));
  }

  find(name: string): WeightInfo | undefined {
    const shape = this.shapes.get(name);
    return shape && { dtype: this.dtype, shape };
  }

  async read(name: string, begin: number, into: Uint8Array): Promise<void> {
    const shape = this.shapes.get(name);
    if (!shape) throw new CompileError(`there is no random tensor ${name}; the model names ${this.shapes.size} others`);
    const table = shape.length === 1 && name.endsWith(".weight") ? this.gains : this.centered;
    const count = into.length / dtypeBytes[this.dtype];
    if (table instanceof Uint32Array)
      fillWords(table, this.key(name), begin, new Uint32Array(into.buffer, into.byteOffset, count));
    else fillHalves(table, this.key(name), begin, new Uint16Array(into.buffer, into.byteOffset, count));
  }

  /** Two words: one offsets the counter, one is mixed into the hash, so that streams do not run into each other. */
  private key(name: string): readonly [number, number] {
    const digest = createHash("sha256").update(`${this.seed}:${name}`).digest();
    return [digest.readUInt32LE(0), digest.readUInt32LE(4)];
  }
}

/** The 32-bit hash of pair `i`: lowbias32 (https://nullprogram.com/blog/2018/07/31/) over a counter, keyed before and after its first step. */
function hashPair(a: number, b: number, i: number): number {
  let x = (i + a) | 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d) ^ b;
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return x ^ (x >>> 16);
}

/** Element i is the low half of pair ⌊i/2⌋ when even, the high half when odd. */
function fillWords(table: Uint32Array, [a, b]: readonly [number, number], begin: number, out: Uint32Array): void {
  let i = 0;
  if (begin % 2 === 1 && out.length > 0) out[i++] = table[hashPair(a, b, Math.floor(begin / 2)) >>> 16] as number;
  let pair = Math.ceil(begin / 2);
  for (; i + 1 < out.length; i += 2, pair++) {
    const x = hashPair(a, b, pair);
    out[i] = table[x & 0xffff] as number;
    out[i + 1] = table[x >>> 16] as number;
  }
  if (i < out.length) out[i] = table[hashPair(a, b, pair) & 0xffff] as number;
}

/** The same for 16-bit elements; written twice so that each loop sees one kind of array, which doubles its speed. */
function fillHalves(table: Uint16Array, [a, b]: readonly [number, number], begin: number, out: Uint16Array): void {
  let i = 0;
  if (begin % 2 === 1 && out.length > 0) out[i++] = table[hashPair(a, b, Math.floor(begin / 2)) >>> 16] as number;
  let pair = Math.ceil(begin / 2);
  for (; i + 1 < out.length; i += 2, pair++) {
    const x = hashPair(a, b, pair);
    out[i] = table[x & 0xffff] as number;
    out[i + 1] = table[x >>> 16] as number;
  }
  if (i < out.length) out[i] = table[hashPair(a, b, pair) & 0xffff] as number;
}

/** Bits, in `dtype`, of mean + 0.02 · Φ⁻¹((i + ½) / 65536). */
function quantileBits(mean: number, dtype: WeightDType): Uint16Array | Uint32Array {
  const values = Float32Array.from(
    { length: QUANTILES },
    (_, i) => mean + STANDARD_DEVIATION * normalQuantile((i + 0.5) / QUANTILES),
  );
  if (dtype === "f32") return new Uint32Array(values.buffer);
  const bits = new Uint16Array(QUANTILES);
  converter("f32", dtype)(new Uint8Array(values.buffer), new Uint8Array(bits.buffer), QUANTILES);
  return bits;
}

/** Φ⁻¹(p) for 0 < p < 1 with a relative error below 1.2e-9 (P. Acklam's rational approximation). */
function normalQuantile(p: number): number {
  if (p > 0.5) return -normalQuantile(1 - p);
  if (p < 0.02425) {
    const q = Math.sqrt(-2 * Math.log(p));
    const numerator =
      ((((-7.784894002430293e-3 * q - 3.223964580411365e-1) * q - 2.400758277161838) * q - 2.549732539343734) * q +
        4.374664141464968) *
        q +
      2.938163982698783;
    const denominator =
      (((7.784695709041462e-3 * q + 3.224671290700398e-1) * q + 2.445134137142996) * q + 3.754408661907416) * q + 1;
    return numerator / denominator;
  }
  const q = p - 0.5;
  const r = q * q;
  const numerator =
    ((((-3.969683028665376e1 * r + 2.209460984245205e2) * r - 2.759285104469687e2) * r + 1.38357751867269e2) * r -
      3.066479806614716e1) *
      r +
    2.506628277459239;
  const denominator =
    ((((-5.447609879822406e1 * r + 1.615858368580409e2) * r - 1.556989798598866e2) * r + 6.680131188771972e1) * r -
      1.328068155288572e1) *
      r +
    1;
  return (q * numerator) / denominator;
}
