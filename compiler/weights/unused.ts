/**
 * What a checkpoint holds that the model does not read, and why, where that is known.
 */
import type { UnusedEntry } from "../../runtime/manifest.ts";
import { dtypeBytes } from "../ir/tensor-type.ts";
import { printNames, sourcesOf, type WeightsPlan } from "./layout.ts";
import { elementsOf, type StoredSize, type WeightSource } from "./source.ts";

/** What is known beforehand of the tensors that a model leaves: by how their names begin, and whether its head is its embedding. */
export interface UnusedReasons {
  readonly prefixes: readonly { readonly prefix: string; readonly why: string }[];
  readonly tieWordEmbeddings: boolean;
}

/** Bytes of two tensors that are compared at a time. */
const COMPARED_BYTES = 4 * 2 ** 20;

/** The tensors of `source` that `plan` does not read, by the reason; those that nobody explained come first. */
export async function unusedTensors(
  source: WeightSource,
  plan: WeightsPlan,
  { prefixes, tieWordEmbeddings }: UnusedReasons,
): Promise<UnusedEntry[]> {
  const used = new Set(plan.tensors.flatMap((t) => sourcesOf(t.request.rows).map((s) => s.name)));
  const all = source.list();
  const unused = new Map<string | null, StoredSize[]>([[null, []]]);
  for (const tensor of all) {
    const { name, bytes } = tensor;
    if (used.has(name)) continue;
    let why = prefixes.find(({ prefix }) => name.startsWith(prefix))?.why || null;
    if (name.endsWith("rotary_emb.inv_freq")) why ??= "frequencies are computed from config.json";
    if (name === "lm_head.weight" && tieWordEmbeddings) {
      const alike = all.filter((t) => t.bytes === bytes && used.has(t.name));
      why ??= await tiedHead(source, name, alike);
    }
    const alike = unused.get(why);
    if (alike) alike.push(tensor);
    else unused.set(why, [tensor]);
  }
  return [...unused].filter(([, tensors]) => tensors.length > 0).map(([why, tensors]) => entryOf(why, tensors));
}

/** Layer 2 stands before layer 10, so that names fold. */
const byNumber = new Intl.Collator("en", { numeric: true });

function entryOf(why: string | null, tensors: readonly StoredSize[]): UnusedEntry {
  const names = printNames(tensors.map(({ name }) => name).sort(byNumber.compare));
  return { names, count: tensors.length, bytes: tensors.reduce((sum, t) => sum + t.bytes, 0), why };
}

/** A tied head that is stored nevertheless is the embedding once more, unless the checkpoint contradicts its configuration. */
async function tiedHead(source: WeightSource, head: string, alike: readonly StoredSize[]): Promise<string> {
  for (const { name } of alike) if (await isSame(source, head, name)) return `equal to ${name}, which config.json ties it to`;
  return "config.json ties the head to the embedding, though this is another tensor";
}

async function isSame(source: WeightSource, one: string, other: string): Promise<boolean> {
  const [a, b] = [source.find(one), source.find(other)];
  if (!a || !b || a.dtype !== b.dtype || a.shape.join() !== b.shape.join()) return false;
  const size = dtypeBytes[a.dtype];
  const elements = elementsOf(a.shape);
  const memory = [new Uint8Array(COMPARED_BYTES), new Uint8Array(COMPARED_BYTES)] as const;
  for (let begin = 0; begin < elements; begin += COMPARED_BYTES / size) {
    const bytes = Math.min(COMPARED_BYTES, (elements - begin) * size);
    const [x, y] = [memory[0].subarray(0, bytes), memory[1].subarray(0, bytes)];
    await Promise.all([source.read(one, begin, x), source.read(other, begin, y)]);
    if (Buffer.compare(x, y) !== 0) return false;
  }
  return true;
}
