import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { hashFiles, writeKernelSources, writeManifest } from "../../../compiler/engine/contents.ts";
import { refuseEditedSources, upToDateEngine } from "../../../compiler/engine/up-to-date.ts";
import { CompileError } from "../../../compiler/errors.ts";
import type { Manifest } from "../../../runtime/manifest.ts";
import { sampleManifest } from "../../runtime/manifest-sample.ts";

let folder: string;
let manifest: Manifest;
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "ingot-up-to-date-"));
  manifest = await writeEngine();
});
afterEach(() => rmSync(folder, { recursive: true }));

const sha256 = (bytes: string | Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** An engine with every kind of file, though it would not run. */
async function writeEngine(): Promise<Manifest> {
  const sample = sampleManifest();
  await writeKernelSources(folder, new Map(sample.kernels.map((k) => [`${k.name}.cpp`, `// ${k.name}\n`])));
  writeFileSync(join(folder, "kernels", "prelude.cpu.h"), "#pragma once\n");
  writeFileSync(join(folder, "tokenizer.json"), "{}");
  const files = await hashFiles(folder);
  mkdirSync(join(folder, "build"));
  writeFileSync(join(folder, "build", "kernels.so"), "ELF");
  writeFileSync(join(folder, "package.json"), "{}");
  const weights = new Uint8Array(sample.weights.bytes);
  writeFileSync(join(folder, "weights.bin"), weights);
  const made = {
    ...sample,
    weights: { ...sample.weights, sha256: sha256(weights) },
    library: { file: "build/kernels.so", sha256: sha256("ELF") },
    files,
  };
  await writeManifest(folder, made);
  return made;
}

/** What is said of the engine: null when it is up to date. */
async function fault(): Promise<string | null> {
  const faults: string[] = [];
  const current = await upToDateEngine(folder, manifest, { onFault: (f) => faults.push(f) });
  expect(faults).toHaveLength(current ? 0 : 1);
  return faults[0]?.replace(`${folder}/`, "") ?? null;
}

describe("an engine is up to date", () => {
  it("when nothing it was made from has changed, and no partial file is left", async () => {
    expect(await fault()).toBeNull();
    const options = Object.fromEntries(Object.entries(manifest.provenance.options).reverse());
    expect(await upToDateEngine(folder, { ...manifest, provenance: { ...manifest.provenance, options } })).toEqual(manifest);
    expect(readdirSync(folder).filter((name) => name.includes("partial"))).toEqual([]);
  });

  it("not with another checkpoint, compiler, option, target or name, of which nothing is said", async () => {
    const { provenance } = manifest;
    for (const other of [
      { ...manifest, name: "other" },
      { ...manifest, target: "cpu:avx2" },
      { ...manifest, provenance: { ...provenance, compiler: "ingot 0.1.1" } },
      { ...manifest, provenance: { ...provenance, checkpoint: "cd".repeat(32) } },
      { ...manifest, provenance: { ...provenance, options: { ...provenance.options, seed: 8 } } },
      { ...manifest, provenance: { ...provenance, options: { ...provenance.options, extra: true } } },
    ]) {
      const onFault = (f: string) => expect.unreachable(f);
      expect(await upToDateEngine(folder, other, { onFault })).toBeNull();
    }
  });

  it("not when there is none, or its manifest is damaged", async () => {
    writeFileSync(join(folder, "manifest.json"), "{");
    expect(await upToDateEngine(folder, manifest)).toBeNull();
    rmSync(join(folder, "manifest.json"));
    expect(await upToDateEngine(folder, manifest)).toBeNull();
  });

  it.each(["tokenizer.json", "kernels/embedding_bf16_64.cpp", "kernels/prelude.cpu.h", "build/kernels.so"])(
    "not when %s is missing or changed, which is said",
    async (name) => {
      const whole = readFileSync(join(folder, name));
      appendFileSync(join(folder, name), " ");
      expect(await fault()).toBe(`${name} has sha256 ${sha256(`${whole} `)}, the manifest says ${sha256(whole)}`);
      rmSync(join(folder, name));
      expect(await fault()).toBe(`${name} is missing`);
      writeFileSync(join(folder, name), whole);
      expect(await fault()).toBeNull();
    },
  );

  it("not with weights that are short or of other bytes, which is said", async () => {
    const { bytes } = manifest.weights;
    truncateSync(join(folder, "weights.bin"), bytes - 1);
    expect(await fault()).toBe(`weights.bin has ${bytes - 1} bytes, the manifest says ${bytes}`);
    writeFileSync(join(folder, "weights.bin"), new Uint8Array(bytes).fill(1));
    expect(await fault()).toMatch(/^weights\.bin has sha256 \w{64}, the manifest says \w{64}$/);
    writeFileSync(join(folder, "weights.bin"), new Uint8Array(bytes));
    expect(await fault()).toBeNull();
  });

  it("with a package.json of its owner's", async () => {
    writeFileSync(join(folder, "package.json"), '{"name":"mine"}');
    expect(await fault()).toBeNull();
  });

  it("not without a package.json", async () => {
    rmSync(join(folder, "package.json"));
    expect(await fault()).toBe("package.json is missing");
  });

  it("not with a device that poses as a tokenizer, which is not waited for", async () => {
    rmSync(join(folder, "tokenizer.json"));
    execFileSync("mkfifo", [join(folder, "tokenizer.json")]);
    expect(await fault()).toBe("tokenizer.json is not the file it was");
  });
});

describe("kernel sources edited by hand", () => {
  it("are not to be replaced, until they are deleted", async () => {
    const kernel = join(folder, "kernels", "embedding_bf16_64.cpp");
    await refuseEditedSources(folder);
    appendFileSync(kernel, "// faster\n");
    await expect(refuseEditedSources(folder)).rejects.toThrow(CompileError);
    await expect(refuseEditedSources(folder)).rejects.toThrow(
      /embedding_bf16_64\.cpp has sha256 .*: it was edited or added, .*build it with `ingot build .*`, or delete it/,
    );
    rmSync(kernel);
    await refuseEditedSources(folder);
  });

  it("are not to be lost when they were added", async () => {
    writeFileSync(join(folder, "kernels", "mine.cpp"), "// mine\n");
    await expect(refuseEditedSources(folder)).rejects.toThrow(
      /kernels\/mine\.cpp is not in the manifest: it was edited or added, /,
    );
  });

  it("are looked for in engines only, and other files may be replaced", async () => {
    writeFileSync(join(folder, "tokenizer.json"), "[]");
    await refuseEditedSources(folder);
    appendFileSync(join(folder, "kernels", "prelude.cpu.h"), "//");
    writeFileSync(join(folder, "manifest.json"), "{");
    await refuseEditedSources(folder);
    await refuseEditedSources(join(folder, "nowhere"));
  });
});
