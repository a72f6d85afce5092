/**
 * Writing to a disk that may be full, or a place that may not be written: errors a user can act on.
 */
import { existsSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { CompileError } from "../errors.ts";

/** Throws `CompileError` unless at least `bytes` can still be written beside `target`, which `flag` names. */
export async function ensureSpace(target: string, bytes: number, flag: string): Promise<void> {
  let folder = dirname(resolve(target));
  while (!existsSync(folder) && folder !== dirname(folder)) folder = dirname(folder);
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize < bytes) {
    throw new CompileError(
      `${target} needs ${megabytes(bytes)} MB, but its disk has ${megabytes(bavail * bsize)} MB left: free some, or choose another place with ${flag}`,
    );
  }
}

/** The error a user can act on, for `what` (an engine, a file) at `path`, which `flag` names; others as they are. */
export function writeError(
  error: unknown,
  path: string,
  { what, flag }: { readonly what: string; readonly flag: string },
): unknown {
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
  if (code === "ENOSPC" || code === "EDQUOT") {
    return new CompileError(
      `the disk of ${path} is full; nothing was kept of the unfinished ${what}: free some space, or choose another place with ${flag}`,
      { cause: error },
    );
  }
  if (["EACCES", "EPERM", "EROFS", "ENOTDIR", "EEXIST"].includes(code as string)) {
    return new CompileError(`${path} cannot be written: ${(error as Error).message}; choose another place with ${flag}`, {
      cause: error,
    });
  }
  return error;
}

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 0);
