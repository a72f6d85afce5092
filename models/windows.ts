/**
 * Sliding windows layer by layer, as the Qwen families state them: `layer_types` where it is written out, else the rule that
 * transformers 4 applied. Mistral's one window for all layers needs none of this.
 */
import { z } from "zod";
import { CompileError } from "../compiler/errors.ts";

/** Fields of config.json that say which layers see only a window. */
export const windowFields = {
  use_sliding_window: z.boolean().nullish(),
  sliding_window: z
    .int()
    .min(1)
    .max(2 ** 26)
    .nullish(),
  max_window_layers: z.int().min(0).nullish(),
  layer_types: z
    .array(z.enum(["full_attention", "sliding_attention"]))
    .max(1024)
    .nullish(),
};

/** The window of each layer, or null for a layer that sees everything. Throws `CompileError` for lists that do not fit. */
export function readWindows(fields: z.output<z.ZodObject<typeof windowFields>>, numLayers: number): (number | null)[] {
  const window = fields.use_sliding_window ? (fields.sliding_window === undefined ? 4096 : fields.sliding_window) : null;
  const firstSliding = fields.max_window_layers ?? 28;
  const types =
    fields.layer_types ??
    Array.from({ length: numLayers }, (_, i) => (window !== null && i >= firstSliding ? "sliding_attention" : "full_attention"));
  if (types.length !== numLayers) {
    throw new CompileError(`config.json: layer_types: expected one entry a layer (${numLayers}); found ${types.length}`);
  }
  return types.map((type, layer) => {
    if (type === "full_attention") return null;
    if (window === null) {
      throw new CompileError(
        `config.json: layer_types.${layer}: sliding_attention needs use_sliding_window and sliding_window; found ${fields.sliding_window}`,
      );
    }
    return window;
  });
}
