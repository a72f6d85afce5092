import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { copyModelFiles, hashFiles, modelFilesHash, writeKernelSources } from "../../../compiler/engine/contents.ts";
import { assembleManifest, engineName, evaluateRpn, printJson, printManifest } from "../../../compiler/engine/manifest.ts";
import { CompileError, InternalError } from "../../../compiler/errors.ts";
import { Graph } from "../../../compiler/ir/graph.ts";
import { planWeights } from "../../../compiler/weights/layout.ts";
import { weightRows } from "../../../compiler/weights/rows.ts";
import type { Manifest } from "../../../runtime/manifest.ts";
import { parseManifest } from "../../../runtime/manifest-validator.ts";
import { sampleManifest } from "../../runtime/manifest-sample.ts";

const g = new Graph({ maxModelLen: 1, maxNumSeqs: 1, maxNumBatchedTokens: 1, blockSize: 1 });
const tensor = (name: string, shape: readonly number[]) => g.weight(name, { dtype: "bf16", shape });

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ingot-contents-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

describe("a manifest", () => {
  it("assembled from parts predicts what a step reads and computes", () => {
    const { format, weights, predicted, ...parts } = sampleManifest();
    const whole = (name: string, ...shape: number[]) => weightRows(tensor(name, shape));
    const weightsPlan = planWeights([
      { name: "embed", rows: whole("e", 500, 64), dtype: "bf16", layout: "rows", ways: 1, readShare: 1 / 500 },
      { name: "head", rows: whole("h", 500, 64), dtype: "bf16", layout: "panel16", ways: 1, readShare: 1 },
      { name: "norm", rows: whole("n", 64), dtype: "f32", layout: "rows", ways: 1, readShare: 1 },
      { name: "gate_up", rows: whole("e", 4, 40, 24), dtype: "bf16", layout: "panel16", ways: 2, readShare: 2 / 4 },
    ]);
    const manifest = assembleManifest({
      ...parts,
      weightsPlan,
      unused: weights.unused,
      packed: { bytes: weightsPlan.bytes, sha256: "0".repeat(64) },
    });
    expect(manifest.weights.tensors.map((t) => t.name)).toEqual(["embed", "head", "norm", "gate_up"]);
    expect(manifest.predicted).toEqual({
      weightBytesPerStep: 128 + 65536 + 256 + 2 * 4096, // a row of the embedding, two of four experts
      kvBytesPerToken: (4096 * 2) / 32,
      flopsPerToken: 4096,
      memoryBytes: { weights: 65536 + 65536 + 4096 + 4 * 4096, arena: 114688 },
    });
    expect(parseManifest(printManifest(manifest), "m")).toEqual(manifest);
  });

  it("prints the same bytes whatever order its fields were made in", () => {
    const reversed = (value: unknown): unknown =>
      Array.isArray(value)
        ? value.map(reversed)
        : typeof value === "object" && value !== null
          ? Object.fromEntries(
              Object.entries(value)
                .reverse()
                .map(([k, v]) => [k, reversed(v)]),
            )
          : value;
    const text = printManifest(sampleManifest());
    expect(printManifest(reversed(sampleManifest()) as Manifest)).toBe(text);
    expect(text.endsWith("}\n")).toBe(true);
    expect(text.split("\n").slice(0, 2)).toEqual(["{", '  "format": 2,']);
    expect(JSON.parse(text)).toEqual(sampleManifest());
  });

  it("that the runtime would refuse is our mistake", () => {
    expect(() => printManifest({ ...sampleManifest(), arena: { bytes: 0, buffers: sampleManifest().arena.buffers } })).toThrow(
      InternalError,
    );
  });

  it("evaluates expressions, and refuses others", () => {
    const symbols = { T: 33, B: 2, S: 3, P: 4 };
    expect(evaluateRpn(["T", 16, "ceildiv", 8, "mul"], symbols)).toBe(24);
    expect(evaluateRpn(["B", "P", "mul", "S", "add"], symbols)).toBe(11);
    expect(() => evaluateRpn(["T", "mul"], symbols)).toThrow("is not an expression that leaves one value");
  });

  it("has a name that files and packages can have", () => {
    expect(engineName("Qwen3 0.6B (Chat)")).toBe("Qwen3-0.6B-Chat");
    expect(engineName("../..")).toBe("model");
    expect(engineName("modèle")).toBe("mode-le");
  });

  it("breaks long lists only", () => {
    expect(printJson({ a: [1, 2], b: "x".repeat(120) }, "")).toBe(`{\n  "a": [1,2],\n  "b": "${"x".repeat(120)}"\n}`);
  });
});

describe("the contents of an engine", () => {
  it("carry tokenizer, template, configuration and terms byte for byte, and no more", async () => {
    const model = join(folder, "model");
    mkdirSync(join(model, "original"), { recursive: true });
    mkdirSync(join(folder, "engine"));
    const names = [
      "LICENSE",
      "chat_template.jinja",
      "config.json",
      "generation_config.json",
      "tokenizer.json",
      "tokenizer_config.json",
    ];
    for (const name of [...names, "model.safetensors", "README.md", ".env"]) {
      writeFileSync(join(model, name), `{"name":\r\n"${name} \u{1f600}"}`);
    }
    expect(await copyModelFiles(model, join(folder, "engine"))).toEqual(names);
    expect(readdirSync(join(folder, "engine")).sort()).toEqual(names);
    for (const name of names) expect(readFileSync(join(folder, "engine", name))).toEqual(readFileSync(join(model, name)));
  });

  it("are refused when the runtime could not read them, naming the model's own file", async () => {
    writeFileSync(join(folder, "tokenizer.json"), '{"model": ');
    await expect(copyModelFiles(folder, folder)).rejects.toThrow(
      `${join(folder, "tokenizer.json")} is not valid JSON: Unexpected end of JSON input; copy it again from the model's source`,
    );
  });

  it("have a hash that changes with them, and with nothing else in the model's folder", () => {
    writeFileSync(join(folder, "tokenizer.json"), "{}");
    const hash = modelFilesHash(folder);
    writeFileSync(join(folder, "README.md"), "a remark");
    expect(modelFilesHash(folder)).toBe(hash);
    writeFileSync(join(folder, "tokenizer.json"), "[]");
    expect(modelFilesHash(folder)).not.toBe(hash);
  });

  it("do not wait for a device that poses as a tokenizer", async () => {
    execFileSync("mkfifo", [join(folder, "tokenizer.json")]);
    await expect(copyModelFiles(folder, folder)).rejects.toThrow(CompileError);
    await expect(copyModelFiles(folder, folder)).rejects.toThrow(
      /tokenizer\.json: expected a file of at most 268435456 bytes, found a device/,
    );
  });

  it("keep kernel sources by name, and no name leaves the folder", async () => {
    await writeKernelSources(
      folder,
      new Map([
        ["rms_norm_64.cpp", "// a\n"],
        ["prelude.cpu.h", "// b\n"],
      ]),
    );
    expect(readdirSync(join(folder, "kernels")).sort()).toEqual(["prelude.cpu.h", "rms_norm_64.cpp"]);
    await expect(writeKernelSources(folder, new Map([["../x.cpp", ""]]))).rejects.toThrow(InternalError);
  });

  it("have hashes by their paths", async () => {
    await writeKernelSources(folder, new Map([["prelude.cpu.h", "abc"]]));
    writeFileSync(join(folder, "LICENSE"), "");
    expect(await hashFiles(folder)).toEqual({
      LICENSE: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
      "kernels/prelude.cpu.h": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    });
  });
});
