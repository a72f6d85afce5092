/**
 * From what a user named to an engine folder: looks the architecture up, applies the flags, compiles what is not there yet.
 */
import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { ARCHITECTURES } from "../../models/registry.ts";
import { loadNative } from "../../runtime/native.ts";
import { computeDType, type ModelConfig } from "../architecture.ts";
import { type CompileReport, type CompileRequest, compileEngine } from "../compile.ts";
import { modelFilesHash } from "../engine/contents.ts";
import { refuseEditedSources } from "../engine/up-to-date.ts";
import { CompileError } from "../errors.ts";
import type { Generated } from "../pipeline.ts";
import { bestTarget, knownTargets } from "../schedule/target.ts";
import { FileHashes } from "../weights/file-hashes.ts";
import { architectureOf, architectureOption } from "./architecture-of.ts";
import { compilerBuild } from "./build-id.ts";
import { interruptible, UsageError } from "./exit.ts";
import { probeGpu } from "./gpu.ts";
import type { ModelSource } from "./model-source.ts";
import { type ModelWeights, openWeights } from "./model-weights.ts";
import { ensureAddon } from "./native-addon.ts";
import type { CompileFlags, ModelFlags } from "./options.ts";
import { engineCache, hashCache, kernelCache } from "./places.ts";
import { progress, withProgress } from "./progress.ts";
import { unusedNotes } from "./unused-notes.ts";

const DTYPES = ["float32", "bfloat16", "float16"] as const;

/** How a compile goes about it. */
export interface CompileManner {
  /** False writes sources and weights, and builds nothing. */
  readonly build: boolean;
  /** False leaves weights.bin out. */
  readonly weightsFile?: boolean;
  /** The engine folder, whose kernels are not replaced when they were edited; by default one in the cache. */
  readonly out?: string;
  /** Takes what a person would want to know: the target chosen, tensors that nothing reads. */
  readonly say: (message: string) => void;
  /** Takes what was made of the model, whether or not the engine was there already. */
  readonly onGenerated?: (generated: Generated) => void;
}

/** Compiles a model into `out`, or into the cache. Throws `CompileError`, `ToolchainError`, `UsageError`. */
export async function compileModel(
  source: Exclude<ModelSource, { kind: "engine" }>,
  flags: CompileFlags,
  { build, weightsFile = true, out, say, onGenerated }: CompileManner,
): Promise<CompileReport & { target: string }> {
  const target = resolveTarget(flags.target, say);
  const { configJson, architecture, config } = await describeModel(source, flags);
  const model = {
    architecture,
    config,
    limits: {
      maxModelLen: maxModelLen(config, flags.maxModelLen),
      maxNumSeqs: flags.maxNumSeqs,
      maxNumBatchedTokens: flags.maxNumBatchedTokens,
    },
    kvCacheDtype:
      flags.kvCacheDtype === "auto"
        ? computeDType(config.dtype)
        : flags.kvCacheDtype === "fp8"
          ? "fp8_e4m3"
          : computeDType(dtypeFlag("--kv-cache-dtype", flags.kvCacheDtype, ["fp8"])),
  };
  const weights = openWeights(source, architecture, config, flags);
  try {
    const request: CompileRequest = {
      ...model,
      name: source.name,
      source: weights.source,
      checkpoint: await weightsHash(weights, config, flags),
      modelFolder: source.kind === "checkpoint" ? source.folder : null,
      configJson,
      isBeingWritten: !ARCHITECTURES.includes(architecture),
      target,
      compiler: compilerBuild(),
      options: { ...(flags.layers === undefined ? {} : { layers: flags.layers }), ...architectureOption(model) },
      weightsFile,
      build,
      kernelCache: kernelCache(),
    };
    const folder = resolve(out ?? cachedFolder(request));
    if (out !== undefined) await refuseEditedSources(folder);
    const checking = progress("checking weights", "bytes");
    const packing = progress("packing weights", "bytes");
    const building = progress("building kernels");
    try {
      const report = await compileEngine(folder, request, {
        onFault: (fault) => say(`${fault}: compiling again`),
        onHash: checking.update,
        onPack: packing.update,
        onBuild: building.update,
        dump: dumper(process.env.DUMP),
        onGenerated,
      });
      for (const note of unusedNotes(report.unusedTensors)) say(note);
      return { ...report, target };
    } finally {
      checking.stop();
      packing.stop();
      building.stop();
    }
  } finally {
    weights.close();
  }
}

/** `native` probes this machine and says what was chosen. */
function resolveTarget(target: string, say: CompileManner["say"]): string {
  if (target !== "native") {
    if (!knownTargets.includes(target)) {
      throw new UsageError(`--target is "${target}"; expected native, ${knownTargets.join(", ")}`);
    }
    return target;
  }
  ensureAddon();
  const cpu = loadNative().cpuFacts();
  const chosen = bestTarget(cpu);
  say(`native target: ${chosen} (${cpu.model}, ${cpu.threads} threads)`);
  const { gpu } = probeGpu(); // `ingot doctor` says why there is none
  // Not chosen unasked while no kernel has run on one.
  if (gpu?.target) say(`there is a GPU as well (${gpu.name}): --target ${gpu.target} compiles for it`);
  return chosen;
}

