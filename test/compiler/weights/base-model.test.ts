import { describe, expect, it } from "vitest";
import { underWholeNames } from "../../../compiler/weights/base-model.ts";
import type { WeightSource } from "../../../compiler/weights/source.ts";

/** A source whose tensors are one f32 each: the length of their name. */
function sourceOf(...names: string[]): WeightSource {
  return {
    list: () => names.map((name) => ({ name, bytes: 4 })),
    find: (name) => (names.includes(name) ? { dtype: "f32", shape: [1] } : undefined),
    read: async (name, _begin, into) => into.set(new Uint8Array(Float32Array.of(name.length).buffer)),
  };
}

describe("a checkpoint saved from a base model", () => {
  const wanted = ["model.decoder.embed_tokens.weight", "model.decoder.fc1.weight"];

  it("is read under the whole model's names", async () => {
    const source = underWholeNames(sourceOf("decoder.embed_tokens.weight", "decoder.fc1.weight", "decoder.extra"), wanted);
    expect(source.list().map((t) => t.name)).toEqual([...wanted, "model.decoder.extra"]);
    expect(source.find("model.decoder.fc1.weight")).toEqual({ dtype: "f32", shape: [1] });
    const into = new Uint8Array(4);
    await source.read("model.decoder.fc1.weight", 0, into);
    expect(new Float32Array(into.buffer)[0]).toBe("decoder.fc1.weight".length);
  });

  it.each([
    ["one has the prefix", ["model.decoder.embed_tokens.weight", "decoder.fc1.weight"]],
    ["one is missing", ["decoder.embed_tokens.weight"]],
  ])("is left as it is where %s", (_, names) => {
    const source = sourceOf(...names);
    expect(underWholeNames(source, wanted)).toBe(source);
  });

  it("is left as it is where the model has a head of its own", () => {
    const source = sourceOf("decoder.fc1.weight");
    expect(underWholeNames(source, ["model.decoder.fc1.weight", "lm_head.weight"])).toBe(source);
  });
});
