import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { CompileError, UnsupportedError } from "../../../compiler/errors.ts";
import { FileHashes } from "../../../compiler/weights/file-hashes.ts";
import { type Checkpoint, openCheckpoint } from "../../../compiler/weights/safetensors.ts";
import { headerLength, parseHeader } from "../../../compiler/weights/safetensors-header.ts";
import { Mutator } from "../../runtime/json-mutations.ts";
import { weightValues } from "../../support/weight-values.ts";
import { headerOf, safetensorsFile, zeros } from "./safetensors-file.ts";

const GOLDEN = "../shared/golden";
const a = zeros("a.weight", "F32", [3, 4]);
const b = zeros("b.weight", "BF16", [5]);

let folder: string;
let opened: Checkpoint[] = [];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ingot-safetensors-"));
});
afterEach(() => {
  for (const checkpoint of opened) checkpoint.close();
  opened = [];
  rmSync(folder, { recursive: true });
});

const put = (name: string, content: string | Uint8Array) => writeFileSync(join(folder, name), content);
function reopen(path = folder): Checkpoint {
  const checkpoint = openCheckpoint(path);
  opened.push(checkpoint);
  return checkpoint;
}

describe("a checkpoint", () => {
  it("finds every tensor of a single file", async () => {
    const data = new Uint8Array(new Float32Array([1, 2, 3, 4, 5, 6]).buffer);
    put("model.safetensors", safetensorsFile([b, { name: "c", dtype: "F32", shape: [2, 3], data }]));
    const checkpoint = reopen();
    expect(checkpoint.list().map((t) => t.name)).toEqual(["b.weight", "c"]);
    expect(checkpoint.find("c")).toEqual({ dtype: "f32", shape: [2, 3] });
    expect(checkpoint.find("d")).toBeUndefined();
    const rows = new Uint8Array(8);
    await checkpoint.read("c", 2, rows);
    expect([...new Float32Array(rows.buffer)]).toEqual([3, 4]);
    await expect(checkpoint.read("c", 5, rows)).rejects.toThrow("asked for bytes 20 … 28 of 24");
  });

  it("names the nearest tensors when one is missing", () => {
    put("model.safetensors", safetensorsFile([zeros("model.layers.0.mlp.up.weight", "F32", [1])]));
    expect(() => reopen().tensor("layers.0.mlp.up.weight")).toThrow(
      /there is no tensor layers\.0\.mlp\.up\.weight among 1 \(there is model\.layers\.0\.mlp\.up\.weight\)/,
    );
  });

  it("refuses weights in a dtype that is not packed, by name", () => {
    put("model.safetensors", safetensorsFile([zeros("q", "I32", [8])]));
    expect(() => reopen().find("q")).toThrow(UnsupportedError);
    expect(() => reopen().find("q")).toThrow("tensor q is stored as I32; this version reads weights in F32, F16, BF16");
  });

  it("follows the links of a Hugging Face cache", () => {
    put("blob", safetensorsFile([a]));
    symlinkSync("blob", join(folder, "model.safetensors"));
    expect(
      reopen()
        .list()
        .map((t) => t.name),
    ).toEqual(["a.weight"]);
  });

  it("without weights says what was expected and found", () => {
    put("pytorch_model.bin", "");
    expect(() => reopen()).toThrow(
      /expected model\.safetensors or model\.safetensors\.index\.json, found pytorch_model\.bin; download/,
    );
  });

  it("hashes the same as its copy, and differently with another config, name, shape or value", async () => {
    const value = (x: number) => ({ ...a, data: new Uint8Array(new Float32Array(12).fill(x).buffer) });
    const hashes = new FileHashes(join(folder, "hashes"));
    const hashOf = (tensors: Parameters<typeof safetensorsFile>[0], config = "{}") => {
      put("model.safetensors", safetensorsFile(tensors));
      return reopen().hash(config, (path) => hashes.of(path));
    };
    const first = await hashOf([value(1), b]);
    expect(first).toMatch(/^[0-9a-f]{64}$/);
    expect(await hashOf([value(1), b])).toBe(first);
    const last = value(1);
    last.data[last.data.length - 1]! ^= 1;
    const others = [
      await hashOf([last, b]),
      await hashOf([value(1), b], '{"rope_theta":1}'),
      await hashOf([{ ...value(1), name: "c" }, b]),
      await hashOf([{ ...value(1), shape: [4, 3] }, b]),
      await hashOf([value(1)]),
    ];
    expect(new Set([first, ...others]).size).toBe(6);
  });

  it("is read whole once: an unchanged file's hash is remembered, a changed or damaged note is not believed", async () => {
    put("model.safetensors", safetensorsFile([a, b]));
    const path = join(folder, "model.safetensors");
    let reads = 0;
    const hashes = new FileHashes(join(folder, "hashes"), (done, total) => {
      if (done === total) reads++;
    });
    const first = await hashes.of(path);
    expect([await hashes.of(path), reads]).toEqual([first, 1]);
    const [note] = readdirSync(join(folder, "hashes"));
    writeFileSync(join(folder, "hashes", note!), "nonsense");
    expect([await hashes.of(path), reads]).toEqual([first, 2]);
    const { atime, mtime } = statSync(path);
    const bytes = safetensorsFile([a, b]);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(path, bytes);
    utimesSync(path, atime, mtime);
    expect(await hashes.of(path)).not.toBe(first);
    expect(reads).toBe(3);
  });

  it("cut short is refused with the numbers", () => {
    put("model.safetensors", safetensorsFile([a, b]));
    truncateSync(join(folder, "model.safetensors"), safetensorsFile([a, b]).length - 1);
    expect(() => reopen()).toThrow(
      /tensor "b\.weight" ends at byte 58 of the data, but the file holds 57 \(truncated\?\); download the file again/,
    );
  });

  it("cut short while it is read is noticed", async () => {
    put("model.safetensors", safetensorsFile([a]));
    const checkpoint = reopen();
    truncateSync(join(folder, "model.safetensors"), 100);
    await expect(checkpoint.read("a.weight", 0, new Uint8Array(48))).rejects.toThrow(
      /became shorter while it was read \(tensor a\.weight\)/,
    );
  });
});

