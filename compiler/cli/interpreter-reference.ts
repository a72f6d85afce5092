/**
 * The interpreter as a reference for an engine: its graph is built again from the engine's own config.json, and its weights are
 * read back from weights.bin, so that an engine can be verified wherever it is.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { findArchitecture } from "../../models/registry.ts";
import type { Manifest } from "../../runtime/manifest.ts";
import { cpuDialects, linearInputDtype } from "../codegen/cpu.ts";
import { CompileError } from "../errors.ts";
import { Interpreter, oneSequenceStep } from "../ir/interpret.ts";
import type { DType } from "../ir/tensor-type.ts";
import { buildGraph, lower } from "../pipeline.ts";
import { DEFAULT_KV_BLOCK_SIZE } from "../schedule/schedule.ts";
import { parseTarget } from "../schedule/target.ts";
import { PackedWeightsReader } from "../weights/unpack.ts";
import type { ReferenceOutputs } from "./verification.ts";

const PROMPTS = 3;

/** The reference of the engine in `folder`. Throws `CompileError` when its config.json is missing or of an unknown architecture. */
export async function interpreterReference(folder: string, manifest: Manifest) {
  const file = join(folder, "config.json");
  if (!existsSync(file)) throw new CompileError(`${folder} carries no config.json: compile the model again, or give --golden`);
  const json: unknown = JSON.parse(readFileSync(file, "utf8"));
  const architecture = findArchitecture(json);
  const { dtype, numLayers, vocabSize } = manifest.model;
  const config = { ...architecture.readConfig(json), dtype };
  const kvCacheDtype = manifest.kvCache.dtype as DType;
  const model = buildGraph({
    architecture,
    config,
    limits: { ...manifest.limits, maxNumBatchedTokens: manifest.limits.maxNumSeqs },
    kvCacheDtype,
  });
  const { isa } = parseTarget(manifest.target);
  const { graph } = lower(model, { linearInput: (d) => linearInputDtype(cpuDialects[isa].isa, d) });
  const shapes = new Map(architecture.weights(config).map((w) => [w.name, w.shape]));
  const weights = new PackedWeightsReader(folder, manifest, shapes);
  const kept = new Map<string, Float32Array>();
  const read = (name: string) => kept.get(name) ?? (kept.set(name, weights.read(name)).get(name) as Float32Array);

  return {
    /** Token ids drawn from a fixed seed: a first token, then two prompts. */
    prompts(tokens: number): number[][] {
      let state = 1;
      const next = () => {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        return Math.floor((state / 2 ** 32) * vocabSize);
      };
      return Array.from({ length: PROMPTS }, (_, i) => Array.from({ length: i === 0 ? 1 : tokens * i }, next));
    },
    compute(ids: readonly number[]): ReferenceOutputs {
      const blocks = Math.ceil(ids.length / DEFAULT_KV_BLOCK_SIZE);
      const interpreter = new Interpreter(graph, read, blocks);
      const { logits, taps } = interpreter.step(oneSequenceStep(ids, 0, DEFAULT_KV_BLOCK_SIZE, "all"));
      return { logits, hidden: Array.from({ length: numLayers + 1 }, (_, l) => taps.get(`hidden.${l}`) ?? new Float32Array(0)) };
    },
  };
}
