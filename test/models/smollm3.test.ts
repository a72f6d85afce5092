/**
 * What SmolLM3 reads of its config.json.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { smollm3 } from "../../models/smollm3.ts";

const json = JSON.parse(readFileSync(join(import.meta.dirname, "smollm3", "config.json"), "utf8")) as Record<string, unknown>;

describe("SmolLM3", () => {
  it("rotates the layers that no_rope_layers marks, else all but every fourth, or as the interval says", () => {
    const { no_rope_layers: _, layer_types: __, ...rest } = { ...json, num_hidden_layers: 8 } as Record<string, unknown>;
    const rotated = (config: object) =>
      smollm3
        .readConfig({ ...rest, ...config })
        .layers.map((layer) => (layer.rope ? 1 : 0))
        .join("");
    expect(rotated({ no_rope_layers: [0, 1, 1, 1, 0, 1, 1, 0] })).toBe("01110110");
    expect(rotated({ no_rope_layer_interval: undefined })).toBe("11101110");
    expect(rotated({ no_rope_layer_interval: 3 })).toBe("11011011");
    expect(() => rotated({ no_rope_layers: [1, 0] })).toThrow(/no_rope_layers: expected an entry a layer \(8\); found 2/);
  });

  it("slides where it does not rotate, when windows are asked for, and turns by a base of two million where none is given", () => {
    const { layer_types: _, rope_parameters: __, ...rest } = json;
    const config = smollm3.readConfig({ ...rest, use_sliding_window: true, sliding_window: 24 });
    expect(config.layers.map((layer) => layer.window)).toEqual([null, 24, null, 24]);
    expect(config.layers[0]?.rope?.theta).toBe(2e6);
  });
});