describe("an index", () => {
  const index = (map: unknown) => put("model.safetensors.index.json", JSON.stringify({ metadata: {}, weight_map: map }));

  it("that names a tensor its file does not hold is refused", () => {
    put("model-1.safetensors", safetensorsFile([a]));
    index({ "a.weight": "model-1.safetensors", "c.weight": "model-1.safetensors" });
    expect(() => reopen()).toThrow(
      /says tensor c\.weight is in model-1\.safetensors, which does not hold it; download the model again/,
    );
  });

  it("joins its shards", () => {
    put("model-1.safetensors", safetensorsFile([a]));
    put("model-2.safetensors", safetensorsFile([b]));
    index({ "a.weight": "model-1.safetensors", "b.weight": "model-2.safetensors" });
    expect(reopen().tensor("b.weight").file).toBe("model-2.safetensors");
  });

  it("naming a missing shard is refused by its name", () => {
    put("model-1.safetensors", safetensorsFile([a]));
    index({ "a.weight": "model-1.safetensors", "b.weight": "model-2.safetensors" });
    expect(() => reopen()).toThrow("names model-2.safetensors, which is not there; download the model again");
  });

  it.each(["../secret", "/etc/passwd", "sub/model.safetensors", "..", "", ".hidden", 7])(
    "naming a file outside the folder (%j) is refused",
    (file) => {
      index({ "a.weight": file });
      expect(() => reopen()).toThrow(
        `says tensor a.weight is in ${JSON.stringify(file)}; expected the name of a file in this folder`,
      );
    },
  );

  it.each([[null], [[]], ["x"], [{}]])("whose weight_map is %j is refused", (map) => {
    index(map);
    expect(() => reopen()).toThrow(CompileError);
  });

  it("is refused when two shards store the same tensor", () => {
    put("model-1.safetensors", safetensorsFile([a]));
    put("model-2.safetensors", safetensorsFile([a, b]));
    index({ "a.weight": "model-1.safetensors", "b.weight": "model-2.safetensors" });
    expect(() => reopen()).toThrow("tensor a.weight is stored twice, in model-1.safetensors and in model-2.safetensors");
  });
});

