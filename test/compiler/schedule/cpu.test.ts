import { describe, expect, it } from "vitest";
import { scheduleKernel } from "../../../compiler/schedule/cpu.ts";
import { expertSumSpec, routeSpec } from "../../support/expert-specs.ts";
import { buffer, linearSpec, storeKvSpec, tensor } from "../../support/kernel-specs.ts";

describe("schedules refuse what no skeleton computes, by name:", () => {
  const store = storeKvSpec({ heads: 4, kvHeads: 2, headDim: 32, norm: true, half: 16 });
  const sum = expertSumSpec({ experts: 4, perToken: 2, hidden: 32, inner: 16, weights: "f32", x: "f32" });
  it.each([
    ["a norm of values", { ...store, v: { ...store.v, norm: store.k.norm } }, /a norm or rotation of v/],
    ["a rotation of values", { ...store, v: { ...store.v, rope: store.k.rope } }, /a norm or rotation of v/],
    [
      "gains of heads that are not f32",
      { ...store, k: { ...store.k, norm: { gain: tensor("k_norm", 1, 32, "bf16"), eps: 1e-6 } } },
      /k_norm is bf16/,
    ],
    [
      "a vector of a route that is not f32",
      routeSpec([
        { op: "load", from: tensor("correction", 1, 24, "bf16"), size: 24 },
        { op: "top_k", x: 0, size: 5 },
      ]),
      /correction is bf16.*declare the weight as f32/,
    ],
    ["weights of experts that are not f32", { ...sum, weights: buffer("rounded", 2, "bf16") }, /rounded is bf16.*cast/],
    ["biases of experts that are not f32", { ...sum, bias: tensor("biases", 4, 32, "f16") }, /biases is f16.*declare/],
    ["heads of uneven size", storeKvSpec({ heads: 4, kvHeads: 2, headDim: 24 }), /multiples of 16 here; found 24/],
    ["rows of another dtype", linearSpec({ n: 16, k: 16, x: "f16" }), /f16 rows with bf16 weights/],
  ])("%s", (_, spec, message) => {
    expect(() => scheduleKernel(spec, "avx2")).toThrow(message);
  });
});
