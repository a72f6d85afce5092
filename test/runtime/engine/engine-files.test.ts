import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { checkWeights, STAMP_FILE, stampWeights, type WeightsCheck } from "../../../runtime/engine-files.ts";
import { ManifestError } from "../../../runtime/errors.ts";
import { hashFile } from "../../../runtime/file-hash.ts";
import { sampleManifest } from "../manifest-sample.ts";

const bytes = new Uint8Array(9 * 2 ** 20).map((_, i) => i % 251);
const sha256 = createHash("sha256").update(bytes).digest("hex");
const sample = sampleManifest();
const manifest = { ...sample, weights: { ...sample.weights, bytes: bytes.length, sha256 } };

let folder: string;
let file: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ingot-weights-"));
  file = join(folder, "weights.bin");
  writeFileSync(file, bytes);
});
afterEach(() => rmSync(folder, { recursive: true }));

/** Checks, and says whether that took hashing. */
async function hashes(check: WeightsCheck = {}): Promise<boolean> {
  let hashed = 0;
  expect(await checkWeights(folder, manifest, { ...check, onHash: (done) => (hashed = done) })).toBe(file);
  expect([0, bytes.length]).toContain(hashed);
  return hashed > 0;
}

/** Overwrites some bytes. */
function damage(): void {
  const damaged = bytes.slice();
  damaged.fill(7, 5e6, 5e6 + 64);
  writeFileSync(file, damaged, { flag: "r+" });
}

describe("weights", () => {
  it("are hashed once, and believed from then on", async () => {
    expect(await hashes()).toBe(true);
    expect(await hashes()).toBe(false);
    expect(readdirSync(folder).sort()).toEqual([STAMP_FILE, "weights.bin"]);
  });

  it("just packed are believed at once", async () => {
    stampWeights(folder, "weights.bin", sha256);
    expect(await hashes()).toBe(false);
  });

  it("are hashed whatever the stamp says, when that is asked for", async () => {
    await hashes();
    expect(await hashes({ trustStamp: false })).toBe(true);
  });

  it("overwritten are refused with both hashes, again and again, until they are right", async () => {
    await hashes();
    damage();
    for (let attempt = 0; attempt < 2; attempt++) {
      await expect(checkWeights(folder, manifest)).rejects.toThrow(ManifestError);
      await expect(checkWeights(folder, manifest)).rejects.toThrow(
        new RegExp(`weights\\.bin has sha256 \\w{64}, the manifest says ${sha256}: compile the model again$`),
      );
    }
    writeFileSync(file, bytes);
    expect(await hashes()).toBe(true);
    expect(await hashes()).toBe(false);
  });

  it("overwritten with their time of modification set back are noticed, too", async () => {
    await hashes();
    const { atime, mtime } = statSync(file);
    damage();
    utimesSync(file, atime, mtime);
    await expect(checkWeights(folder, manifest)).rejects.toThrow(/has sha256/);
  });

  it("found damaged lose their stamp, so that the next check does not believe it", async () => {
    damage();
    stampWeights(folder, "weights.bin", sha256);
    expect(await hashes()).toBe(false);
    await expect(checkWeights(folder, manifest, { trustStamp: false })).rejects.toThrow(/has sha256/);
    await expect(checkWeights(folder, manifest)).rejects.toThrow(/has sha256/);
  });

  it("copied with their stamp or replaced by another file are hashed", async () => {
    await hashes();
    const copy = join(folder, "copy");
    mkdirSync(copy);
    for (const name of ["weights.bin", STAMP_FILE]) copyFileSync(join(folder, name), join(copy, name));
    let hashed = 0;
    await checkWeights(copy, manifest, { onHash: (done) => (hashed = done) });
    expect(hashed).toBe(bytes.length);
    renameSync(join(copy, "weights.bin"), file);
    expect(await hashes()).toBe(true);
  });

  it("keep their stamp when their folder is moved", async () => {
    await hashes();
    const moved = `${folder}-moved`;
    renameSync(folder, moved);
    await checkWeights(moved, manifest, { onHash: () => expect.unreachable() });
    renameSync(moved, folder);
  });

  it("of another engine are hashed: a stamp names its hash", async () => {
    stampWeights(folder, "weights.bin", "0".repeat(64));
    expect(await hashes()).toBe(true);
  });

  it("may stand in a folder that cannot be written, and are hashed each time there", async () => {
    chmodSync(folder, 0o500);
    expect(await hashes()).toBe(true);
    expect(await hashes()).toBe(process.getuid?.() !== 0); // root may write everywhere
    chmodSync(folder, 0o700);
  });

  it("have a stamp that is replaced, never written through", async () => {
    const elsewhere = join(folder, "elsewhere");
    writeFileSync(elsewhere, "mine");
    symlinkSync(elsewhere, join(folder, STAMP_FILE));
    expect(await hashes()).toBe(true);
    expect(readFileSync(elsewhere, "utf8")).toBe("mine");
    expect(await hashes()).toBe(false);
  });

  it("missing or of another size are refused unread", async () => {
    const onHash = () => expect.unreachable();
    writeFileSync(file, bytes.subarray(1));
    await expect(checkWeights(folder, manifest, { onHash })).rejects.toThrow(
      `${file} has ${bytes.length - 1} bytes, the manifest says ${bytes.length}: compile the model again`,
    );
    rmSync(file);
    await expect(checkWeights(folder, manifest, { onHash })).rejects.toThrow(`${file} is missing: compile the model again`);
    expect(existsSync(join(folder, STAMP_FILE))).toBe(false);
  });
});

it("a file is hashed in pieces of which the progress is told", async () => {
  const progress: (readonly [number, number])[] = [];
  expect(await hashFile(file, (done, total) => progress.push([done, total]))).toBe(sha256);
  expect(progress.length).toBeGreaterThan(1);
  expect(progress.at(-1)).toEqual([bytes.length, bytes.length]);
});