describe("a header", () => {
  const parse = (file: Uint8Array) => {
    const length = headerLength(file.subarray(0, 8), file.length, "m.safetensors");
    return parseHeader(file.subarray(8, 8 + length), file.length, "m.safetensors");
  };
  const entry = (dtype: string, shape: unknown, offsets: unknown) => ({ dtype, shape, data_offsets: offsets });

  it("gives tensors in the order of their data, empty ones first", () => {
    const header = { z: entry("F32", [2], [0, 8]), empty: entry("F32", [0, 9], [0, 0]), __metadata__: { format: "pt" } };
    expect(parse(safetensorsFile([zeros("z", "F32", [2])], header)).map((t) => t.name)).toEqual(["empty", "z"]);
  });

  it.each([
    [7n, /m\.safetensors: its header is not JSON/],
    [2n ** 62n, /says its header has 4611686018427387904 bytes, but the file has only \d+ in all/],
    [2n ** 64n - 1n, /says its header has 18446744073709551615 bytes/],
    [0n, /must start with "\{", found ""/],
  ])("that lies about its length (%s) is refused before anything is allocated", (length, message) => {
    expect(() => parse(safetensorsFile([a], headerOf([a]), length))).toThrow(message);
  });

  it("longer than any published one is refused", () => {
    const prefix = new Uint8Array(8);
    new DataView(prefix.buffer).setBigUint64(0, 2n ** 30n, true);
    expect(() => headerLength(prefix, 2 ** 40, "m")).toThrow("says its header has 1073741824 bytes; expected at most 33554432");
  });

  it.each<[string, unknown, string]>([
    [
      "overlapping tensors",
      { x: entry("F32", [12], [0, 48]), y: entry("F32", [2], [40, 48]) },
      'tensor "y" begins at byte 40 of the data, inside the tensor before it (ends at 48)',
    ],
    [
      "a hole",
      { x: entry("F32", [1], [0, 4]), y: entry("F32", [10], [8, 48]) },
      'bytes 4 … 8 of the data, before tensor "y", belong to no tensor',
    ],
    [
      "bytes after the last tensor",
      { x: entry("F32", [11], [0, 44]) },
      "its tensors end at byte 44 of the data, but the file holds 48",
    ],
    [
      "a shape that needs other bytes",
      { x: entry("F32", [13], [0, 48]) },
      'tensor "x", F32 (13), needs 52 bytes, but its data_offsets hold 48',
    ],
    ["a product beyond all numbers", { x: entry("F32", [2 ** 53 - 1, 2 ** 53 - 1, 2 ** 53 - 1], [0, 48]) }, "needs"],
    ["an unknown dtype", { x: entry("F4", [12], [0, 48]) }, 'tensor "x" has dtype "F4"; expected one of F64 F32'],
    ["a dtype of the prototype", { x: entry("constructor", [12], [0, 48]) }, 'tensor "x" has dtype "constructor"'],
    ["a negative extent", { x: entry("F32", [-12], [0, 48]) }, 'tensor "x" has shape [-12]'],
    ["a fractional extent", { x: entry("F32", [1.5, 8], [0, 48]) }, 'tensor "x" has shape [1.5,8]'],
    [
      "reversed offsets",
      { x: entry("F32", [12], [48, 0]) },
      'tensor "x" has data_offsets [48,0]; expected [begin, end] with begin ≤ end',
    ],
    ["a missing field", { x: { dtype: "F32", shape: [12] } }, 'tensor "x" has data_offsets nothing'],
    ["an unknown field", { x: { ...entry("F32", [12], [0, 48]), strides: [1] } }, 'tensor "x" has an unknown field "strides"'],
    [
      "metadata that is no text",
      { __metadata__: { n: 1 }, x: entry("F32", [12], [0, 48]) },
      "its __metadata__ must map names to strings",
    ],
    ["a list", [1], 'its header must start with "{", found "[1]"'],
  ])("with %s is refused", (_, header, message) => {
    expect(() => parse(safetensorsFile([a], header))).toThrow(message);
    expect(() => parse(safetensorsFile([a], header))).toThrow(CompileError);
  });

  it("naming a tensor twice is refused, also in another spelling", () => {
    const one = JSON.stringify(entry("F32", [12], [0, 48]));
    expect(() => parse(safetensorsFile([a], `{"x":${one},"x":${one}}`))).toThrow('its header names "x" twice');
    expect(() => parse(safetensorsFile([a], `{"x":${one}, "\\u0078" :${one}}`))).toThrow('its header names "x" twice');
    expect(() => parse(safetensorsFile([a], `{"x":{"shape":[1],${one.slice(1)}}`))).toThrow('its header names "shape" twice');
    expect(() => parse(safetensorsFile([a], `{"\\"x":${one}}`))).not.toThrow();
  });

  it("that is not UTF-8 is refused", () => {
    expect(() => parseHeader(Uint8Array.from([0x7b, 0x22, 0xff, 0x22, 0x7d]), 13, "m")).toThrow("m: its header is not UTF-8");
  });

  it("damaged in any way is refused or covers the file without overlap (70,000 mutations)", () => {
    const mutator = new Mutator(20250102);
    const tensors = [a, b, zeros("c", "F16", [2, 3, 2]), zeros("empty", "F32", [0])];
    const header = { __metadata__: { format: "pt" }, ...headerOf(tensors) };
    const good = safetensorsFile(tensors, header);
    const headerBytes = good.length - tensors.reduce((sum, t) => sum + t.data.length, 0);
    let refused = 0;
    for (let i = 0; i < 70_000; i++) {
      const kind = i % 4;
      let file: Uint8Array;
      if (kind === 0) file = Uint8Array.from([...mutator.bytes(good.subarray(0, headerBytes)), ...good.subarray(headerBytes)]);
      else if (kind === 1) file = mutator.bytes(good);
      else if (kind === 2)
        file = safetensorsFile(tensors, header, BigInt(mutator.pick([0, 1, 2 ** 31, 2 ** 32, 2 ** 52, mutator.integer(0, 400)])));
      else file = safetensorsFile(tensors, JSON.stringify(mutator.structure(header)) ?? "");
      try {
        const parsed = parse(file);
        const begin = 8 + headerLength(file, file.length, "m");
        const end = parsed.reduce((at, t) => {
          if (t.offset !== at || t.bytes < 0) throw new Error(`accepted ${JSON.stringify(parsed)}`);
          return at + t.bytes;
        }, begin);
        if (end !== file.length) throw new Error(`accepted ${JSON.stringify(parsed)}`);
      } catch (error) {
        if (!(error instanceof CompileError))
          throw new Error(`mutation ${i}: ${Buffer.from(file).toString("latin1")}`, { cause: error });
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(35_000);
    expect(refused).toBeLessThan(70_000);
  });
});

describe("the reference models", () => {
  const isWeights = (file: string) => file.startsWith("model") && file.endsWith(".safetensors");
  const families = readdirSync(GOLDEN, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && readdirSync(join(GOLDEN, entry.name)).some(isWeights))
    .map((entry) => entry.name);

  it.each(families)("%s reads as a naive reading does", async (family) => {
    const checkpoint = reopen(join(GOLDEN, family));
    let tensors = 0;
    for (const file of readdirSync(join(GOLDEN, family)).filter(isWeights)) {
      const bytes = readFileSync(join(GOLDEN, family, file));
      const length = Number(bytes.readBigUInt64LE(0));
      const header = JSON.parse(bytes.toString("utf8", 8, 8 + length)) as Record<
        string,
        { dtype: string; shape: number[]; data_offsets: [number, number] }
      >;
      for (const [name, entry] of Object.entries(header)) {
        if (name === "__metadata__") continue;
        const {
          dtype,
          shape,
          data_offsets: [from, to],
        } = entry;
        tensors++;
        const info = checkpoint.find(name);
        expect(info?.shape).toEqual(shape);
        const stored = Uint8Array.from(bytes.subarray(8 + length + from, 8 + length + to));
        const naive =
          dtype === "F32"
            ? new Float32Array(stored.buffer)
            : Float32Array.from(new Uint16Array(stored.buffer), dtype === "BF16" ? bf16 : f16);
        const read = await weightValues(checkpoint, name);
        expect(Buffer.compare(Buffer.from(read.buffer), Buffer.from(naive.buffer))).toBe(0);
      }
    }
    expect(tensors).toBe(checkpoint.list().length);
  });
});

const bf16 = (bits: number) => new Float32Array(new Uint32Array([bits << 16]).buffer)[0] as number;
const f16 = (bits: number) => {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  return sign * (exponent === 0 ? (bits & 1023) * 2 ** -24 : (1 + (bits & 1023) / 1024) * 2 ** (exponent - 15));
};
