/**
 * A file's content as a hash, and what tells that a file is still the one that was hashed.
 */
import { createHash } from "node:crypto";
import { type BigIntStats, createReadStream, statSync } from "node:fs";

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
