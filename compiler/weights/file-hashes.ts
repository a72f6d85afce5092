/**
 * Hashes of files by their whole content, remembered between runs: a checkpoint of many gigabytes is read once.
 *
 * A note is believed while the file at its path is still the one that was hashed: its size, times and inode.
 */
import { createHash, randomBytes } from "node:crypto";
import { mkdir, readFile, realpath, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileIdentity, type HashProgress, hashFile } from "../../runtime/file-hash.ts";

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
    const noted = await readFile(note, "utf8").catch(() => "");
    const [sha256 = "", ...rest] = noted.trimEnd().split(" ");
    if (/^[0-9a-f]{64}$/.test(sha256) && rest.join(" ") === identity) return sha256;
    const hash = await hashFile(file, this.onHash);
    await this.keep(note, `${hash} ${identity}\n`);
    return hash;
  }

  private async keep(note: string, text: string): Promise<void> {
    const partial = `${note}.${randomBytes(6).toString("hex")}`;
    try {
      await mkdir(this.folder, { recursive: true });
      await writeFile(partial, text);
      await rename(partial, note);
    } catch {
      await rm(partial, { force: true }); // a cache that cannot be written: the next run hashes again
    }
  }
}
