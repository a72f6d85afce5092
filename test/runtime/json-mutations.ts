/**
 * Random damage to JSON: the kind that bit flips, other programs and attackers do. Deterministic by seed.
 */
import { MersenneTwister19937, Random } from "random-js";

const JUNK: readonly unknown[] = [
  null,
  true,
  false,
  0,
  -1,
  -0,
  1,
  2,
  3,
  0.5,
  1e308,
  -1e308,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  2 ** 53 - 1,
  2 ** 63,
  Number.MAX_VALUE,
  "",
  "T",
  "mul",
  "ceildiv",
  "../../etc/passwd",
  "/etc/passwd",
  "a\u0000b",
  "\ud800",
  "__proto__",
  "constructor",
  "x".repeat(5000),
  [],
  [[]],
  {},
  { buffer: 0 },
  { __proto__: null },
  [0, 0],
  [0, 2 ** 40],
  "BF16",
  "F64",
  "I64",
];

export class Mutator {
  private readonly random: Random;

  constructor(seed: number) {
    this.random = new Random(MersenneTwister19937.seed(seed));
  }

  integer(min: number, max: number): number {
    return this.random.integer(min, max);
  }

  pick<T>(values: readonly T[]): T {
    return this.random.pick(values);
  }

  /** A deep copy of `value` with one to three places changed: replaced, removed, renamed, moved, doubled, or a number nudged. */
  structure(value: unknown): unknown {
    const holder = { root: JSON.parse(JSON.stringify(value)) as unknown };
    for (let n = this.integer(1, 3); n > 0; n--) this.damage(holder);
    return holder.root;
  }

  /** `bytes` with one to four changed, removed or inserted, or cut short. */
  bytes(bytes: Uint8Array): Uint8Array {
    let result = Uint8Array.from(bytes);
    for (let n = this.integer(1, 4); n > 0 && result.length > 0; n--) {
      const at = this.integer(0, result.length - 1);
      const kind = this.integer(0, 3);
      if (kind === 0) result[at] = this.integer(0, 255);
      else if (kind === 1) result[at] = (result[at] as number) ^ (1 << this.integer(0, 7));
      else if (kind === 2) result = Uint8Array.from([...result.subarray(0, at), this.integer(0, 255), ...result.subarray(at)]);
      else
        result =
          this.integer(0, 3) === 0
            ? result.subarray(0, at)
            : Uint8Array.from([...result.subarray(0, at), ...result.subarray(at + 1)]);
    }
    return result;
  }

  private damage(holder: Record<string, unknown>): void {
    const places: { readonly parent: Record<string, unknown> | unknown[]; readonly key: string }[] = [];
    const collect = (parent: Record<string, unknown> | unknown[]) => {
      for (const [key, value] of Object.entries(parent)) {
        places.push({ parent, key });
        if (typeof value === "object" && value !== null) collect(value as Record<string, unknown>);
      }
    };
    collect(holder);
    const { parent, key } = this.pick(places);
    const target = parent as Record<string, unknown>;
    const value = target[key];
    const kind = this.integer(0, 6);
    if (typeof value === "number" && kind < 3)
      target[key] = value + this.pick([1, -1, 0.5, 16, 4096, 2 ** 32, -value, value, -2 * value]);
    else if (kind === 3 && parent !== holder) Array.isArray(parent) ? parent.splice(Number(key), 1) : delete target[key];
    else if (kind === 4 && parent !== holder) {
      if (Array.isArray(parent)) parent.splice(Number(key), 0, structuredClone(value));
      else target[this.pick(["extra", "name", "kernel", "buffer", "tensor", "kv", "array", "dtype", key.toUpperCase()])] = value;
    } else if (kind === 5)
      target[key] = structuredClone((this.pick(places).parent as Record<string, unknown>)[this.pick(places).key]);
    else target[key] = structuredClone(this.pick(JUNK));
  }
}
