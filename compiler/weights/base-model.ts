/**
 * Checkpoints saved from a model without its head, as OPT's were: their tensors lack the `model.` that the whole model's names begin
 * with, and transformers reads them all the same.
 */
import type { WeightSource } from "./source.ts";

const PREFIX = "model.";

/** `source` under the names of the whole model where it has every wanted tensor without the prefix, and else as it is. */
export function underWholeNames(source: WeightSource, wanted: readonly string[]): WeightSource {
  const stored = new Set(source.list().map(({ name }) => name));
  const isBase = wanted.every((name) => name.startsWith(PREFIX) && !stored.has(name) && stored.has(name.slice(PREFIX.length)));
  if (!isBase || wanted.length === 0) return source;
  const base = (name: string) => (name.startsWith(PREFIX) ? name.slice(PREFIX.length) : name);
  return {
    list: () => source.list().map((tensor) => ({ ...tensor, name: `${PREFIX}${tensor.name}` })),
    find: (name) => source.find(base(name)),
    read: (name, begin, into) => source.read(base(name), begin, into),
  };
}
