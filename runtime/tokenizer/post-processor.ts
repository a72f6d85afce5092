/** Adds the special tokens that a tokenizer.json puts around one sequence: a BOS in front, an EOS behind. */
import { ManifestError } from "../errors.ts";
import type { PostProcessorStep } from "./tokenizer-json.ts";

export interface SpecialFrame {
  readonly before: readonly number[];
  readonly after: readonly number[];
}

/** Reads the frame from the steps of `post_processor`. Throws `ManifestError` when a template does not hold the sequence exactly once. */
export function buildSpecialFrame(steps: readonly PostProcessorStep[]): SpecialFrame {
  let before: number[] = [];
  let after: number[] = [];
  for (const step of steps) {
    if (step.type !== "TemplateProcessing") continue;
    const at = step.single.findIndex((piece) => "Sequence" in piece);
    if (at < 0 || step.single.some((piece, i) => "Sequence" in piece && (i !== at || piece.Sequence.id !== "A"))) {
      throw new ManifestError("tokenizer.json: post_processor.single: expected the sequence A exactly once");
    }
    const ids = step.single.map((piece) => {
      if ("Sequence" in piece) return [];
      const special = Object.hasOwn(step.special_tokens, piece.SpecialToken.id)
        ? step.special_tokens[piece.SpecialToken.id]
        : undefined;
      if (special === undefined) {
        throw new ManifestError(
          `tokenizer.json: post_processor.single names the special token ${JSON.stringify(piece.SpecialToken.id)}; expected it among special_tokens`,
        );
      }
      return special.ids;
    });
    before = [...ids.slice(0, at).flat(), ...before];
    after = [...after, ...ids.slice(at + 1).flat()];
  }
  return { before, after };
}
