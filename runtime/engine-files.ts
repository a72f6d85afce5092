/**
 * The weights of an engine folder against the hash in its manifest.
 *
 * Hashing takes half a second a gigabyte, too long for every start. So a stamp beside the weights notes what their file was (times,
 * inode) and its hash when it was last hashed, and is believed while the file is still that one: whoever writes, copies or restores it
 * changes them. A stamp is about one copy on one disk and no part of the engine: a folder without it is whole.
 */
import { statSync } from "node:fs";
import { join, resolve } from "node:path";
import { ManifestError } from "./errors.ts";
import { fileIdentity, type HashProgress, hashFile, notedHash, noteHash } from "./file-hash.ts";
import type { Manifest } from "./manifest.ts";

/** The stamp's file name in an engine folder. */
export const STAMP_FILE = ".weights-stamp";

export interface WeightsCheck {
  /** False hashes whatever the stamp says; true by default. */
  readonly trustStamp?: boolean;
  readonly onHash?: HashProgress;
}

/** The path of the weights of the engine in `folder`. Throws `ManifestError` when they are not those of its manifest. */
export async function checkWeights(folder: string, manifest: Manifest, check: WeightsCheck = {}): Promise<string> {
  const fault = await weightsFault(folder, manifest, check);
  if (fault !== null) throw new ManifestError(`${fault}: compile the model again`);
  return resolve(folder, manifest.weights.file);
}

/** What is wrong with the weights of the engine in `folder`: a clause that names the file; null when they are the manifest's. */
export async function weightsFault(
  folder: string,
  { weights }: Pick<Manifest, "weights">,
  { trustStamp = true, onHash }: WeightsCheck = {},
): Promise<string | null> {
  if (weights.sha256 === null) return `${folder} was compiled without its weights (--no-weights-file)`;
  const file = resolve(folder, weights.file);
  const found = statSync(file, { bigint: true, throwIfNoEntry: false });
  if (!found?.isFile()) return `${file} is missing`;
  if (Number(found.size) !== weights.bytes) return `${file} has ${found.size} bytes, the manifest says ${weights.bytes}`;
  const stamp = join(folder, STAMP_FILE);
  const identity = fileIdentity(found);
  if (trustStamp && notedHash(stamp, identity) === weights.sha256) return null;
  const sha256 = await hashFile(file, onHash);
  noteHash(stamp, sha256, identity);
  return sha256 === weights.sha256 ? null : `${file} has sha256 ${sha256}, the manifest says ${weights.sha256}`;
}

/** Notes that the weights file `file` of `folder`, as it is now, has the hash `sha256`. */
export function stampWeights(folder: string, file: string, sha256: string): void {
  noteHash(join(folder, STAMP_FILE), sha256, fileIdentity(statSync(join(folder, file), { bigint: true })));
}
