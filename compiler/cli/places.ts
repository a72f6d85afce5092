/**
 * Where engines and built kernels are kept between runs (`$INGOT_CACHE`, else the platform's cache folder), and how files are named.
 */
import { homedir } from "node:os";
import { isAbsolute, join, relative } from "node:path";

/** The cache's folder; nothing in it is ever needed twice, everything can be rebuilt. */
export function cacheRoot(env: NodeJS.ProcessEnv = process.env): string {
  if (env.INGOT_CACHE) return env.INGOT_CACHE;
  if (process.platform === "darwin") return join(homedir(), "Library", "Caches", "ingot");
  return join(env.XDG_CACHE_HOME || join(homedir(), ".cache"), "ingot");
}

/** Engines compiled on first use. */
export const engineCache = (): string => join(cacheRoot(), "engines");
/** Hashes of checkpoint files, see `FileHashes`. */
export const hashCache = (): string => join(cacheRoot(), "hashes");
/** Built kernel objects by content hash. */
export const kernelCache = (): string => join(cacheRoot(), "kernels");
/** Notes of architecture files whose types were checked. */
export const checkedFiles = (): string => join(cacheRoot(), "checked");

/** A file as a person in this folder would name it. */
export function shortPath(file: string): string {
  const path = relative(process.cwd(), file);
  return isAbsolute(path) || path.length > file.length ? file : path;
}
