/**
 * Reads the fields of config.json that say which layers have experts, and how many.
 */
import { z } from "zod";
import { CompileError } from "../compiler/errors.ts";
import type { DecoderMlp } from "./decoder.ts";
import { EXPERT_MODULES, type ExpertsOptions } from "./experts.ts";

/** A number of experts. */
export const expertCount = z.int().min(1).max(4096);
/** The inner width of an expert. */
export const expertWidth = z
  .int()
  .min(1)
  .max(2 ** 20);

/** Experts of one model, over all layers: a bound for untrusted numbers, several times what any published model has. */
const MOST_EXPERTS = 2 ** 17;

/** Throws `CompileError` when numbers of experts do not fit together; `field` names their number in config.json. */
export function checkExperts(
  { numExperts, numExpertsPerToken }: Pick<ExpertsOptions, "numExperts" | "numExpertsPerToken">,
  numLayers: number,
  field: string,
): void {
  if (numExpertsPerToken > numExperts) {
    throw new CompileError(
      `config.json: num_experts_per_tok: expected at most ${field} (${numExperts}); found ${numExpertsPerToken}`,
    );
  }
  if (numExperts * numLayers > MOST_EXPERTS) {
    throw new CompileError(
      `config.json: ${field}: expected at most ${MOST_EXPERTS} experts in all layers; found ${numExperts} in each of ${numLayers}`,
    );
  }
}

/** Fields of the Qwen families with experts; transformers 5 calls the first one `num_local_experts`. */
export const qwenExpertFields = {
  num_experts: expertCount.or(z.literal(0)).nullish(),
  num_local_experts: expertCount.or(z.literal(0)).nullish(),
  num_experts_per_tok: expertCount,
  moe_intermediate_size: expertWidth,
  norm_topk_prob: z.boolean().default(false),
  decoder_sparse_step: z.int().min(1).default(1),
  mlp_only_layers: z.array(z.int().min(0)).max(1024).nullish(),
};

/** The MLP of each layer: experts in every `decoder_sparse_step`-th layer but those of `mlp_only_layers`, else `dense`. */
export function readQwenMlps(
  fields: z.output<z.ZodObject<typeof qwenExpertFields>>,
  numLayers: number,
  dense: DecoderMlp,
  shared: ExpertsOptions["shared"],
): DecoderMlp[] {
  const numExperts = fields.num_experts ?? fields.num_local_experts;
  if (numExperts === undefined || numExperts === null) {
    throw new CompileError("config.json: num_experts: expected a number of experts; found nothing");
  }
  const experts: DecoderMlp = {
    kind: "experts",
    numExperts,
    numExpertsPerToken: fields.num_experts_per_tok,
    intermediateSize: fields.moe_intermediate_size,
    router: {
      name: "gate",
      bias: false,
      scores: "softmax",
      correctionBias: false,
      groups: null,
      renormalizeEps: fields.norm_topk_prob ? 0 : null,
      scale: 1,
    },
    storage: EXPERT_MODULES,
    clamp: null,
    shared,
  };
  if (numExperts > 0) checkExperts(experts, numLayers, "num_experts");
  const hasExperts = (layer: number) =>
    numExperts > 0 && (layer + 1) % fields.decoder_sparse_step === 0 && !fields.mlp_only_layers?.includes(layer);
  return Array.from({ length: numLayers }, (_, layer) => (hasExperts(layer) ? experts : dense));
}
