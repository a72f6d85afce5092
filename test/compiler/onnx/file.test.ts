import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import proto from "onnx-proto";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Graph } from "../../../compiler/ir/graph.ts";
import { writeOnnx } from "../../../compiler/onnx/file.ts";
import { onnxModel } from "../../../compiler/onnx/model.ts";
import { RandomWeights } from "../../../compiler/weights/random.ts";
import type { WeightSource } from "../../../compiler/weights/source.ts";
import { denseGraph, smallDense } from "../../support/dense-graph.ts";
import { openOnnx, outputOf } from "../../support/onnx.ts";

const graph = denseGraph({ ...smallDense, vocab: 20_000, weightDtype: "bf16" });
const model = onnxModel(graph, { name: "small", version: "1.2.3", metadata: { architecture: "Small" } });
/** Random bf16 for all that a graph reads. */
function randomSource(g: Graph): WeightSource {
  const shapes = g
    .liveNodes()
    .flatMap((n) => (n.op === "weight" ? [[n.attrs.name, n.type.shape as readonly number[]] as const] : []));
  return new RandomWeights(1, "bf16", new Map(shapes));
}
const source = randomSource(graph);
const weights = { source, name: "small" };
const batch = [[5, 4, 3, 2, 1]];

let place: string;
let file: string;
beforeEach(() => {
  place = mkdtempSync(join(tmpdir(), "ingot-onnx-"));
  file = join(place, "small.onnx");
});
afterEach(() => rmSync(place, { recursive: true }));

const read = (path: string) => proto.onnx.ModelProto.decode(readFileSync(path));
const initializers = (path: string) => read(path).graph!.initializer!.filter((t) => source.find(t.name!));

describe("an ONNX file", () => {
  it("holds the weights under their names, in their dtypes", async () => {
    expect(await writeOnnx(file, model, { weights })).toEqual({ file, data: null, bytes: statSync(file).size });
    const table = initializers(file).find((t) => t.name === "embed")!;
    const expected = new Uint8Array(20_000 * 64 * 2);
    await source.read("embed", 0, expected);
    expect(Buffer.compare(table.rawData!, expected)).toBe(0);
    expect([table.dataType, table.dims]).toEqual([proto.onnx.TensorProto.DataType.BFLOAT16, [20_000, 64]].map(asLongs));
    expect(readdirSync(place)).toEqual(["small.onnx"]);
  });

  it("says who made it, and where each node comes from", async () => {
    await writeOnnx(file, model, { weights });
    const { producerName, producerVersion, metadataProps, graph: g } = read(file);
    expect({ producerName, producerVersion }).toEqual({ producerName: "ingot", producerVersion: "1.2.3" });
    expect(metadataProps).toMatchObject([{ key: "architecture", value: "Small" }]);
    expect(g!.node!.find((n) => n.opType === "MatMul")).toMatchObject({
      name: "linear/MatMul",
      docString: expect.stringMatching(/^support\/dense-graph\.ts:\d+$/),
    });
  });

  it("over the limit has its weights beside it, on pages, and gives the same logits", async () => {
    await writeOnnx(file, model, { weights });
    const expected = await outputOf(await openOnnx(file), batch);
    const other = join(place, "folder", "other.onnx");
    const { data, bytes } = await writeOnnx(other, model, { weights, embedBytes: 2 ** 20 });
    expect(data).toBe(`${other}.data`);
    expect(bytes).toBe(statSync(other).size + statSync(data!).size);
    expect(statSync(other).size).toBeLessThan(100_000);
    for (const tensor of initializers(other)) {
      const where = Object.fromEntries(tensor.externalData!.map(({ key, value }) => [key, value]));
      expect(where.location).toBe("other.onnx.data");
      expect(Number(where.offset) % 4096).toBe(0);
    }
    expect(await outputOf(await openOnnx(other), batch)).toEqual(expected);
    expect(readdirSync(join(place, "folder")).sort()).toEqual(["other.onnx", "other.onnx.data"]);
  });

  it("without weights refers to where they would be", async () => {
    await writeOnnx(file, model, { weights, embedBytes: 0 });
    const whole = readFileSync(file);
    expect(await writeOnnx(file, model, { weights: null })).toMatchObject({ data: null, bytes: whole.length });
    expect(readFileSync(file).equals(whole)).toBe(true);
  });

  it("is written through windows, whatever the size of a tensor", async () => {
    const wide = denseGraph({ ...smallDense, vocab: 200_000, weightDtype: "bf16" });
    const all = randomSource(wide);
    let largest = 0;
    const watched: WeightSource = {
      list: () => all.list(),
      find: (name) => all.find(name),
      read(name, begin, into) {
        largest = Math.max(largest, into.length);
        return all.read(name, begin, into);
      },
    };
    const facts = { name: "wide", version: "0", metadata: {} };
    await writeOnnx(file, onnxModel(wide, facts), { weights: { source: watched, name: "wide" } });
    expect(statSync(file).size).toBeGreaterThan(2 * 200_000 * 64 * 2);
    expect(largest).toBeLessThanOrEqual(4 * 2 ** 20);
  });
});

describe("a file that cannot be written", () => {
  it("leaves what was there before, and nothing half done", async () => {
    writeFileSync(file, "before");
    const broken: WeightSource = {
      list: () => source.list(),
      find: (name) => source.find(name),
      read: (name, begin, into) =>
        name === "norm" ? Promise.reject(new Error("the disk went away")) : source.read(name, begin, into),
    };
    for (const embedBytes of [0, undefined]) {
      await expect(writeOnnx(file, model, { weights: { source: broken, name: "small" }, embedBytes })).rejects.toThrow(
        "went away",
      );
      expect(readFileSync(file, "utf8")).toBe("before");
      expect(readdirSync(place)).toEqual(["small.onnx"]);
    }
  });

  it("is refused with the reason", async () => {
    writeFileSync(file, "");
    mkdirSync(join(place, "folder"));
    await expect(writeOnnx(join(place, "folder"), model, { weights })).rejects.toThrow(
      /folder is a folder; expected the name of a file/,
    );
    await expect(writeOnnx(join(file, "x.onnx"), model, { weights })).rejects.toThrow(
      /x\.onnx cannot be written: .*; choose another place with --onnx/,
    );
    const missing = {
      source: { ...weights.source, list: () => [], find: () => undefined },
      name: "a checkpoint",
    } as typeof weights;
    await expect(writeOnnx(join(place, "y.onnx"), model, { weights: missing })).rejects.toThrow(
      /a checkpoint: there is no tensor embed/,
    );
    expect(existsSync(join(place, "y.onnx"))).toBe(false);
  });
});

/** int64 fields are read as `Long`s. */
const asLongs = (value: unknown) => (Array.isArray(value) ? value.map((low) => expect.objectContaining({ low })) : value);
