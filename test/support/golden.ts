/**
 * The recorded reference models of `../shared/golden`: folders, configurations, prompts and what the reference computed.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { ModelConfig } from "../../compiler/architecture.ts";
import { Graph, type StepLimits } from "../../compiler/ir/graph.ts";
import { ARCHITECTURES, findArchitecture } from "../../models/registry.ts";

const root = join(import.meta.dirname, "../../../shared/golden");

/** The recorded models whose architectures this version compiles. */
export const FAMILIES = [
  "llama",
  "llama-rope3",
  "mistral",
  "mistral-swa",
  "qwen2",
  "qwen2-yarn",
  "qwen3",
  "glm4",
  "phi3",
  "phi3-longrope",
  "gemma3",
  "opt",
  "qwen2-moe",
  "qwen3-moe",
  "glm4-moe",
  "gpt-oss",
] as const;

export const hasGolden = existsSync(root);

export const goldenFolder = (family: string): string => join(root, family);

export const readJson = (family: string, file: string): unknown =>
  JSON.parse(readFileSync(join(goldenFolder(family), file), "utf8"));

/** Every recorded model whose architecture this version compiles. */
export const GOLDEN_FAMILIES: readonly string[] = (hasGolden ? readdirSync(root) : []).filter((family) => {
  if (!existsSync(join(root, family, "golden.json"))) return false;
  const { architectures } = readJson(family, "config.json") as { architectures: readonly string[] };
  return ARCHITECTURES.some((a) => architectures.includes(a.name));
});

export interface GoldenFacts {
  readonly prompts: readonly (readonly number[])[];
  readonly greedy: readonly (readonly number[])[];
  readonly bf16_compute_relative_error: number;
}

export const goldenFacts = (family: string): GoldenFacts =>
  JSON.parse(readFileSync(join(goldenFolder(family), "golden.json"), "utf8")) as GoldenFacts;

export const goldenLimits: StepLimits = {
  maxModelLen: 256,
  maxNumSeqs: 4,
  maxNumBatchedTokens: 256,
  blockSize: 16,
};

/** The graph of a recorded model, computing in `dtype`. */
export function goldenGraph(family: string, file = "config.json", dtype: ModelConfig["dtype"] = "float32"): Graph {
  const json = readJson(family, file);
  const architecture = findArchitecture(json);
  const g = new Graph(goldenLimits);
  architecture.build({ ...architecture.readConfig(json), dtype }, g);
  return g;
}
