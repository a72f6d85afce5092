/**
 * The interpreter as a reference for an engine: its graph is built again from the engine's own config.json, and its weights are
 * read back from weights.bin, so that an engine can be verified wherever it is.
 */
import { setImmediate } from "node:timers/promises";
import { kvKind } from "../../runtime/batch.ts";
import type { Manifest } from "../../runtime/manifest.ts";
import { type Architecture, computeDType } from "../architecture.ts";
import { DEFAULT_KV_BLOCK_SIZE } from "../codegen/cpu/kernel-schedule.ts";
import { CompileError } from "../errors.ts";
import { type Interpretation, Interpreter } from "../ir/interpret.ts";
import { oneSequenceStep } from "../ir/step.ts";
import type { DType } from "../ir/tensor-type.ts";
import { kernelTensors } from "../kernels/operands.ts";
import { buildGraph, lower } from "../pipeline.ts";
import { kernelTarget } from "../plan/kernel-target.ts";
import { PackedWeightsReader } from "../weights/unpack.ts";
import { architectureOption, configOfEngine, isSameGraph } from "./architecture-of.ts";
import type { ReferencePrompt } from "./golden.ts";

/** Largest ‖Δ‖/‖ref‖ where nothing is rounded below f32. Seen, in models of 2, 6 and 28 layers: up to 3e-6. */
const F32_TOLERANCE = 2e-5;
/** The same over a cache of e4m3, which both round. Seen, in 2 to 6 layers: up to 0.013; 0.16 where a router chose another expert. */
const FP8_TOLERANCE = 2 ** -5;
/** Unit roundoff u of the narrow dtypes. */
const UNIT: Readonly<Record<string, number>> = { f16: 2 ** -11, bf16: 2 ** -8 };

/**
 * Largest ‖Δ‖/‖ref‖ between an engine and its interpreter. They round at the same places but add in another order, so that a value
 * near the middle of two neighbours may fall to either.
 *
 * In the cache: the share of such values is e / u where e is the error so far, each adds u² to e², so e grows by ~ u a layer.
 * Seen: up to u/35 a layer. In the inputs of every product: e soon is a share of u, and that of the layers adds up as √layers.
 * Seen: up to 0.4 · u · √layers. Five to six times that is allowed.
 *
 * Over a cache of fp8 queries and attention's weights are rounded to bf16 as well. Growth of its u by layer would allow anything: models of
 * all depths have one bound.
 */
export function interpreterTolerance({ target, model, kvCache }: Manifest): number {
  const { numLayers } = model;
  const input = kernelTarget(target).linearInput(computeDType(model.dtype));
  const isFp8 = kvCache.dtype === "fp8_e4m3";
  const ofCache = isFp8 ? FP8_TOLERANCE : ((UNIT[kvCache.dtype] ?? 0) * numLayers) / 6;
  const ofInputs = (UNIT[input] ?? 0) * 2 * Math.sqrt(numLayers);
  return Math.max(F32_TOLERANCE, ofCache, ofInputs);
}

/** Tokens interpreted at a time. */
const STEP = 16;

/**
 * What the engine in `folder` should give for its first token, one token more than a KV block, and `longest` tokens: beginnings of one
 * random sequence from a fixed seed, those with keys of one kind interpreted once, since no token sees a later one.
 * Throws `CompileError` for an architecture that is not as it was when the engine was compiled.
 */
export async function interpreterReference(
  folder: string,
  manifest: Manifest,
  architecture: Architecture,
  longest: number,
  onProgress: (done: number, total: number) => void = () => {},
): Promise<ReferencePrompt[]> {
  const { graph, read } = interpretable(folder, manifest, architecture);
  const { numLayers, vocabSize } = manifest.model;
  const ids = randomTokens(longest, vocabSize);
  const lengths = [...[1, DEFAULT_KV_BLOCK_SIZE + 1].filter((length) => length < longest), longest];
  const kindOf = (length: number) => kvKind(length, manifest.kvCache.rebuiltBeyond);
  const wholes = new Map(lengths.map((length) => [kindOf(length), length])); // the longest of each kind
  const total = [...wholes.values()].reduce((a, b) => a + b);
  const prompts: ReferencePrompt[] = [];
  let done = 0;
  for (const [kind, whole] of wholes) {
    const interpreter = new Interpreter(graph, read, Math.ceil(whole / DEFAULT_KV_BLOCK_SIZE));
    const steps: Interpretation[] = [];
    for (let at = 0; at < whole; at += STEP) {
      onProgress(done + at, total);
      await setImmediate(); // an interruption has its turn
      const chunk = ids.slice(at, Math.min(at + STEP, whole));
      steps.push(interpreter.step(oneSequenceStep(chunk, at, DEFAULT_KV_BLOCK_SIZE, "all", whole)));
    }
    done += whole;
    const logits = concat(steps.map((step) => step.logits));
    const hidden = Array.from({ length: numLayers + 1 }, (_, l) =>
      concat(steps.map((step) => step.taps.get(`hidden.${l}`) ?? new Float32Array(0))),
    );
    for (const length of lengths.filter((length) => kindOf(length) === kind)) {
      const begin = (x: Float32Array) => x.subarray(0, (x.length / whole) * length);
      prompts.push({ ids: ids.slice(0, length), greedy: [], logits: begin(logits), hidden: hidden.map(begin) });
    }
  }
  return prompts;
}

/** The graph that the engine was compiled from, with its target's roundings, over the tensors it was packed with. */
function interpretable(folder: string, manifest: Manifest, architecture: Architecture) {
  const { limits, provenance } = manifest;
  const { dtype, eosTokenIds } = manifest.model;
  const config = { ...architecture.readConfig(configOfEngine(folder)), dtype, eosTokenIds };
  const request = { architecture, config, limits, kvCacheDtype: manifest.kvCache.dtype as DType };
  if (!isSameGraph(architectureOption(request).architecture, provenance.options.architecture)) {
    // Weights were folded as the architecture was then: with another one they say nothing.
    throw new CompileError(
      `${architecture.name} is not as it was when ${folder} was compiled: compile the model again, or compare with a recording (--golden DIR)`,
    );
  }
  const model = buildGraph({ ...request, limits: { ...limits, maxNumBatchedTokens: limits.maxNumSeqs } });
  const { graph, kernels } = lower(model, kernelTarget(manifest.target));
  const packed = new Map(kernels.flatMap(kernelTensors).map((tensor) => [tensor.node, tensor.name]));
  const weights = new PackedWeightsReader(folder, manifest);
  return {
    graph: graph.rebuild((node, _map, into) => {
      const name = packed.get(node);
      return name === undefined ? undefined : into.weight(name, node.type);
    }),
    read: (name: string) => weights.read(name),
  };
}

function randomTokens(count: number, vocabSize: number): number[] {
  let state = 1;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * vocabSize);
  });
}

function concat(parts: readonly Float32Array[]): Float32Array {
  const whole = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
