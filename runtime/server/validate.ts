/**
 * Checks a request's body against a zod schema, strictly: a field that is not in it is refused by name, never dropped.
 *
 * Shapes and types are checked here; ranges of sampling parameters in `sampling-params.ts`; limits of the engine in `AsyncEngine`.
 */
import { z } from "zod";
import { RequestError } from "../errors.ts";

/** A field of OpenAI's or vLLM's API that we do not support, and the values of it that change nothing. */
export interface UnsupportedField {
  readonly isNeutral: (value: unknown) => boolean;
  /** The neutral values in words, for the message. */
  readonly neutral: string;
}

/** Only null is accepted. */
export const ONLY_NULL: UnsupportedField = { isNeutral: () => false, neutral: "null" };

/** Null and the given values, compared as JSON, are accepted. */
export function neutral(...values: readonly unknown[]): UnsupportedField {
  const texts = values.map((value) => JSON.stringify(value));
  return { isNeutral: (value) => texts.includes(JSON.stringify(value)), neutral: texts.join(" or ") };
}

export type UnsupportedFields = Readonly<Record<string, UnsupportedField>>;

/**
 * @returns the body in the schema's type, without the unsupported fields that hold a neutral value.
 * @throws RequestError 400 naming the first field that is wrong (`param`), what was expected and what was found.
 */
export function validate<T>(
  schema: z.ZodObject & z.ZodType<T>,
  unsupported: UnsupportedFields,
  body: Record<string, unknown>,
): T {
  const supported: [string, unknown][] = [];
  for (const [name, value] of Object.entries(body)) {
    const field = Object.hasOwn(unsupported, name) ? unsupported[name] : undefined;
    if (field === undefined) supported.push([name, value]);
    else if (value !== null && !field.isNeutral(value)) {
      const remedy = field.neutral === "null" ? "leave it out" : `leave it out or send ${field.neutral}`;
      throw new RequestError(400, `${name} is not supported yet (got ${show(value)}); ${remedy}`, {
        param: name,
        code: "unsupported_parameter",
      });
    }
  }
  const input = Object.fromEntries(supported);
  const result = schema.safeParse(input);
  if (result.success) return result.data;
  throw refusal(result.error.issues, input, Object.keys(schema.shape));
}

/** A schema of whole numbers, also for the message. */
export const wholeNumber = () => z.int({ error: "a whole number" });

/** A JSON value in a message, shortened. */
export function show(value: unknown): string {
  const text = value === undefined ? "nothing" : JSON.stringify(value);
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

type Issue = z.core.$ZodIssue;
type Path = readonly PropertyKey[];

function refusal(issues: readonly Issue[], input: unknown, known: readonly string[]): RequestError {
  // An unknown name first: it is often the reason why another field is missing.
  const issue = issues.find((candidate) => candidate.code === "unrecognized_keys") ?? issues[0]!;
  const { path, expected, unknownKey } = describe(issue);
  if (unknownKey !== undefined) {
    const where = spell([...path, unknownKey]);
    const near = path.length === 0 ? nearest(unknownKey, known) : undefined;
    const remedy = near === undefined ? "" : `; did you mean ${near}?`;
    return new RequestError(400, `${where} is not a field of this request${remedy}`, { param: where, code: "unknown_parameter" });
  }
  const found = path.reduce<unknown>((value, key) => (value as Record<PropertyKey, unknown> | undefined)?.[key], input);
  const where = spell(path);
  const message =
    found === undefined ? `${where} is missing; expected ${expected}` : `${where} must be ${expected}, got ${show(found)}`;
  return new RequestError(400, message, {
    param: where,
    code: found === undefined ? "missing_required_parameter" : "invalid_type",
  });
}

interface Description {
  readonly path: Path;
  readonly expected: string;
  readonly unknownKey?: string;
}

function describe(issue: Issue): Description {
  const { path } = issue;
  if (!/^(Invalid|Too|Unrecognized)/.test(issue.message)) return { path, expected: issue.message }; // the schema's own words
  switch (issue.code) {
    case "unrecognized_keys":
      return { path, expected: "", unknownKey: issue.keys[0]! };
    case "invalid_type":
      return { path, expected: TYPE_WORDS[issue.expected] ?? issue.expected };
    case "invalid_value":
      return { path, expected: oneOf(issue.values.map(show)) };
    case "too_small":
      return { path, expected: "not empty" };
    case "invalid_union": {
      const { options } = issue as { options?: readonly unknown[] };
      if (issue.errors.length === 0 && options !== undefined) return { path, expected: oneOf(options.map(show)) };
      const branches = issue.errors.map((errors) => describe(errors[0]!));
      // A branch that failed deeper inside is the one the client meant.
      const meant = branches.find((branch) => branch.path.length > 0 || branch.unknownKey !== undefined);
      if (meant !== undefined) return { ...meant, path: [...path, ...meant.path] };
      return { path, expected: branches.map((branch) => branch.expected).join(" or ") };
    }
    default:
      return { path, expected: issue.message };
  }
}

const TYPE_WORDS: Readonly<Record<string, string>> = {
  string: "a string",
  number: "a number",
  boolean: "true or false",
  array: "a list",
  object: "an object",
  record: "an object",
  null: "null",
};

function oneOf(texts: readonly string[]): string {
  return texts.length === 1 ? texts[0]! : `one of ${texts.join(", ")}`;
}

/** `messages[0].content`. */
function spell(path: Path): string {
  return path.reduce<string>(
    (text, key) => (typeof key === "number" ? `${text}[${key}]` : text === "" ? String(key) : `${text}.${String(key)}`),
    "",
  );
}

/** The known name that a typing mistake or two turn into `name`. */
function nearest(name: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = 3;
  for (const candidate of known) {
    const distance = editDistance(name.slice(0, 40), candidate);
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}
