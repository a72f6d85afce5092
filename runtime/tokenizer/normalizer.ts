/** Text to text, before it is cut: Unicode forms, SentencePiece's replaced and prepended spaces. */
import { compilePattern } from "./pattern.ts";
import type { NormalizerStep } from "./tokenizer-json.ts";

export type Normalize = (text: string) => string;

/** Chains the steps of a tokenizer.json's `normalizer`. */
export function buildNormalizer(steps: readonly NormalizerStep[]): Normalize {
  const chain = steps.map((step, i) => buildStep(step, `normalizer step ${i + 1}`));
  return (text) => chain.reduce((t, normalize) => normalize(t), text);
}

function buildStep(step: NormalizerStep, where: string): Normalize {
  switch (step.type) {
    case "Lowercase":
      return (text) => text.toLowerCase();
    case "Strip":
      return (text) => {
        const left = step.strip_left ? text.replace(/^\p{White_Space}+/u, "") : text;
        return step.strip_right ? left.replace(/(?<!\p{White_Space})\p{White_Space}+$/u, "") : left;
      };
    case "Prepend":
      return (text) => (text === "" ? text : step.prepend + text);
    case "Replace": {
      const regex = compilePattern(step.pattern, where);
      return (text) => text.replace(regex, () => step.content);
    }
    default:
      return (text) => text.normalize(step.type);
  }
}
