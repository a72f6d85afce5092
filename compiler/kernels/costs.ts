/**
 * FLOPs and bytes of one launch, as the manifest writes them: the costs of the nodes that a kernel computes together.
 */
import type { Rpn } from "../../runtime/manifest.ts";
import { type Costs, costsOf, polynomialToRpn } from "../ir/costs.ts";
import { kernelOutputs } from "./operands.ts";
import type { KernelSpec, SampleKernel } from "./spec.ts";

/** Costs of one launch of `spec`, in the step's symbols. `blockSize` is the tokens of a KV block. */
export function kernelCosts(spec: KernelSpec, blockSize: number): { readonly flops: Rpn; readonly bytes: Rpn } {
  const { flops, bytes } =
    spec.kind === "sample"
      ? sampleCosts(spec)
      : costsOf(
          spec.nodes,
          kernelOutputs(spec).map((o) => o.node),
          blockSize,
        );
  return { flops: polynomialToRpn(flops), bytes: polynomialToRpn(bytes) };
}

/** The sampler computes no node of the graph: one pass over the logits, an exponential, a sum and a comparison each. */
const sampleCosts = ({ vocabSize }: SampleKernel): Costs => ({
  flops: [{ coefficient: 4 * vocabSize, symbols: ["S"] }],
  bytes: [{ coefficient: 4 * vocabSize, symbols: ["S"] }],
});
