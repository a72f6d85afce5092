/**
 * The way from a model to everything of an engine but its weights: read this first.
 *
 * One ordered list: passes over the graph, then kernels are formed, scheduled, placed in memory and emitted as text. After every
 * stage the result is verified and, with a dump, written out; packing, building and writing stand in `compile.ts`.
 */
import type { Limits, Manifest, Program } from "../runtime/manifest.ts";
import { type Architecture, computeDType, type ModelConfig } from "./architecture.ts";
import { DEFAULT_KV_BLOCK_SIZE } from "./codegen/cpu/kernel-schedule.ts";
import { CompileError } from "./errors.ts";
import { Graph } from "./ir/graph.ts";
import type { DType } from "./ir/tensor-type.ts";
import { formKernels, type KernelProgram } from "./kernels/form.ts";
import { kernelScratch } from "./kernels/operands.ts";
import { printKernels } from "./kernels/print.ts";
import type { KernelSpec, SampleKernel } from "./kernels/spec.ts";
import { verifyKernels } from "./kernels/verify.ts";
import { canonicalize } from "./passes/canonicalize.ts";
import { fold } from "./passes/fold.ts";
import { fuseProjections } from "./passes/fuse-projections.ts";
import { type LegalizeTarget, legalize } from "./passes/legalize.ts";
import { type Pass, runPasses, stageName } from "./passes/pass.ts";
import { sampledRows } from "./passes/sampled-rows.ts";
import { planArena } from "./plan/arena.ts";
import { type KernelTarget, kernelTarget, printSchedules, type ScheduledKernel, scheduleKernels } from "./plan/kernel-target.ts";
import { planKvCache } from "./plan/kv-cache.ts";
import { packRequests } from "./plan/pack-requests.ts";
import { printArena, printProgram } from "./plan/print.ts";
import { arenaEntry, assembleProgram, type EmittedKernels, emitKernels } from "./plan/program.ts";
import type { Firing } from "./rewrite/rewrite.ts";
import { planWeights, type WeightsPlan } from "./weights/layout.ts";

/** Receives the text of a stage under its number and name, such as `04-fold`. */
export type Dump = (name: string, text: string) => void;

/** The passes over the graph, in order, for a target that wants its dtypes so. */
export const passesFor = (target: LegalizeTarget): readonly Pass[] => [
  canonicalize, // equal things spelt one way
  sampledRows, // after the last attention only rows that are sampled
  fuseProjections, // linears of one input become one: q, k, v; gate, up
  fold, // what the fusion made trivial disappears; weight expressions are left to the packer
  legalize(target), // dtypes that the target's kernels read
];

/** What a model is compiled for. */
export interface GenerateRequest {
  readonly architecture: Architecture;
  readonly config: ModelConfig;
  readonly target: string;
  readonly limits: Limits;
  readonly kvCacheDtype: DType;
}

/** Everything of an engine but its weights and its built library. */
export interface Generated {
  readonly target: KernelTarget;
  readonly lowered: Lowered;
  /** The kernels of each program in order, the sampler last. */
  readonly kernels: readonly (readonly KernelSpec[])[];
  readonly emitted: EmittedKernels;
  readonly arena: Manifest["arena"];
  readonly kvCache: Manifest["kvCache"];
  /** What to pack of the checkpoint. */
  readonly weights: WeightsPlan;
  /** For steps of few tokens first; the last is for all. */
  readonly programs: readonly Program[];
}

