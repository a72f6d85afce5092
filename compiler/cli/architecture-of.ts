/**
 * Which architecture a config.json means: one of a file that the user gave, or a known one; and what names the user's own in an
 * engine's provenance.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { ARCHITECTURES, architectureNames, findArchitecture, firstNamed } from "../../models/registry.ts";
import type { Manifest } from "../../runtime/manifest.ts";
import type { Architecture } from "../architecture.ts";
import { CompileError } from "../errors.ts";
import { buildGraph, type GenerateRequest } from "../pipeline.ts";
import { readJson } from "./model-source.ts";

/** The architecture that `configJson` names: of `file` where one is given, else a known one. Throws `CompileError`. */
export async function architectureOf(configJson: unknown, file: string | undefined): Promise<Architecture> {
  if (file === undefined) return findArchitecture(configJson);
  const { loadArchitectures } = await import("./architecture-file.ts");
  const own = await loadArchitectures(file);
  const names = architectureNames(configJson);
  const found = firstNamed(names, own);
  if (found) return found;
  const described = own.map((a) => a.name);
  if (names.length === 0)
    throw new CompileError(`config.json: architectures: expected a list naming one of ${described.join(", ")}; found none`);
  throw new CompileError(
    `config.json names ${names.join(", ")}, but ${file} describes ${described.join(", ")}: ` +
      "give defineArchitecture the name that config.json has, or leave --arch out",
  );
}

/**
 * The architecture an engine was compiled with: of `file` where one is given. Throws `CompileError` when the engine's config.json is
 * missing or of an unknown architecture, and where it was the author's own and no file is given.
 */
export async function architectureOfEngine(folder: string, manifest: Manifest, file: string | undefined): Promise<Architecture> {
  if (file === undefined && manifest.provenance.options.architecture !== undefined) {
    throw new CompileError(
      `${folder} was compiled with an architecture of its author's own (${manifest.model.architecture}): ` +
        "give its file with --arch FILE (verify also takes recorded activations: --golden DIR)",
    );
  }
  return architectureOf(configOfEngine(folder), file);
}

/** The config.json that an engine was compiled from. Throws `CompileError` when there is none. */
export function configOfEngine(folder: string): unknown {
  const file = join(folder, "config.json");
  if (!existsSync(file)) throw new CompileError(`${folder} carries no config.json: compile the model again`);
  return readJson(file);
}

/**
 * The entry of provenance that says what an architecture of the user's own built: a hash of the graph, and one of the lines it comes
 * from. A change of either makes another engine. Nothing for those that come with Ingot, which change with the compiler.
 */
export function architectureOption(request: Omit<GenerateRequest, "target">): { readonly architecture?: string } {
  if (ARCHITECTURES.includes(request.architecture)) return {};
  const graph = buildGraph(request);
  const nodes = graph.liveNodes().map((n) => [n.op, n.operands.map((o) => o.id), n.attrs, n.type]);
  const taps = [...graph.taps].map(([name, node]) => [name, node.id]);
  const origins = graph.liveNodes().map((n) => graph.originText(n));
  const hash = (value: unknown) => createHash("sha256").update(JSON.stringify(value)).digest("hex").slice(0, 16);
  return { architecture: `${hash([request.config, nodes, taps, graph.logits.id])} ${hash(origins)}` };
}

/** Whether two entries of provenance are of one graph, whatever the lines it comes from. */
export const isSameGraph = (one: unknown, other: unknown): boolean => String(one).split(" ")[0] === String(other).split(" ")[0];
