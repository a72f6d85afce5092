/**
 * From a model to an engine folder: the whole way in one function.
 *
 * graph → passes → kernels → schedules, arena, text → built library → packed weights → manifest. The folder is written whole or not
 * at all; when it is there already, made from the same things, nothing is done.
 */
import { existsSync, readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { stampWeights } from "../runtime/engine-files.ts";
import type { Manifest, ModelFacts, UnusedEntry } from "../runtime/manifest.ts";
import type { ModelConfig } from "./architecture.ts";
import { copyModelFiles, hashFiles, writeKernelSources, writeManifest } from "./engine/contents.ts";
import { ensureSpace } from "./engine/disk.ts";
import { writeEngineFolder } from "./engine/folder.ts";
import { buildLibrary } from "./engine/library.ts";
import { assembleManifest, engineName, printJson, WEIGHTS_FILE } from "./engine/manifest.ts";
import { writeModule, writePackage } from "./engine/package.ts";
import { type UpToDateEvents, upToDateEngine } from "./engine/up-to-date.ts";
import { CompileError } from "./errors.ts";
import type { Graph } from "./ir/graph.ts";
import { type Dump, type Generated, type GenerateRequest, generate } from "./pipeline.ts";
import { checkSources } from "./weights/check-sources.ts";
import { packWeights } from "./weights/pack.ts";
import type { WeightSource } from "./weights/source.ts";
import { unusedTensors } from "./weights/unused.ts";

/** Unread tensors that are named. */
const MOST_NAMES = 5;

/** What to compile and for what. */
export interface CompileRequest extends GenerateRequest {
  readonly name: string;
  readonly source: WeightSource;
  /** Names the weights' content, for provenance: a hash, or `random:<seed>`. */
  readonly checkpoint: string;
  /** Folder whose tokenizer, template and configuration the engine carries along; null for a preset. */
  readonly modelFolder: string | null;
  /** The config.json that was compiled: the model folder's own, a preset's, or either with fewer layers. */
  readonly configJson: unknown;
  /**
   * The architecture is the user's own: errors speak to its author, for whom a tensor that nothing reads and `unusedTensors` does not
   * explain is one that was forgotten.
   */
  readonly isBeingWritten: boolean;
  /** Version and build of this compiler. */
  readonly compiler: string;
  /** Other options that shaped the model, for provenance. */
  readonly options: Readonly<Record<string, string | number | boolean>>;
  /** False leaves weights.bin out: sources and kernels to look at, of models that need not fit here. */
  readonly weightsFile: boolean;
  /** False writes sources and weights but builds no library. */
  readonly build: boolean;
  readonly kernelCache: string;
}

export interface CompileReport {
  readonly folder: string;
  readonly upToDate: boolean;
  readonly kernels: number;
  readonly weightBytes: number;
  /** What the checkpoint holds beyond that. */
  readonly unusedTensors: readonly UnusedEntry[];
  readonly seconds: { readonly generate: number; readonly pack: number; readonly build: number };
}

/** Those of the engine that is there already, and those of the one that is made. */
export interface CompileEvents extends UpToDateEvents {
  onPack?(done: number, total: number): void;
  onBuild?(done: number, total: number): void;
  /** Numbered dumps of every level. */
  readonly dump?: Dump;
  /** What was made of the model, of an engine that is there already too. */
  onGenerated?(generated: Generated): void;
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
      ...(request.weightsFile ? {} : { weightsFile: false }),
    },
  };
  const there = await upToDateEngine(folder, { name, target: request.target, provenance }, events);
  if (there) {
    // Who asks what an engine that is there was made of is told.
    const generated = events.dump || events.onGenerated ? generate(request, events.dump) : null;
    if (generated) events.onGenerated?.(generated);
    const seconds = { generate: 0, pack: 0, build: 0 };
    const { kernels, weights } = there;
    return {
      folder,
      upToDate: true,
      kernels: kernels.length,
      weightBytes: weights.bytes,
      unusedTensors: weights.unused,
      seconds,
    };
  }

  const start = performance.now();
  const generated = generate(request, events.dump);
  const { target, lowered, emitted, arena, kvCache, weights: plan, programs } = generated;
  checkSources(plan, request.source, request.modelFolder ?? name, {
    askedAt: (tensor) => weightOrigin(lowered.graph, tensor),
    isBeingWritten: request.isBeingWritten,
  });
  events.onGenerated?.(generated);
  const unused = await unusedTensors(request.source, plan, {
    prefixes: request.architecture.unusedTensors?.(request.config) ?? [],
    tieWordEmbeddings: request.config.tieWordEmbeddings,
  });
  if (request.isBeingWritten && request.options.layers === undefined) refuseUnread(unused, request.modelFolder ?? name);
  await ensureSpace(folder, (request.weightsFile ? plan.bytes : 0) + 2 ** 24, "-o");
  const seconds = { generate: since(start), pack: 0, build: 0 };

  await writeEngineFolder(folder, async (temporary) => {
    if (request.modelFolder) await copyModelFiles(request.modelFolder, temporary);
    await writeConfig(temporary, request.configJson);
    const sources = new Map(target.librarySources().map((f) => [f.name, f.text]));
    for (const text of emitted.texts) sources.set(`${text.name}${target.sourceSuffix}`, text.source);
    await writeKernelSources(temporary, sources);
    const facts = { name, model: factsOf(request.config), target: request.target, limits };
    await writeModule(temporary, facts);
    const files = await hashFiles(temporary);

    // Before weights are packed, which takes minutes: a missing compiler is told at once.
    const building = performance.now();
    const library = request.build
      ? await buildLibrary(temporary, {
          target: request.target,
          cache: request.kernelCache,
          kernels: emitted.entries,
          onProgress: events.onBuild,
        })
      : null;
    seconds.build = since(building);

    const packing = performance.now();
    const packed = request.weightsFile
      ? await packWeights(plan, request.source, `${temporary}/${WEIGHTS_FILE}`, events.onPack)
      : null;
    if (packed) stampWeights(temporary, WEIGHTS_FILE, packed.sha256);
    seconds.pack = since(packing);

    const manifest: Manifest = assembleManifest({
      ...facts,
      features: target.features,
      provenance,
      weightsPlan: plan,
      packed,
      unused,
      kvCache,
      arena,
      library,
      files,
      kernels: emitted.entries,
      programs,
    });
    await writePackage(temporary, manifest);
    await writeManifest(temporary, manifest);
  });
  return { folder, upToDate: false, kernels: emitted.texts.length, weightBytes: plan.bytes, unusedTensors: unused, seconds };
}

