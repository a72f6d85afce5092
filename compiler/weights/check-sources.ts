/**
 * Whether a checkpoint holds what a model reads: said before the first kernel is compiled, and before a byte of a weight is read.
 */
import { CompileError, likeness } from "../errors.ts";
import { printNames, sourcesOf, type WeightsPlan } from "./layout.ts";
import type { SourceTensor } from "./rows.ts";
import { elementsOf, type StoredSize, type WeightSource } from "./source.ts";

/** What is known of who asks. */
export interface CheckOptions {
  /** Which line of the model wants a tensor. */
  readonly askedAt?: (name: string) => string | null;
  /** Somebody is writing the architecture: a tensor that is not there is a name mistyped, sooner than a shard not downloaded. */
  readonly isBeingWritten?: boolean;
}

/** Faults that are named. */
const MOST_FAULTS = 5;
/** Bytes an element takes where it is stored. */
const ELEMENT_BYTES = [2, 4];

/** Throws `CompileError` when `source` lacks a tensor that the plan reads, or has it in another shape; `where` is its name. */
export function checkSources(plan: WeightsPlan, source: WeightSource, where: string, options: CheckOptions = {}): void {
  const { askedAt = () => null, isBeingWritten = false } = options;
  const asks = isBeingWritten ? "your build wants" : "the model described by config.json needs";
  const wanted = new Map(plan.tensors.flatMap((t) => sourcesOf(t.request.rows)).map((s) => [`${s.name} ${s.shape}`, s]));
  const asked = (name: string) => {
    const place = askedAt(name);
    return place === null ? "" : `, asked for at ${place}`;
  };
  const misshapen: string[] = [];
  const missing = new Map<string, SourceTensor[]>(); // by shape
  for (const tensor of wanted.values()) {
    const { name, shape } = tensor;
    const found = source.find(name);
    const key = shape.join(", ");
    if (!found) missing.set(key, [...(missing.get(key) ?? []), tensor]);
    else if (found.shape.join() !== shape.join())
      misshapen.push(`${name} is (${found.shape.join(", ")}), but ${asks} (${key})${asked(name)}`);
  }
  const read = new Set([...wanted.values()].map(({ name }) => name));
  const unread = source.list().filter(({ name }) => !read.has(name));
  const absent = [...missing].flatMap(([shape, tensors]) =>
    printNames(tensors.map(({ name }) => name)).map((names) => () => {
      const first = names.replace(/\{(\d+)\.\.\d+\}/, "$1");
      const elements = elementsOf(tensors[0]?.shape ?? []);
      const near = nearest(
        first,
        unread.filter(({ bytes }) => ELEMENT_BYTES.includes(bytes / elements)),
      );
      const has = near === undefined ? "" : `; the checkpoint has ${near}, which nothing reads`;
      return `there is no tensor ${names} (${shape})${asked(first)}${has}`;
    }),
  );
  const faults = [...misshapen.map((text) => () => text), ...absent];
  if (faults.length === 0) return;
  const more = faults.length > MOST_FAULTS ? `\nand ${faults.length - MOST_FAULTS} more` : "";
  const remedy = isBeingWritten
    ? "Weights have the checkpoint's names, <prefix><path of scopes>.<leaf>, and its shapes."
    : "Is config.json of this checkpoint, and every shard there?";
  const lines = faults.slice(0, MOST_FAULTS).map((print) => print());
  throw new CompileError(`${where}: ${lines.join("\n")}${more}${faults.length > 1 ? "\n" : ". "}${remedy}`);
}

/** Of some tensors the one whose name begins and ends most like `name`; undefined where none begins and ends like it at all. */
function nearest(name: string, tensors: readonly StoredSize[]): string | undefined {
  const [best] = tensors.map((t) => ({ name: t.name, likeness: likeness(t.name, name) })).sort((a, b) => b.likeness - a.likeness);
  return best !== undefined && best.likeness > 0 ? best.name : undefined;
}
