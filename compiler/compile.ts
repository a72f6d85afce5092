/**
 * From a model to an engine folder: the whole way in one function.
 *
 * graph → passes → kernels → schedules, arena, text → packed weights → built library → manifest. The folder is written whole or not
 * at all; when it is there already, made from the same things, nothing is done.
 */
import { existsSync, readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import type { Limits, Manifest, ModelFacts } from "../runtime/manifest.ts";
import { type Architecture, computeDType, type ModelConfig } from "./architecture.ts";
import { cpuDialects, linearInputDtype } from "./codegen/cpu.ts";
import { librarySources, renderKernel } from "./codegen/render.ts";
import { copyModelFiles, isUpToDate, writeKernelSources, writeManifest, writePackage } from "./engine/contents.ts";
import { ensureSpace, writeEngineFolder } from "./engine/folder.ts";
import { buildLibrary } from "./engine/library.ts";
import { assembleManifest, engineName, printJson, WEIGHTS_FILE } from "./engine/manifest.ts";
import { CompileError, UnsupportedError } from "./errors.ts";
import { Graph } from "./ir/graph.ts";
import type { DType } from "./ir/tensor-type.ts";
import { kernelArgs } from "./kernels/operands.ts";
import type { KernelSpec, SampleKernel, TensorValue } from "./kernels/spec.ts";
import { weightNames } from "./kernels/weight-expression.ts";
import { lower } from "./pipeline.ts";
import { printPlan } from "./plan/print.ts";
import { type KernelTarget, manifestDType, type PlannedProgram, planProgram } from "./plan/program.ts";
import { scheduleKernel } from "./schedule/cpu.ts";
import { bufferBytes, bufferLayout, kvBlockBytes, panelTensors, tensorLayout } from "./schedule/layout.ts";
import { DEFAULT_KV_BLOCK_SIZE } from "./schedule/schedule.ts";
import { isaFeatures, parseTarget, type Target } from "./schedule/target.ts";
import { checkSources, type PackRequest, planWeights } from "./weights/layout.ts";
import { packWeights } from "./weights/pack.ts";
import type { WeightDType, WeightSource } from "./weights/source.ts";

/** What to compile and for what. */
export interface CompileRequest {
  readonly name: string;
  readonly architecture: Architecture;
  readonly config: ModelConfig;
  readonly source: WeightSource;
  /** Names the weights' content, for provenance: a hash, or `random:<seed>`. */
  readonly checkpoint: string;
  /** Folder whose tokenizer, template and configuration the engine carries along; null for a preset. */
  readonly modelFolder: string | null;
  /** The config.json that was compiled: the model folder's own, a preset's, or either with fewer layers. */
  readonly configJson: unknown;
  readonly target: string;
  readonly limits: Limits;
  readonly kvCacheDtype: DType;
  /** Version and build of this compiler. */
  readonly compiler: string;
  /** Other options that shaped the model, for provenance. */
  readonly options: Readonly<Record<string, string | number | boolean>>;
  /** False writes sources and weights but builds no library. */
  readonly build: boolean;
  readonly kernelCache: string;
}

export interface CompileReport {
  readonly folder: string;
  readonly upToDate: boolean;
  readonly kernels: number;
  readonly weightBytes: number;
  readonly seconds: { readonly generate: number; readonly pack: number; readonly build: number };
}

export interface CompileEvents {
  onPack?(done: number, total: number): void;
  onBuild?(done: number, total: number): void;
  /** Numbered dumps of every level. */
  dump?(name: string, text: string): void;
}

/** Compiles into `folder`. Throws `CompileError` for the model's or checkpoint's faults, `ToolchainError` when kernels cannot be built. */
export async function compileEngine(folder: string, request: CompileRequest, events: CompileEvents = {}): Promise<CompileReport> {
  const name = engineName(request.name);
  const { limits } = request;
  const provenance = {
    compiler: request.compiler,
    checkpoint: request.checkpoint,
    options: {
      ...request.options,
      ...limits,
      dtype: request.config.dtype,
      kvCacheDtype: request.kvCacheDtype,
      build: request.build,
    },
  };
  if (isUpToDate(folder, { name, target: request.target, provenance })) {
    return { folder, upToDate: true, kernels: 0, weightBytes: 0, seconds: { generate: 0, pack: 0, build: 0 } };
  }

  const start = performance.now();
  const generated = generate(request, events.dump);
  const { plan, program, dialect } = generated;
  checkSources(plan, request.source, request.modelFolder ?? name);
  await ensureSpace(folder, plan.bytes + 2 ** 24);
  const seconds = { generate: since(start), pack: 0, build: 0 };

  await writeEngineFolder(folder, async (temporary) => {
    if (request.modelFolder) await copyModelFiles(request.modelFolder, temporary);
    await writeConfig(temporary, request.configJson);
    const sources = new Map(librarySources(dialect).map((f) => [f.name, f.text]));
    for (const text of program.texts) sources.set(`${text.name}.cpp`, text.source);
    await writeKernelSources(temporary, sources);

    const packing = performance.now();
    const packed = await packWeights(plan, request.source, `${temporary}/${WEIGHTS_FILE}`, events.onPack);
    seconds.pack = since(packing);

    const building = performance.now();
    const library = request.build ? await buildLibrary(temporary, request.target, request.kernelCache, events.onBuild) : null;
    seconds.build = since(building);

    const manifest: Manifest = assembleManifest({
      name,
      model: factsOf(request.config),
      target: request.target,
      features: isaFeatures(parseTarget(request.target).isa),
      limits,
      provenance,
      weightsPlan: plan,
      packed,
      kvCache: generated.kvCache,
      arena: program.arena,
      library,
      kernels: program.kernels,
      programs: [program.program],
    });
    await writePackage(temporary, manifest);
    await writeManifest(temporary, manifest);
  });
  return { folder, upToDate: false, kernels: program.texts.length, weightBytes: plan.bytes, seconds };
}

/** An engine says which config.json it was made from, so that it can be verified without the model: the folder's, unless it differs. */
async function writeConfig(folder: string, json: unknown): Promise<void> {
  const path = join(folder, "config.json");
  const copied: unknown = existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : undefined;
  if (!isDeepStrictEqual(copied, json)) await writeFile(path, `${printJson(json, "")}\n`);
}

const since = (start: number): number => (performance.now() - start) / 1000;

/** Everything of an engine but its weights: texts, plans and layouts. */
export function generate(
  request: Pick<CompileRequest, "architecture" | "config" | "target" | "limits" | "kvCacheDtype">,
  dump?: CompileEvents["dump"],
) {
  const target = parseTarget(request.target);
  const dialect = cpuDialects[target.isa];
  const model = buildGraph(request);
  const lowered = lower(model, { linearInput: (dtype) => linearInputDtype(target.isa, dtype) }, dump);
  const { vocabSize } = request.config;
  if (lowered.logits.cols !== vocabSize) {
    throw new CompileError(
      `the logits at ${model.originText(model.logits)} have ${lowered.logits.cols} columns, but vocabSize is ${vocabSize}: make the head as wide as the vocabulary`,
    );
  }
  const sampler: SampleKernel = {
    kind: "sample",
    name: `sample_${vocabSize}`,
    nodes: [],
    logits: lowered.logits,
    vocabSize,
  };
  const kernels = [...lowered.kernels, sampler];
  const plan = planWeights(packRequests(kernels));
  const tensors = plan.tensors.map((t) => t.entry.name);
  const taps = [...lowered.taps, { name: "logits", buffer: lowered.logits }];
  const program: PlannedProgram = planProgram(
    { kernels, taps, logits: lowered.logits },
    lowered.graph,
    kernelTarget(target, kernels),
    tensors,
    request.limits.maxNumBatchedTokens,
  );
  dump?.(`${String(lowered.numDumps).padStart(2, "0")}-plan`, printPlan(program, tensors));
  return {
    dialect,
    graph: lowered.graph,
    firings: lowered.firings,
    kernels,
    plan,
    program,
    kvCache: kvCacheOf(kernels, request),
  };
}

/** The model's own graph, its cache in the dtype asked for. Throws `CompileError` pointing at the model's lines. */
export function buildGraph({
  architecture,
  config,
  limits,
  kvCacheDtype,
}: Pick<CompileRequest, "architecture" | "config" | "limits" | "kvCacheDtype">): Graph {
  const graph = new Graph({ ...limits, blockSize: DEFAULT_KV_BLOCK_SIZE });
  architecture.build(config, graph);
  if (kvCacheDtype === computeDType(config.dtype)) return graph;
  return graph.rebuild((node, _map, into) =>
    node.op === "kv_cache" ? into.kvCache(node.attrs.layer, kvCacheDtype, node.attrs.numKvHeads, node.attrs.headDim) : undefined,
  );
}

function kernelTarget(target: Target, kernels: readonly KernelSpec[]): KernelTarget {
  const context = { kvBlockSize: DEFAULT_KV_BLOCK_SIZE, panelTensors: panelTensors(kernels) };
  return {
    schedule: (spec) => scheduleKernel(spec, target.isa, context),
    render: (spec, schedule, name) => renderKernel(spec, schedule, cpuDialects[target.isa], name),
    bufferLayout: (buffer) => bufferLayout(target.isa, buffer),
    bufferBytes: (buffer) => bufferBytes(target.isa, buffer),
  };
}

/** Every tensor the kernels read, once, in the order of first use. */
function packRequests(kernels: readonly KernelSpec[]): PackRequest[] {
  const panels = panelTensors(kernels);
  const ways = new Map<string, 1 | 2>();
  for (const k of kernels) {
    if (k.kind !== "linear") continue;
    if ((ways.get(k.w.name) ?? k.ways) !== k.ways) {
      throw new UnsupportedError(
        `${k.w.name} is read both as one matrix and as a gate and its up: give one of them its own tensor`,
      );
    }
    ways.set(k.w.name, k.ways);
  }
  const requests = new Map<string, PackRequest>();
  for (const value of kernels.flatMap(tensorsOf)) {
    if (requests.has(value.name)) continue;
    requests.set(value.name, {
      name: value.name,
      sources: sourcesOf(value),
      dtype: weightDType(value),
      layout: tensorLayout(value, panels),
      ways: ways.get(value.name) ?? 1,
    });
  }
  return [...requests.values()];
}

const tensorsOf = (spec: KernelSpec): TensorValue[] =>
  kernelArgs(spec).flatMap((arg) => (arg.kind === "value" && arg.value.kind === "tensor" ? [arg.value] : []));

function sourcesOf(value: TensorValue): PackRequest["sources"] {
  const shapes = new Map<string, readonly number[]>();
  const visit = (node: TensorValue["node"]): void => {
    if (node.op === "weight") shapes.set(node.attrs.name, node.type.shape as readonly number[]);
    for (const operand of node.operands) visit(operand);
  };
  visit(value.node);
  return weightNames(value.node).map((name) => ({ name, shape: shapes.get(name) ?? [] }));
}

function weightDType({ dtype, name }: TensorValue): WeightDType {
  if (dtype === "f32" || dtype === "bf16" || dtype === "f16") return dtype;
  throw new CompileError(`${name} is wanted as ${dtype}; weights are f32, f16 or bf16`);
}

function kvCacheOf(kernels: readonly KernelSpec[], { config }: Pick<CompileRequest, "config">): Manifest["kvCache"] {
  const caches = kernels.flatMap((k) => (k.kind === "store_kv" ? [k.kv] : []));
  const layers = caches.map((kv) => kv.layer).sort((a, b) => a - b);
  const [first] = caches;
  if (!first || layers.length !== config.numLayers || layers.some((layer, i) => layer !== i)) {
    throw new CompileError(
      `layers ${layers.join(", ") || "(none)"} store keys and values, but numLayers is ${config.numLayers}: each of 0 … ${config.numLayers - 1} must store once`,
    );
  }
  const other = caches.find((kv) => kvBlockBytes(kv, DEFAULT_KV_BLOCK_SIZE) !== kvBlockBytes(first, DEFAULT_KV_BLOCK_SIZE));
  if (other) {
    const size = (kv: typeof first) => `${kv.numKvHeads} heads of ${kv.headDim} ${kv.dtype}`;
    throw new UnsupportedError(
      `layer ${first.layer} caches ${size(first)}, layer ${other.layer} ${size(other)}; layers whose caches differ in size are not supported`,
    );
  }
  return {
    dtype: manifestDType(first.dtype),
    blockSize: DEFAULT_KV_BLOCK_SIZE,
    numLayers: caches.length,
    bytesPerBlock: kvBlockBytes(first, DEFAULT_KV_BLOCK_SIZE),
  };
}

/** The model's facts without what its architecture added for itself. */
function factsOf(c: ModelConfig): ModelFacts {
  const { architecture, hiddenSize, intermediateSize, numLayers, numHeads, numKvHeads, headDim, vocabSize } = c;
  const { maxPositionEmbeddings, tieWordEmbeddings, dtype, numParameters, bosTokenId, eosTokenIds } = c;
  return {
    ...{ architecture, hiddenSize, intermediateSize, numLayers, numHeads, numKvHeads, headDim, vocabSize },
    ...{ maxPositionEmbeddings, tieWordEmbeddings, dtype, numParameters, bosTokenId, eosTokenIds },
  };
}