/** Throws `CompileError` naming tensors that nothing reads for no reason that is known. */
function refuseUnread(unused: readonly UnusedEntry[], where: string): void {
  const forgotten = unused.find(({ why }) => why === null);
  if (!forgotten) return;
  const { names, count } = forgotten;
  throw new CompileError(
    `${where}: your build never reads ${count === 1 ? "a tensor" : `${count} tensors`} of the checkpoint: ` +
      `${names.slice(0, MOST_NAMES).join(", ")}${names.length > MOST_NAMES ? ", …" : ""}. ` +
      'Read what was forgotten, or say in defineArchitecture why it is left: unusedTensors: () => [{ prefix: "model.extra.", why: "…" }]',
  );
}

/** An engine says which config.json it was made from, so that it can be verified without the model: the folder's, unless it differs. */
async function writeConfig(folder: string, json: unknown): Promise<void> {
  const path = join(folder, "config.json");
  const copied: unknown = existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : undefined;
  if (!isDeepStrictEqual(copied, json)) await writeFile(path, `${printJson(json, "")}\n`);
}

/** Where the model asks for a checkpoint tensor. */
function weightOrigin(graph: Graph, name: string): string | null {
  const node = graph.liveNodes().find((n) => n.op === "weight" && n.attrs.name === name);
  return node ? graph.originText(node) : null;
}

const since = (start: number): number => (performance.now() - start) / 1000;

/** The model's facts without what its architecture added for itself. */
function factsOf(c: ModelConfig): ModelFacts {
  const { architecture, hiddenSize, intermediateSize, numLayers, numHeads, numKvHeads, headDim, vocabSize } = c;
  const { maxPositionEmbeddings, tieWordEmbeddings, dtype, numParameters, bosTokenId, eosTokenIds } = c;
  return {
    ...{ architecture, hiddenSize, intermediateSize, numLayers, numHeads, numKvHeads, headDim, vocabSize },
    ...{ maxPositionEmbeddings, tieWordEmbeddings, dtype, numParameters, bosTokenId, eosTokenIds },
  };
}
