import { describe, expect, it } from "vitest";
import { ManifestError } from "../../runtime/errors.ts";
import { type Manifest, type Rpn, STEP_ARRAYS } from "../../runtime/manifest.ts";
import { parseManifest } from "../../runtime/manifest-validator.ts";
import { Mutator } from "./json-mutations.ts";
import { sampleManifest } from "./manifest-sample.ts";

const parse = (m: unknown) => parseManifest(JSON.stringify(m), "tiny/manifest.json");

/** The sample with the value at a path replaced. */
function withValue(path: string, value: unknown): unknown {
  const m: unknown = structuredClone(sampleManifest());
  const keys = path.split(".");
  const last = keys.pop() as string;
  const parent = keys.reduce((at, key) => (at as Record<string, unknown>)[key], m) as Record<string, unknown>;
  if (value === undefined) delete parent[last];
  else parent[last] = value;
  return m;
}

describe("a manifest", () => {
  it("reads back as it was written", () => {
    expect(parse(sampleManifest())).toEqual(sampleManifest());
  });

  it("may have no library yet", () => {
    expect(parse(withValue("library", null)).library).toBeNull();
  });

  it("of another format is refused with the format that this version reads", () => {
    expect(() => parse({ format: 3, whatever: true })).toThrow(
      "tiny/manifest.json: this engine's format is 3; this version of ingot reads format 2: update ingot, or compile the model again to write a new engine",
    );
    // Kernels said their chunk and scratch without `launch` there.
    expect(() => parse({ format: 1, kernels: [{ name: "copy", chunk: 1 }] })).toThrow(
      "tiny/manifest.json: this engine's format is 1; this version of ingot reads format 2: compile the model again to write a new engine",
    );
  });

  it("that is not JSON is refused by name", () => {
    expect(() => parseManifest("{", "tiny/manifest.json")).toThrow(
      /^tiny\/manifest\.json is not JSON: .*compile the model again/,
    );
    expect(() => parseManifest("[]", "tiny/manifest.json")).toThrow("the top level: expected an object, found a list of 0");
  });

  const cases: readonly [path: string, value: unknown, message: string][] = [
    ["model.hiddenSize", -3, "model.hiddenSize: expected a whole number from 1 to 1048576, found -3"],
    ["model.hiddenSize", 64.5, "model.hiddenSize: expected a whole number from 1 to 1048576, found 64.5"],
    ["model.hiddenSize", "64", 'model.hiddenSize: expected a whole number from 1 to 1048576, found "64"'],
    ["model.hiddenSize", undefined, "model.hiddenSize: expected a value, found nothing"],
    ["model.numKvHeads", 3, "model.numKvHeads: expected a divisor of numHeads (4), found 3"],
    ["model.extra", 1, "model: expected only the fields architecture, hiddenSize,"],
    ["name", "../evil", 'name: expected a name of letters, digits, dots, dashes and underscores, found "../evil"'],
    ["weights.file", "../weights.bin", "weights.file: expected a file name without folders"],
    ["weights.file", ".hidden", "weights.file: expected a file name without folders"],
    ["library.file", "/lib/evil.so", "library.file: expected a file name, in build/ or beside the manifest"],
    ["library.file", "build/../evil.so", "library.file: expected a file name, in build/ or beside the manifest"],
    [
      "files",
      { "../tokenizer.json": "0".repeat(64) },
      'files: expected files by name, alone or in kernels/, found a field "../t',
    ],
    [
      "files",
      { "kernels/../x": "0".repeat(64) },
      'files: expected files by name, alone or in kernels/, found a field "kernels/../x"',
    ],
    ["files", { "/etc/passwd": "0".repeat(64) }, "files: expected files by name"],
    ["files", ["tokenizer.json"], "files: expected an object, found a list of 1"],
    ["files.LICENSE", "xyz", 'files.LICENSE: expected a sha256 in hexadecimal, found "xyz"'],
    ["kernels.0.source", "kernels/../../x.cpp", "kernels[0].source: expected kernels/ and a file name"],
    ["kernels.0.name", "system; rm", "kernels[0].name: expected a C identifier"],
    ["kernels.1.name", "embedding_bf16_64", "kernels[1].name: expected a name of its own, found embedding_bf16_64"],
    ["weights.sha256", "xyz", "weights.sha256: expected a sha256 in hexadecimal"],
    ["weights.bytes", 86017, "weights.bytes: expected a multiple of 4096, found 86017"],
    ["weights.bytes", 65536, "weights.tensors[1].bytes: expected an end within the file's 65536 bytes, found 65792"],
    ["weights.tensors.0.bytes", 64000, "weights.tensors[0].bytes: expected 65536"],
    ["weights.tensors.1.bytes", 255, "weights.tensors[1].bytes: expected 256, from shape and dtype, found 255"],
    [
      "weights.tensors.2.offset",
      65536,
      "weights.tensors[2].offset: expected at least 65792, the end of the tensor before it, found 65536",
    ],
    ["weights.tensors.2.offset", 69633, "weights.tensors[2].offset: expected a multiple of 4096, found 69633"],
    ["weights.tensors.1.shape", [2 ** 31, 2 ** 31, 2 ** 31], "weights.tensors[1].bytes: expected"],
    [
      "weights.tensors.0.shape",
      [500, 64, 1, 1],
      "weights.tensors[0]: expected a floating-point matrix, or a stack of them, for layout panel16, found bf16(500, 64, 1, 1)",
    ],
    ["weights.tensors.2.shape", [3, 40, 24], "weights.tensors[2].bytes: expected 12288, from shape, dtype and ways, found 4096"],
    ["weights.tensors.2.shape", [2, 39, 24], "weights.tensors[2].ways: expected a divisor of 39 rows, found 2"],
    ["kvCache.blockSize", 24, "kvCache.blockSize: expected a multiple of 16, found 24"],
    ["kvCache.bytesPerBlock", 64, "kvCache.bytesPerBlock: expected at least 4096, found 64"],
    ["kvCache.numLayers", 3, "kvCache.numLayers: expected an index of at most 2, found 3"],
    ["kvCache.rebuiltBeyond", null, "kvCache.rebuiltBeyond: expected a list, found null"],
    ["kvCache.rebuiltBeyond", [0], "kvCache.rebuiltBeyond[0]: expected a whole number from 1 to 67108864, found 0"],
    ["kvCache.rebuiltBeyond", [64, 64], "kvCache.rebuiltBeyond[1]: expected more than 64, the length before it, found 64"],
    ["arena.bytes", 100, "arena.buffers[0].bytes: expected an end within the arena's 100 bytes, found 65536"],
    ["arena.buffers.0.bytes", 1024, "arena.buffers[0].bytes: expected at least 65536, for its rows, cols and layout, found 1024"],
    ["arena.buffers.1.offset", 65540, "arena.buffers[1].offset: expected a multiple of 64, found 65540"],
    ["limits.maxNumSeqs", 64, "arena.buffers[2].bytes: expected at least 128000"],
    ["programs.0.steps.0.kernel", 2, "programs[0].steps[0].kernel: expected an index of at most 1, found 2"],
    ["programs.0.steps.0.args.1.tensor", 4, "programs[0].steps[0].args[1].tensor: expected an index of at most 3, found 4"],
    ["programs.0.steps.0.args.2.buffer", 3, "programs[0].steps[0].args[2].buffer: expected an index of at most 2, found 3"],
    ["programs.0.steps.1.args.0.kv", 2, "programs[0].steps[1].args[0].kv: expected an index of at most 1, found 2"],
    ["programs.0.steps.0.args.0.array", "passwords", "programs[0].steps[0].args[0].array: expected one of"],
    [
      "programs.0.steps.0.args.0",
      { buffer: 0, tensor: 0 },
      "programs[0].steps[0].args[0]: expected one of buffer, tensor, kv, array, symbol",
    ],
    ["programs.0.steps.0.grid", ["T", "mul"], "programs[0].steps[0].grid[1]: expected two values before an operator, found mul"],
    [
      "programs.0.steps.0.grid",
      ["T", "S"],
      "programs[0].steps[0].grid: expected an expression that leaves one value, found 2 items",
    ],
    ["programs.0.steps.0.grid", ["T", "S", "ceildiv"], "programs[0].steps[0].grid[2]: expected a divisor of at least 1"],
    ["programs.0.steps.0.grid", ["T", 2 ** 40, "mul"], "programs[0].steps[0].grid[2]: expected a value of at most 1099511627776"],
    ["programs.0.steps.0.grid", [], "programs[0].steps[0].grid: expected a list of 1 to 64 items, found 0 items"],
    ["kernels.0.launch.chunk", 0, "kernels[0].launch.chunk: expected a whole number from 1"],
    ["programs.0.taps.0.step", 2, "programs[0].taps[0].step: expected an index of at most 1, found 2"],
    ["programs.0.taps.0.buffer", 3, "programs[0].taps[0].buffer: expected an index of at most 2, found 3"],
    ["programs.1.maxTokens", 8, "programs[1].maxTokens: expected more than 8, the program before it, found 8"],
    ["programs.1.maxTokens", 128, "programs[1].maxTokens: expected at least limits.maxNumBatchedTokens (256), found 128"],
    ["programs", [], "programs: expected a list of 1 to 64 items, found 0 items"],
    ["provenance.checkpoint", "latest", "provenance.checkpoint: expected a sha256 in hexadecimal, or random: and a seed"],
    [
      "provenance.options.nested",
      {},
      "provenance.options.nested: expected a short string, a finite number, true or false, found an object",
    ],
  ];
  it.each(cases)("with %s = %j is refused, naming the place", (path, value, message) => {
    const attempt = () => parse(withValue(path, value));
    expect(attempt).toThrow(ManifestError);
    expect(attempt).toThrow(message);
    expect(attempt).toThrow("compile the model again");
  });

  it("damaged in any way is refused or safe to run (35,000 mutations)", () => {
    const mutator = new Mutator(20250101);
    const sample = sampleManifest();
    const bytes = new TextEncoder().encode(JSON.stringify(sample));
    const decoder = new TextDecoder();
    let refused = 0;
    for (let i = 0; i < 35_000; i++) {
      const text = i % 4 === 0 ? decoder.decode(mutator.bytes(bytes)) : (JSON.stringify(mutator.structure(sample)) ?? "");
      try {
        assertSafe(parseManifest(text, "fuzz"));
      } catch (error) {
        if (!(error instanceof ManifestError)) throw new Error(`mutation ${i}: ${text.slice(0, 2000)}`, { cause: error });
        refused++;
      }
    }
    // Some damage is harmless (a nudged seed); most is not.
    expect(refused).toBeGreaterThan(17_000);
    expect(refused).toBeLessThan(35_000);
  });
});

