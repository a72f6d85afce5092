/**
 * Whether an engine folder is the one that a compile would make: the same inputs by its manifest, and the files as it lists them.
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { weightsFault } from "../../runtime/engine-files.ts";
import { type HashProgress, hashFile } from "../../runtime/file-hash.ts";
import type { Manifest } from "../../runtime/manifest.ts";
import { parseManifest } from "../../runtime/manifest-validator.ts";
import { CompileError } from "../errors.ts";
import { MAX_FILE_BYTES } from "./contents.ts";
import { PACKAGE_FILE } from "./package.ts";

/** What decides which engine it is. */
export type EngineIdentity = Pick<Manifest, "name" | "target" | "provenance">;

export interface UpToDateEvents {
  /** A file that is not as it was written, so that the engine has to be made again: a clause that names it. */
  onFault?(fault: string): void;
  /** Weights where they may have changed. */
  onHash?: HashProgress;
}

/**
 * The manifest of the engine in `folder` where it is whole and made from the same checkpoint, options, compiler and target, so that
 * compiling again would change nothing; else null. Weights are hashed only where their stamp does not match: milliseconds, whatever
 * the model's size.
 */
export async function upToDateEngine(
  folder: string,
  identity: EngineIdentity,
  events: UpToDateEvents = {},
): Promise<Manifest | null> {
  const manifest = readManifest(folder);
  if (manifest === undefined || canonical(manifest) !== canonical(identity)) return null;
  const { files, library } = manifest;
  const hashes = Object.entries(library ? { ...files, [library.file]: library.sha256 } : files);
  const packageFile = join(folder, PACKAGE_FILE); // its text is its owner's: a name to publish under
  const fault =
    (existsSync(packageFile) ? null : `${packageFile} is missing`) ??
    (await firstFault(folder, hashes)) ??
    (manifest.weights.sha256 === null ? null : await weightsFault(folder, manifest, { onHash: events.onHash }));
  if (fault === null) return manifest;
  events.onFault?.(fault);
  return null;
}

/** Kernel sources may be tuned by hand. Throws `CompileError` when `folder` holds an engine with such: compiling would lose them. */
export async function refuseEditedSources(folder: string): Promise<void> {
  const manifest = readManifest(folder);
  if (manifest === undefined) return;
  const sources = Object.entries(manifest.files).filter(([name]) => name.startsWith("kernels/"));
  const there = sources.filter(([name]) => existsSync(join(folder, name)));
  const fault = addedSource(folder, manifest) ?? (await firstFault(folder, there));
  if (fault === null) return;
  throw new CompileError(
    `${fault}: it was edited or added, and compiling again would lose that; ` +
      `build it with \`ingot build ${folder}\`, or delete it to have it made again, or choose another place with -o`,
  );
}

/** A file in `kernels/` that no compile put there; null when there is none. */
function addedSource(folder: string, { files }: Manifest): string | null {
  const kernels = join(folder, "kernels");
  const added = existsSync(kernels) ? readdirSync(kernels).find((name) => !Object.hasOwn(files, `kernels/${name}`)) : undefined;
  return added === undefined ? null : `${join(kernels, added)} is not in the manifest`;
}

/** The manifest of the engine in `folder`; undefined where it is missing, damaged or of another format: compiling is the remedy. */
function readManifest(folder: string): Manifest | undefined {
  const path = join(folder, "manifest.json");
  if (!existsSync(path)) return undefined;
  try {
    return parseManifest(readFileSync(path, "utf8"), path);
  } catch (error) {
    if (!(error instanceof Error) || error.name !== "ManifestError") throw error;
    return undefined;
  }
}

/** The first of `hashes` (path in the folder, sha256) that is not so; null when all are. */
async function firstFault(folder: string, hashes: readonly (readonly [string, string])[]): Promise<string | null> {
  for (const [name, sha256] of hashes) {
    const file = join(folder, name);
    const found = statSync(file, { throwIfNoEntry: false });
    if (!found) return `${file} is missing`;
    if (!found.isFile() || found.size > MAX_FILE_BYTES) return `${file} is not the file it was`;
    const actual = await hashFile(file);
    if (actual !== sha256) return `${file} has sha256 ${actual}, the manifest says ${sha256}`;
  }
  return null;
}

/** Equal text for equal identities. */
function canonical({ name, target, provenance }: EngineIdentity): string {
  const options = Object.entries(provenance.options).sort(([a], [b]) => (a < b ? -1 : 1));
  return JSON.stringify([name, target, provenance.compiler, provenance.checkpoint, options]);
}
