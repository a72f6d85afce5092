/**
 * Sliding windows layer by layer: `layer_types` where it is written out, else the family's rule. Where one window holds for all
 * layers (Mistral, Phi-3), none of this is needed.
 */
import { z } from "zod";
import { CompileError } from "../compiler/errors.ts";

export type LayerType = "full_attention" | "sliding_attention";

/** Tokens of a window. */
export const windowSize = z
  .int()
  .min(1)
  .max(2 ** 26);

/** `layer_types` of config.json. */
export const layerTypes = z
  .array(z.enum(["full_attention", "sliding_attention"]))
  .max(1024)
  .nullish();

/** Each layer's type: as `given`, or by the family's rule. Throws `CompileError` when the list does not fit the layers. */
export function readLayerTypes(
  given: z.output<typeof layerTypes>,
  numLayers: number,
  isSliding: (layer: number) => boolean,
): readonly LayerType[] {
  if (given && given.length !== numLayers) {
    throw new CompileError(`config.json: layer_types: expected one entry a layer (${numLayers}); found ${given.length}`);
  }
  return given ?? Array.from({ length: numLayers }, (_, layer) => (isSliding(layer) ? "sliding_attention" : "full_attention"));
}

/** Fields of the Qwen families that say which layers see only a window. */
export const windowFields = {
  use_sliding_window: z.boolean().nullish(),
  /** 0, as transformers 5 writes it for Qwen2-MoE, is none. */
  sliding_window: windowSize.or(z.literal(0)).nullish(),
  max_window_layers: z.int().min(0).nullish(),
  layer_types: layerTypes,
};

type WindowFields = z.output<z.ZodObject<typeof windowFields>>;

/** The window that `use_sliding_window` and `sliding_window` together give, or null. */
export function readWindow(fields: Pick<WindowFields, "use_sliding_window" | "sliding_window">): number | null {
  if (!fields.use_sliding_window) return null;
  return (fields.sliding_window === undefined ? 4096 : fields.sliding_window) || null;
}

/**
 * The window of each layer, or null for a layer that sees everything; `isSliding` is the rule where `layer_types` is absent, given
 * `max_window_layers`. Throws `CompileError` for lists that do not fit.
 */
export function readWindows(
  fields: WindowFields,
  numLayers: number,
  isSliding = (layer: number, maxWindowLayers: number): boolean => layer >= maxWindowLayers,
): (number | null)[] {
  const window = readWindow(fields);
  const rule = (layer: number) => window !== null && isSliding(layer, fields.max_window_layers ?? 28);
  return readLayerTypes(fields.layer_types, numLayers, rule).map((type, layer) => {
    if (type === "full_attention") return null;
    if (window === null) {
      throw new CompileError(
        `config.json: layer_types.${layer}: sliding_attention needs use_sliding_window and sliding_window; found ${fields.sliding_window}`,
      );
    }
    return window;
  });
}