/** All stages. Throws `CompileError` and `UnsupportedError`, pointing at the model's lines, for what cannot be compiled. */
export function generate(request: GenerateRequest, dump?: Dump): Generated {
  const target = kernelTarget(request.target);
  const lowered = lower(buildGraph(request, target.kvBlockSize), target, dump); // graph → kernels
  const kernels = [...target.legalizeKernels(lowered.kernels), samplerOf(lowered, request.config.vocabSize)]; // those the target has
  verifyKernels(kernels, [lowered.logits]);
  let stage = lowered.numDumps;
  const dumped = (name: string, text: () => string) => dump?.(stageName(stage++, name), text());

  const taps = [...lowered.taps, { name: "logits", buffer: lowered.logits }];
  const wanted = new Set(taps.map((tap) => tap.buffer.name));
  const { maxNumBatchedTokens } = request.limits;
  const sizes = [...target.fewTokens.filter((few) => few < maxNumBatchedTokens), maxNumBatchedTokens];
  const fused = sizes.map((maxTokens) => target.fuseKernels(kernels, maxTokens, wanted));
  for (const program of fused) verifyKernels(program, [lowered.logits, ...lowered.taps.map((tap) => tap.buffer)]);
  if (fused.length > 1) dumped("fuse-kernels", () => fused.map((program) => printKernels(program)).join("\n"));
  const scheduled = sizes.map((maxTokens, i) => scheduleKernels(fused[i]!, lowered.graph, target, maxTokens)); // skeletons, blocks, grids
  dumped("schedule", () => scheduled.map(printSchedules).join("\n"));

  const arena = arenaEntry(
    planArena(kernels, (buffer) => target.bufferBytes(buffer), fused.flat().flatMap(kernelScratch)),
    target,
  ); // memory
  const kvCache = planKvCache(kernels, request.config.numLayers, target.kvBlockSize);
  const weights = planWeights(packRequests(kernels, target));
  dumped("plan-memory", () => printArena(arena));

  const emitted = emitKernels(
    sizes.map((maxTokens, i) => ({ maxTokens, kernels: scheduled[i]! })),
    lowered.graph,
    target,
  ); // text
  const names = { buffers: arena.buffers.map((b) => b.name), tensors: weights.tensors.map((t) => t.entry.name) };
  const programs = sizes.map((maxTokens, i) =>
    assembleProgram(scheduled[i] as readonly ScheduledKernel[], emitted.textOf[i] as readonly number[], taps, names, maxTokens),
  );
  dumped("emit", () => programs.map((p) => printProgram(p, emitted.entries, arena, names.tensors)).join("\n"));

  const perProgram = scheduled.map((program) => program.map(({ spec }) => spec));
  return { target, lowered, kernels: perProgram, emitted, arena, kvCache, weights, programs };
}

export interface Lowered extends KernelProgram {
  readonly graph: Graph;
  /** Every rewrite that happened, in order. */
  readonly firings: readonly Firing[];
  /** Texts dumped so far: the number of the next. */
  readonly numDumps: number;
}

/** Runs the passes and forms kernels. Throws `CompileError` pointing at the model's lines. */
export function lower(model: Graph, target: LegalizeTarget, dump?: Dump): Lowered {
  const passes = passesFor(target);
  const { graph, firings } = runPasses(model, passes, { dump });
  const program = formKernels(graph);
  verifyKernels(program.kernels, [program.logits, ...program.taps.map((t) => t.buffer)]);
  dump?.(stageName(passes.length + 1, "form-kernels"), printKernels(program.kernels));
  return { ...program, graph, firings, numDumps: passes.length + 2 };
}

/** The model's own graph, its cache in the dtype asked for. Throws `CompileError` pointing at the model's lines. */
export function buildGraph(
  { architecture, config, limits, kvCacheDtype }: Omit<GenerateRequest, "target">,
  blockSize = DEFAULT_KV_BLOCK_SIZE,
): Graph {
  const graph = new Graph({ ...limits, blockSize });
  architecture.build(config, graph);
  if (kvCacheDtype === computeDType(config.dtype)) return graph;
  return graph.rebuild((node, _map, into) =>
    node.op === "kv_cache" ? into.kvCache(node.attrs.layer, kvCacheDtype, node.attrs.numKvHeads, node.attrs.headDim) : undefined,
  );
}

/** The last kernel: logits to token ids. */
function samplerOf({ logits, graph }: Lowered, vocabSize: number): SampleKernel {
  if (logits.cols !== vocabSize) {
    throw new CompileError(
      `the logits at ${graph.originText(graph.logits)} have ${logits.cols} columns, but vocabSize is ${vocabSize}: make the head as wide as the vocabulary`,
    );
  }
  return { kind: "sample", name: `sample_${vocabSize}`, nodes: [], logits, vocabSize };
}
