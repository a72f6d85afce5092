/**
 * `ingot list`, `show` and `rm`: the engines compiled so far.
 */
import { existsSync, readdirSync, rmSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { Command } from "commander";
import { formatTable } from "../../../runtime/bench/text-table.ts";
import { ManifestError } from "../../../runtime/errors.ts";
import type { Manifest } from "../../../runtime/manifest.ts";
import { isLeftover } from "../../engine/folder.ts";
import { printGraph } from "../../ir/print.ts";
import { UsageError } from "../exit.ts";
import { readManifest } from "../load.ts";
import { engineGraph, modelGraph } from "../model-graph.ts";
import { addJsonFlag, flag, integer, toggle } from "../options.ts";
import { engineCache } from "../places.ts";
import { formatBytes, log } from "../progress.ts";

interface Listed {
  readonly folder: string;
  readonly id: string;
  readonly manifest: Manifest;
  readonly bytes: number;
}

export function listCommand(): Command {
  const command = new Command("list").description("list the engines in the cache").action((flags: { json?: boolean }) => {
    const engines = listed();
    if (flags.json) {
      return console.log(
        JSON.stringify(
          engines.map(({ id, folder, bytes, manifest: m }) => ({
            id,
            folder,
            bytes,
            model: m.name,
            architecture: m.model.architecture,
            target: m.target,
            dtype: m.model.dtype,
          })),
          null,
          2,
        ),
      );
    }
    if (engines.length === 0) return console.log("no engines yet: ingot compile <model>");
    console.log(
      formatTable(
        ["engine", "model", "target", "dtype", "size"],
        engines.map(({ id, manifest: m, bytes }) => [id, m.name, m.target, m.model.dtype, formatBytes(bytes)]),
      ),
    );
  });
  return addJsonFlag(command);
}

type ShowFlags = { readonly graph?: boolean; readonly json?: boolean; readonly arch?: string; readonly layers?: number };

export function showCommand(): Command {
  const command = new Command("show")
    .description("print what an engine is: model, target, limits, memory, kernels")
    .argument("<engine>", "an engine folder or an id from `ingot list`; with --graph also a model folder or a preset")
    .action((engine: string, flags: ShowFlags) => {
      if (flags.graph) return showGraph(engine, flags);
      const folder = engineFolder(engine);
      const manifest = readManifest(folder);
      if (flags.json) return console.log(JSON.stringify({ folder, ...manifest }, null, 2));
      const { model: m, limits, predicted } = manifest;
      console.log(
        formatTable(
          [manifest.name, folder],
          [
            ["architecture", m.architecture],
            ["parameters", `${(m.numParameters / 1e6).toFixed(1)} M, ${m.dtype}`],
            [
              "shape",
              `${m.numLayers} layers, hidden ${m.hiddenSize}, heads ${m.numHeads}/${m.numKvHeads} × ${m.headDim}, vocabulary ${m.vocabSize}`,
            ],
            ["target", manifest.target],
            [
              "limits",
              `context ${limits.maxModelLen}, ${limits.maxNumSeqs} sequences, ${limits.maxNumBatchedTokens} tokens a step`,
            ],
            ["weights", formatBytes(predicted.memoryBytes.weights)],
            ["arena", formatBytes(predicted.memoryBytes.arena)],
            [
              "KV cache",
              `${formatBytes(predicted.kvBytesPerToken)} per token, ${manifest.kvCache.dtype}, blocks of ${manifest.kvCache.blockSize}`,
            ],
            ["read per step", `${formatBytes(predicted.weightBytesPerStep)} of weights`],
            ["kernels", String(manifest.kernels.length)],
            ["compiled from", manifest.provenance.checkpoint],
          ],
        ),
      );
    });
  toggle(command, "--graph", "print the model's graph: each operation, its type, the model path and source line it comes from");
  flag(command, "--arch <file>", "with --graph: TypeScript that exports the model's architecture");
  flag(command, "--layers <n>", "with --graph: only the model's first n layers", integer(1));
  return addJsonFlag(command);
}

async function showGraph(model: string, { json, arch, layers }: ShowFlags): Promise<void> {
  const folder = findEngine(model);
  if (folder !== undefined && layers !== undefined)
    throw new UsageError(`--layers cuts a model folder or a preset; the engine ${model} has the layers it was compiled with`);
  const graph = folder === undefined ? modelGraph(model, { arch, layers }) : engineGraph(folder, readManifest(folder), arch);
  const text = printGraph(await graph, { origins: true });
  if (json) return console.log(JSON.stringify({ graph: text.trimEnd().split("\n") }, null, 2));
  process.stdout.write(text);
}

export function removeCommand(): Command {
  const command = new Command("rm")
    .description("delete engines: those of the cache also when they are damaged")
    .argument("<engine...>", "ids from `ingot list`, or engine folders")
    .action((engines: string[], flags: { json?: boolean }) => {
      const folders = engines.map(removableFolder); // all are looked at before the first one goes
      for (const folder of folders) rmSync(folder, { recursive: true });
      console.log(flags.json ? JSON.stringify({ removed: folders }) : folders.map((f) => `removed ${f}`).join("\n"));
    });
  return addJsonFlag(command);
}

/** The folder of an engine named by path or by its id in the cache; a path comes first. Throws `UsageError` when there is none. */
export function engineFolder(engine: string): string {
  const found = findEngine(engine);
  if (found !== undefined) return found;
  throw new UsageError(`${engine} is neither an engine folder nor an id from \`ingot list\``);
}

function findEngine(engine: string): string | undefined {
  const path = resolve(engine);
  if (engine === "") throw new UsageError("an empty name is no engine; ids are in `ingot list`"); // an unset variable of a shell
  if (existsSync(join(path, "manifest.json"))) return path;
  const cached = resolve(engineCache(), engine);
  return isCached(cached) ? cached : undefined;
}

/** As `engineFolder`; outside the cache only a whole manifest says that a folder is an engine. Throws `UsageError` for another. */
function removableFolder(engine: string): string {
  const folder = engineFolder(engine);
  if (isCached(folder)) return folder;
  try {
    readManifest(folder);
    return folder;
  } catch (error) {
    if (!(error instanceof ManifestError)) throw error;
    throw new UsageError(
      `nothing was removed: ${folder} is not in the cache, and its manifest.json is not one of an engine that this version reads; ` +
        "delete the folder yourself if it is to go",
    );
  }
}

/** Whether `folder` is one of the cache's engines, whole or damaged. */
const isCached = (folder: string): boolean =>
  dirname(folder) === resolve(engineCache()) && (statSync(folder, { throwIfNoEntry: false })?.isDirectory() ?? false);

/** Engines of the cache; one that is damaged is told of on stderr, and is left out. */
function listed(): Listed[] {
  const root = resolve(engineCache());
  if (!existsSync(root)) return [];
  const ids = readdirSync(root).filter((id) => isCached(join(root, id)) && !isLeftover(id));
  return ids.sort().flatMap((id) => {
    const folder = join(root, id);
    try {
      return [{ id, folder, manifest: readManifest(folder), bytes: folderBytes(folder) }];
    } catch (error) {
      if (!(error instanceof ManifestError)) throw error;
      log(`${error.message}, or remove it: ingot rm ${id}`);
      return [];
    }
  });
}

function folderBytes(folder: string): number {
  let bytes = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    bytes += entry.isDirectory() ? folderBytes(path) : statSync(path).size;
  }
  return bytes;
}
