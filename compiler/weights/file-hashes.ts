/**
 * Hashes of files by their whole content, remembered between runs: a checkpoint of many gigabytes is read once.
 */
import { createHash } from "node:crypto";
import { mkdir, realpath, stat } from "node:fs/promises";
import { join } from "node:path";
import { fileIdentity, type HashProgress, hashFile, notedHash, noteHash } from "../../runtime/file-hash.ts";

export class FileHashes {
  /** Notes are kept in `folder`, which is made when needed. */
  constructor(
    private readonly folder: string,
    private readonly onHash?: HashProgress,
  ) {}

  /** The sha256 of a file in hexadecimal. */
  async of(path: string): Promise<string> {
    const file = await realpath(path);
    const note = join(this.folder, createHash("sha256").update(file).digest("hex"));
    const identity = fileIdentity(await stat(file, { bigint: true }));
    const noted = notedHash(note, identity);
    if (noted !== undefined) return noted;
    const hash = await hashFile(file, this.onHash);
    await mkdir(this.folder, { recursive: true }).catch(() => {}); // without a folder there is no note
    noteHash(note, hash, identity);
    return hash;
  }
}
