/**
 * Strict readers of untrusted JSON: each takes a value and the path it stands at, and returns it typed or throws `FieldError`.
 *
 * Nothing is coerced and nothing is ignored: an unknown field is an error, so that a file cannot say what nobody checked.
 */

/** A value that is not what its place asks for. `parseManifest` turns it into a `ManifestError`. */
export class FieldError extends Error {
  override readonly name = "FieldError";
  /** `path` is the JSON path ("" is the top); `expected` and `found` complete their phrases. */
  constructor(path: string, expected: string, found: string | number) {
    super(`${path || "the top level"}: expected ${expected}, found ${found}`);
  }
}

/** Checks one value at a path. */
export type Reader<T> = (value: unknown, path: string) => T;

/** A whole number from `min` to `max`, both included. */
export const integer =
  (min: number, max: number): Reader<number> =>
  (value, path) => {
    if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) return value + 0; // −0 becomes 0
    throw new FieldError(path, `a whole number from ${min} to ${max}`, printValue(value));
  };

/** A string that matches `pattern`; `expected` says it in words. */
export const text =
  (pattern: RegExp, expected: string): Reader<string> =>
  (value, path) => {
    if (typeof value === "string" && pattern.test(value)) return value;
    throw new FieldError(path, expected, printValue(value));
  };

/** One of a few strings. */
export const oneOf =
  <T extends string>(values: readonly T[]): Reader<T> =>
  (value, path) => {
    const found = values.find((v) => v === value);
    if (found !== undefined) return found;
    throw new FieldError(path, `one of ${values.map((v) => `"${v}"`).join(", ")}`, printValue(value));
  };

/** `true` or `false`. */
export const boolean: Reader<boolean> = (value, path) => {
  if (typeof value === "boolean") return value;
  throw new FieldError(path, "true or false", printValue(value));
};

/** `null`, or what `reader` reads. */
export const nullable =
  <T>(reader: Reader<T>): Reader<T | null> =>
  (value, path) =>
    value === null ? null : reader(value, path);

/** An array of `min` to `max` items. */
export const list =
  <T>(item: Reader<T>, min: number, max: number): Reader<readonly T[]> =>
  (value, path) => {
    if (!Array.isArray(value)) throw new FieldError(path, "a list", printValue(value));
    if (value.length < min || value.length > max)
      throw new FieldError(path, `a list of ${min} to ${max} items`, `${value.length} items`);
    return value.map((v, i) => item(v, `${path}[${i}]`));
  };

/** An object with exactly these fields; the result has them in this order. */
export const record = <T extends object>(fields: { readonly [K in keyof T]-?: Reader<T[K]> }): Reader<T> => {
  const known = Object.entries(fields) as [keyof T & string, Reader<T[keyof T & string]>][];
  const names = new Set<string>(known.map(([name]) => name));
  return (value, path) => {
    const object = asObject(value, path);
    for (const name of Object.keys(object)) {
      if (!names.has(name)) throw new FieldError(path, `only the fields ${[...names].join(", ")}`, `a field "${name}"`);
    }
    const result: Partial<T> = {};
    for (const [name, reader] of known) {
      if (!Object.hasOwn(object, name)) throw new FieldError(join(path, name), "a value", "nothing");
      result[name] = reader(object[name], join(path, name));
    }
    return result as T;
  };
};

/** An object of at most `max` values under names that match `names` (`expected` says them in words); the result is sorted by name. */
export const dictionary =
  <T>(names: RegExp, expected: string, reader: Reader<T>, max: number): Reader<Readonly<Record<string, T>>> =>
  (value, path) => {
    const entries = Object.entries(asObject(value, path)).sort(([a], [b]) => (a < b ? -1 : 1));
    if (entries.length > max) throw new FieldError(path, `at most ${max} fields`, `${entries.length} fields`);
    const unknown = entries.find(([name]) => !names.test(name));
    if (unknown) throw new FieldError(path, expected, `a field ${printValue(unknown[0])}`);
    return Object.fromEntries(entries.map(([name, v]) => [name, reader(v, join(path, name))]));
  };

/** A short string, a finite number, true or false. */
export const scalar: Reader<string | number | boolean> = (value, path) => {
  if (typeof value === "string" ? value.length <= 1024 : typeof value === "boolean" || Number.isFinite(value))
    return value as string | number | boolean;
  throw new FieldError(path, "a short string, a finite number, true or false", printValue(value));
};

/** The value as a plain object, or `FieldError`. */
export function asObject(value: unknown, path: string): Record<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new FieldError(path, "an object", printValue(value));
}

const join = (path: string, name: string): string => (path ? `${path}.${name}` : name);

/** A value of any kind, short enough for a message. */
export function printValue(value: unknown): string {
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "object" && value !== null) return "an object";
  const printed = JSON.stringify(value) ?? "nothing";
  return printed.length > 80 ? `${printed.slice(0, 77)}…` : printed;
}
