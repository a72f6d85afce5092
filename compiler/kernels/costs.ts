/**
 * FLOPs and bytes of one launch, as the manifest writes them: the costs of the nodes that a kernel computes together.
 */
import type { Rpn } from "../../runtime/manifest.ts";
import { type Costs, costsOf, polynomialToRpn } from "../ir/costs.ts";
import { kernelOutputs } from "./operands.ts";
import type { KernelSpec, SampleKernel } from "./spec.ts";

/** Costs of one launch of `spec`, in the step's symbols. `blockSize` is the tokens of a KV block. */
export function kernelCosts(spec: KernelSpec, blockSize: number): { readonly flops: Rpn; readonly bytes: Rpn } {
  const { flops, bytes } = costsOfSpec(spec, blockSize);
  return { flops: polynomialToRpn(flops), bytes: polynomialToRpn(bytes) };
}

function costsOfSpec(spec: KernelSpec, blockSize: number): Costs {
  if (spec.kind === "sample") return sampleCosts(spec);
  if (spec.kind === "attention_units") return UNITS_COSTS;
  const outs = kernelOutputs(spec).map((o) => o.node);
  return costsOf(spec.nodes, outs, blockSize);
}

/** Cutting attention computes no node of the graph: two numbers of each token are read, six of a unit are written. */
const UNITS_COSTS: Costs = { flops: [], bytes: [{ coefficient: 4 * (2 + 6), symbols: ["T"] }] };

/** The sampler computes no node of the graph: one pass over the logits, an exponential, a sum and a comparison each. */
const sampleCosts = ({ vocabSize }: SampleKernel): Costs => ({
  flops: [{ coefficient: 4 * vocabSize, symbols: ["S"] }],
  bytes: [{ coefficient: 4 * vocabSize, symbols: ["S"] }],
});
