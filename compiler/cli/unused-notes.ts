/**
 * What a person should know of a checkpoint's tensors that an engine leaves.
 */
import type { UnusedEntry } from "../../runtime/manifest.ts";
import { formatBytes } from "./progress.ts";

/** Names that are printed. */
const MOST_NAMES = 5;

/** A sentence for each reason: `2 tensors of the checkpoint (256 B) are not used: model.layers.{0..1}.q_norm.weight`. */
export const unusedNotes = (unused: readonly UnusedEntry[]): string[] =>
  unused.map(({ names, count, bytes, why }) => {
    const [tensors, are] = count === 1 ? ["1 tensor", "is"] : [`${count} tensors`, "are"];
    const some = `${names.slice(0, MOST_NAMES).join(", ")}${names.length > MOST_NAMES ? ", …" : ""}`;
    return `${tensors} of the checkpoint (${formatBytes(bytes)}) ${are} not used${why === null ? "" : ` (${why})`}: ${some}`;
  });