/** A model's architecture, and its configuration as the flags want it. Throws `CompileError`, `UsageError`. */
export async function describeModel(source: Exclude<ModelSource, { kind: "engine" }>, flags: ModelFlags) {
  const configJson = withLayers(source.config, flags.layers);
  const architecture = await architectureOf(configJson, flags.arch);
  const config = interruptible(() => architecture.readConfig(configJson)); // which builds the graph as well, to count
  return { configJson, architecture, config: withFlags(config, source, flags) };
}

/** A config.json of the first `layers` layers: lists with an entry a layer are cut, layers after the last one are gone. */
function withLayers(config: unknown, layers: number | undefined): unknown {
  if (layers === undefined) return config;
  const json = (config ?? {}) as Readonly<Record<string, unknown>>;
  const all = json.num_hidden_layers;
  if (typeof all !== "number") throw new UsageError("--layers cuts num_hidden_layers, which is no number in config.json");
  if (layers > all) throw new UsageError(`--layers is ${layers}, but the model has ${all} layers`);
  const cut = Object.entries(json).map(([field, value]) => {
    const isPerLayer = Array.isArray(value) && value.length === all && field.includes("layer");
    return [field, isPerLayer ? value.slice(0, layers) : value];
  });
  return { ...Object.fromEntries(cut), num_hidden_layers: layers, num_nextn_predict_layers: 0 };
}

function withFlags(config: ModelConfig, source: Exclude<ModelSource, { kind: "engine" }>, flags: ModelFlags): ModelConfig {
  const dtype = flags.dtype === "auto" ? config.dtype : dtypeFlag("--dtype", flags.dtype);
  const eos = source.kind === "checkpoint" ? (source.generationConfig as { eos_token_id?: unknown }).eos_token_id : undefined;
  const eosTokenIds = (Array.isArray(eos) ? eos : eos === undefined || eos === null ? config.eosTokenIds : [eos]) as number[];
  if (eosTokenIds.some((id) => !Number.isSafeInteger(id) || id < 0 || id >= config.vocabSize)) {
    const { eos_token_id: said } = source.config as { eos_token_id?: unknown };
    const where = eos === undefined || eos === null ? "config.json" : "generation_config.json";
    const whose =
      said === undefined && where === "config.json" ? `, which ${config.architecture} has where the field is absent` : "";
    throw new CompileError(
      `${where}: eos_token_id: expected ids below ${config.vocabSize}, found ${JSON.stringify(eos ?? config.eosTokenIds)}${whose}`,
    );
  }
  return { ...config, dtype, eosTokenIds };
}

function dtypeFlag(flag: string, text: string, others: readonly string[] = []): ModelConfig["dtype"] {
  const dtype = DTYPES.find((d) => d === text);
  if (!dtype) throw new UsageError(`${flag} is "${text}"; expected auto, ${[...DTYPES, ...others].join(", ")}`);
  return dtype;
}

function maxModelLen(config: ModelConfig, asked: number | undefined): number {
  const most = config.maxPositionEmbeddings;
  if (asked !== undefined && asked > most)
    throw new UsageError(`--max-model-len is ${asked}, but the model's positions end at ${most}`);
  return asked ?? most;
}

/** Names what is in the weights: of a checkpoint the content, with `config` and the folder's other files; of random ones the seed. */
async function weightsHash({ checkpoint }: ModelWeights, config: ModelConfig, flags: CompileFlags): Promise<string> {
  if (!checkpoint) return `random:${flags.weightsSeed}`;
  const identity = JSON.stringify([config, modelFilesHash(checkpoint.folder)]);
  return withProgress(
    "reading the checkpoint",
    (onHash) => {
      const hashes = new FileHashes(hashCache(), onHash);
      return checkpoint.hash(identity, (path) => hashes.of(path));
    },
    "bytes",
  );
}

/** A folder for each different engine, named so that a person knows which is which. */
function cachedFolder(r: CompileRequest): string {
  const identity = JSON.stringify([
    r.modelFolder,
    r.checkpoint,
    r.configJson,
    r.config.dtype,
    r.kvCacheDtype,
    r.limits,
    r.target,
    r.options,
    ...(r.weightsFile ? [] : ["no weights"]),
  ]);
  const id = createHash("sha256").update(identity).digest("hex").slice(0, 8);
  return join(engineCache(), `${r.name}-${r.target.replace(":", "-")}-${id}`);
}

/** Numbered dumps into the folder that `DUMP` names. */
function dumper(folder: string | undefined): ((name: string, text: string) => void) | undefined {
  if (!folder) return undefined;
  try {
    mkdirSync(folder, { recursive: true });
  } catch (error) {
    throw new UsageError(`DUMP is ${folder}, which cannot be made a folder: ${(error as Error).message}`);
  }
  return (name, text) => writeFileSync(join(folder, `${name}.ir`), text);
}