/** Says once more, in other words, what a runtime relies on. */
function assertSafe(m: Manifest): void {
  const { maxNumBatchedTokens: T, maxNumSeqs: B } = m.limits;
  const symbols = { T, B, S: T, P: Math.ceil(m.limits.maxModelLen / m.kvCache.blockSize) };
  for (const t of m.weights.tensors) claim(t.offset >= 0 && t.offset % 4096 === 0 && t.offset + t.bytes <= m.weights.bytes);
  for (const b of m.arena.buffers) claim(b.offset >= 0 && b.offset + b.bytes <= m.arena.bytes && b.bytes > 0);
  for (const path of [m.weights.file, m.library?.file ?? "x", ...m.kernels.map((k) => k.source), ...Object.keys(m.files)]) {
    claim(!path.includes("..") || (!path.includes("/..") && !path.startsWith("..")));
    claim(!path.startsWith("/") && path.split("/").length <= 2);
  }
  for (const p of m.programs) {
    for (const s of p.steps) {
      const { launch } = m.kernels[s.kernel]!;
      claim("threads" in launch ? launch.threads <= 1024 : launch.chunk >= 1);
      const grid = run(s.grid, symbols);
      claim(Number.isInteger(grid) && grid >= 0 && grid <= 2 ** 40);
      claim(run(s.grid, { T: 0, B: 0, S: 0, P: 0 }) >= 0);
      for (const a of s.args) {
        if ("buffer" in a) claim(m.arena.buffers[a.buffer] !== undefined);
        else if ("tensor" in a) claim(m.weights.tensors[a.tensor] !== undefined);
        else if ("kv" in a) claim(a.kv >= 0 && a.kv < m.kvCache.numLayers);
        else if ("array" in a) claim(STEP_ARRAYS.includes(a.array));
        else claim(a.symbol in symbols);
      }
    }
    for (const t of p.taps) claim(p.steps[t.step] !== undefined && m.arena.buffers[t.buffer] !== undefined);
  }
}

function run(rpn: Rpn, symbols: Readonly<Record<string, number>>): number {
  const stack: number[] = [];
  for (const token of rpn) {
    if (typeof token === "number") stack.push(token);
    else if (token in symbols) stack.push(symbols[token] as number);
    else {
      const [a, b] = stack.splice(-2) as [number, number];
      stack.push(token === "mul" ? a * b : token === "add" ? a + b : Math.ceil(a / b));
    }
  }
  claim(stack.length === 1);
  return stack[0] as number;
}

function claim(condition: boolean): void {
  if (!condition) throw new Error("an unsafe manifest was accepted");
}
