import { describe, expect, it } from "vitest";
import { ForwardPass } from "../../runtime/forward-pass.ts";

describe("a forward pass", () => {
  it("of more numbers than an array holds is refused with the numbers", () => {
    const pass = new ForwardPass(2 ** 20, 2 ** 18, ["logits"], { resolve: () => {}, reject: () => {} });
    const taps = new Map([["logits", new Float32Array(2 ** 18)]]);
    const result = { tokenIds: new Int32Array(0), logprobs: new Float32Array(0), topIds: new Int32Array(0) };
    expect(() => pass.take(0, 1, { ...result, topLogprobs: new Float32Array(0), taps, ms: 1 })).toThrow(
      /logits of 1048576 tokens are 274877906944 numbers, more than fit in one array here: score fewer/,
    );
  });
});
