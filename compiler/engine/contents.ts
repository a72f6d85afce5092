/**
 * What stands in an engine folder besides its weights: manifest, kernel sources, and the model's own files.
 *
 * Everything written here depends on its arguments alone: the same input gives the same bytes.
 */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { copyFile, mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { join, relative } from "node:path";
import { hashFile } from "../../runtime/file-hash.ts";
import type { Manifest } from "../../runtime/manifest.ts";
import { CompileError, invariant } from "../errors.ts";
import { printManifest } from "./manifest.ts";

/** Files of a model folder that an engine carries along, byte for byte. */
const MODEL_FILES = [
  "added_tokens.json",
  "chat_template.jinja",
  "chat_template.json",
  "config.json",
  "generation_config.json",
  "merges.txt",
  "special_tokens_map.json",
  "tokenizer.json",
  "tokenizer.model",
  "tokenizer_config.json",
  "vocab.json",
];
/** A model's terms travel with its weights. */
const TERMS = /^(LICEN[SC]E|NOTICE|USE_POLICY)([.-][\w.-]{1,40})?$/i;
/** Largest of them copied: 256 MB; the largest published tokenizers have 40. */
export const MAX_FILE_BYTES = 2 ** 28;

/** Writes manifest.json: a reader sees the old one or the new one. */
export async function writeManifest(folder: string, manifest: Manifest): Promise<void> {
  await writeWhole(join(folder, "manifest.json"), printManifest(manifest));
}

/** Writes `sources` (file name to text: kernels and the headers they include) into `kernels/`. */
export async function writeKernelSources(folder: string, sources: ReadonlyMap<string, string>): Promise<void> {
  await mkdir(join(folder, "kernels"), { recursive: true });
  for (const [name, text] of sources) {
    invariant(/^\w[\w.-]*$/.test(name), `kernel source ${name} is not a plain file name`);
    await writeWhole(join(folder, "kernels", name), text);
  }
}

/** Copies tokenizer, chat template, configuration and terms from a model folder. Throws `CompileError` for one that is no plain file. */
export async function copyModelFiles(modelFolder: string, folder: string): Promise<readonly string[]> {
  const names = (await readdir(modelFolder)).filter(isCarried).sort();
  const copied: string[] = [];
  for (const name of names) {
    const from = join(modelFolder, name);
    const found = await stat(from);
    if (found.isDirectory()) continue;
    if (!found.isFile() || found.size > MAX_FILE_BYTES) {
      throw new CompileError(
        `${from}: expected a file of at most ${MAX_FILE_BYTES} bytes, found ${found.isFile() ? found.size : "a device"}`,
      );
    }
    if (name.endsWith(".json")) checkJson(from);
    await copyFile(from, join(folder, name));
    copied.push(name);
  }
  return copied;
}

/**
 * A hash over the content of what `copyModelFiles` copies: part of a checkpoint's identity, since a corrected tokenizer is another
 * engine.
 */
export function modelFilesHash(modelFolder: string): string {
  const hash = createHash("sha256");
  for (const name of readdirSync(modelFolder).filter(isCarried).sort()) {
    const file = join(modelFolder, name);
    const found = statSync(file);
    if (found.isFile() && found.size <= MAX_FILE_BYTES) hash.update(`${name}\n`).update(readFileSync(file));
  }
  return hash.digest("hex");
}

const isCarried = (name: string): boolean => MODEL_FILES.includes(name) || TERMS.test(name);

/** What the runtime could not read is refused here, where the error can name the model's own file. */
function checkJson(file: string): void {
  try {
    JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    throw new CompileError(`${file} is not valid JSON: ${(error as Error).message}; copy it again from the model's source`);
  }
}

/** The sha256 of every file in `folder`, by its path there. */
export async function hashFiles(folder: string): Promise<Record<string, string>> {
  const hashes: Record<string, string> = {};
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const file = join(entry.parentPath, entry.name);
    if (entry.isFile()) hashes[relative(folder, file)] = await hashFile(file);
  }
  return hashes;
}

/** Writes `path` under a temporary name, then renames it: it holds all of `text` or what it held before. */
export async function writeWhole(path: string, text: string): Promise<void> {
  const partial = `${path}.partial-${process.pid}`;
  try {
    const handle = await open(partial, "w");
    try {
      await handle.writeFile(text);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(partial, path);
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
}
