/**
 * A file's content as a hash, and notes of such hashes, which are believed while the file is still the one that was hashed.
 */
import { createHash, randomBytes } from "node:crypto";
import { type BigIntStats, createReadStream, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";

/** Bytes hashed at a time. */
const CHUNK_BYTES = 4 * 2 ** 20;

/** `done` and `total` bytes of a file being hashed. */
export type HashProgress = (done: number, total: number) => void;

/** The sha256 of a file in hexadecimal, read in pieces. */
export async function hashFile(file: string, onHash?: HashProgress): Promise<string> {
  const { size } = statSync(file);
  const hash = createHash("sha256");
  let done = 0;
  for await (const chunk of createReadStream(file, { highWaterMark: CHUNK_BYTES })) {
    hash.update(chunk);
    done += chunk.length;
    onHash?.(done, size);
  }
  return hash.digest("hex");
}

/** Tells a file from what it was before. The time of change, too: it cannot be set back as that of modification can. */
export const fileIdentity = ({ size, mtimeNs, ctimeNs, ino }: BigIntStats): string => `${size} ${mtimeNs} ${ctimeNs} ${ino}`;

/** More than a hash and an identity have. */
const MAX_NOTE_BYTES = 256;

/** The hash that the note at `path` gives for the file of this identity; undefined where there is none, or it is about another file. */
export function notedHash(path: string, identity: string): string | undefined {
  const found = statSync(path, { throwIfNoEntry: false });
  if (!found?.isFile() || found.size > MAX_NOTE_BYTES) return undefined;
  const [, sha256, of] = /^([0-9a-f]{64}) (.*)\n$/.exec(readFileSync(path, "latin1")) ?? [];
  return of === identity ? sha256 : undefined;
}

/** Notes at `path` that the file of this identity has the hash `sha256`: written whole, or not at all where nothing can be written. */
export function noteHash(path: string, sha256: string, identity: string): void {
  const partial = `${path}.partial-${randomBytes(6).toString("hex")}`;
  try {
    writeFileSync(partial, `${sha256} ${identity}\n`, { flag: "wx" });
    renameSync(partial, path);
  } catch {
    rmSync(partial, { force: true }); // the next check hashes again
  }
}
