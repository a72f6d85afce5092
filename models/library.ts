/**
 * The package's entry `ingot/models`: which architectures there are, and what an architecture of one's own is made of.
 */
export { commonFields, type FamilyDefaults, readFields, readModelFacts, requireActivation } from "./config.ts";
export {
  buildDecoder,
  type DecoderConfig,
  type DecoderLayer,
  type DecoderMlp,
  type LayerNorms,
  PRE_NORM,
} from "./decoder.ts";
export { type ExpertsOptions, mixtureOfExperts, type RouterOptions } from "./experts.ts";
export {
  type AttentionOptions,
  attention,
  gatedMlp,
  layerNorm,
  linear,
  type MlpOptions,
  matrix,
  type Naming,
  rmsNorm,
  vector,
} from "./layers.ts";
export { ARCHITECTURES, findArchitecture, registerArchitecture } from "./registry.ts";
export { type RopeConfig, reachablePositions, readRope, ropeFrequencies } from "./rope.ts";
export { readWindows, windowFields } from "./windows.ts";
