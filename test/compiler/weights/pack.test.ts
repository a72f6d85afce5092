import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { CompileError } from "../../../compiler/errors.ts";
import { Graph } from "../../../compiler/ir/graph.ts";
import type { Node } from "../../../compiler/ir/ops.ts";
import { converter } from "../../../compiler/weights/convert.ts";
import { type PackRequest, type PlannedTensor, planWeights, printNames } from "../../../compiler/weights/layout.ts";
import { packWeights, streamWeights } from "../../../compiler/weights/pack.ts";
import { LANES, paddedK, panel16Bytes, panelBytes, unpackPanel } from "../../../compiler/weights/panel.ts";
import { RandomWeights } from "../../../compiler/weights/random.ts";
import { weightRows } from "../../../compiler/weights/rows.ts";
import { elementsOf, type WeightDType, type WeightSource } from "../../../compiler/weights/source.ts";

import { PackedWeightsReader } from "../../../compiler/weights/unpack.ts";
import { sampleManifest } from "../../runtime/manifest-sample.ts";
import { expressionValue, weightValues } from "../../support/weight-values.ts";

const BYTES = { f32: 4, f16: 2, bf16: 2 } as const;
const DTYPES = ["f32", "f16", "bf16"] as const;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ingot-pack-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

const randomSource = (dtype: WeightDType, shapes: Record<string, readonly number[]>) =>
  new RandomWeights(3, dtype, new Map(Object.entries(shapes)));

const g = new Graph({ maxModelLen: 1, maxNumSeqs: 1, maxNumBatchedTokens: 1, blockSize: 1 });

/** An expression packed as it is. */
const requestOf = (name: string, node: Node, layout: "rows" | "panel16", ways: 1 | 2): PackRequest => ({
  name,
  rows: weightRows(node),
  dtype: node.type.dtype as WeightDType,
  layout,
  ways,
  readShare: 1,
});

/** Checkpoint tensors joined along axis 0. */
function request(
  dtype: WeightDType,
  layout: "rows" | "panel16",
  ways: 1 | 2,
  sources: Record<string, readonly number[]>,
): PackRequest {
  const parts = Object.entries(sources).map(([name, shape]) => g.weight(name, { dtype, shape }));
  return requestOf(Object.keys(sources).join("+"), parts.length === 1 ? parts[0]! : g.concat(parts, 0), layout, ways);
}

/** The sources joined and converted, whole in memory: what unpacking must give. */
async function joined(source: WeightSource, { rows, dtype }: PackRequest): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for (const { name, shape } of rows.segments.map((s) => s.source)) {
    const info = source.find(name) as NonNullable<ReturnType<WeightSource["find"]>>;
    const stored = new Uint8Array(elementsOf(shape) * BYTES[info.dtype]);
    await source.read(name, 0, stored);
    const part = new Uint8Array(elementsOf(shape) * BYTES[dtype]);
    converter(info.dtype, dtype)(stored, part, elementsOf(shape));
    parts.push(part);
  }
  return Buffer.concat(parts);
}

/** Row-major bytes of a packed tensor, and whether all its padding is zero. */
function unpack(
  { entry, request: { dtype, ways } }: PlannedTensor,
  file: Uint8Array,
): { rows: Uint8Array; isPaddingZero: boolean } {
  const packed = Uint8Array.from(file.subarray(entry.offset, entry.offset + entry.bytes));
  if (entry.layout === "rows") return { rows: packed, isPaddingZero: true };
  const [k, total, matrices = 1] = entry.shape.toReversed() as [number, number, number?];
  const n = total / ways;
  const perMatrix = ways * Math.ceil(n / LANES);
  const panel = panelBytes(dtype, k);
  const rowBytes = k * BYTES[dtype];
  const rows = new Uint8Array(matrices * total * rowBytes);
  let nonZero = 0;
  for (let p = 0; p * panel < packed.length; p++) {
    const sixteen = new Uint8Array(LANES * rowBytes);
    unpackPanel(dtype, k, packed, p * panel, sixteen, 0);
    const [matrix, inMatrix] = [Math.floor(p / perMatrix), p % perMatrix];
    const [way, first] = [inMatrix % ways, Math.floor(inMatrix / ways) * LANES];
    const count = Math.min(LANES, n - first);
    rows.set(sixteen.subarray(0, count * rowBytes), (matrix * total + way * n + first) * rowBytes);
    nonZero +=
      packed.subarray(p * panel, (p + 1) * panel).filter((x) => x !== 0).length -
      sixteen.subarray(0, count * rowBytes).filter((x) => x !== 0).length;
  }
  return { rows, isPaddingZero: nonZero === 0 };
}

async function packInMemory(
  plan: ReturnType<typeof planWeights>,
  source: WeightSource,
): Promise<{ file: Uint8Array; sha256: string }> {
  const pieces: Uint8Array[] = [];
  const { sha256 } = await streamWeights(plan, source, {
    write: async (bytes) => {
      pieces.push(Uint8Array.from(bytes));
    },
  });
  return { file: Buffer.concat(pieces), sha256 };
}

describe("packed weights", () => {
  const shapes: readonly (readonly [n: number, k: number])[] = [
    [16, 32],
    [1, 1],
    [17, 33],
    [31, 2],
    [50, 64],
    [48, 96],
    [5, 31],
    [33, 128],
  ];
  const cases = DTYPES.flatMap((stored) => DTYPES.map((dtype) => [stored, dtype] as const));

  it.each(cases)("stored in %s, packed in %s, unpack to what they were, in every layout and odd shape", async (stored, dtype) => {
    const requests: PackRequest[] = [];
    const sources: Record<string, readonly number[]> = {};
    for (const [n, k] of shapes) {
      for (const ways of [1, 2] as const) {
        const parts = { [`a${n}x${k}w${ways}`]: [n, k], [`b${n}x${k}w${ways}`]: [n, k] } as const;
        Object.assign(sources, parts);
        requests.push(request(dtype, "panel16", ways, parts));
      }
      const [q, kv] = [{ [`q${n}x${k}`]: [n, k] }, { [`k${n}x${k}`]: [3, k], [`v${n}x${k}`]: [1, k] }] as const;
      Object.assign(sources, q, kv);
      requests.push(request(dtype, "panel16", 1, { ...q, ...kv }), request(dtype, "rows", 1, { ...q, ...kv }));
    }
    Object.assign(sources, { "norm.weight": [77], "bias.q": [5], "bias.k": [3], experts: [3, 5, 7], scalar: [] });
    requests.push(
      request(dtype, "rows", 1, { "norm.weight": [77] }),
      request(dtype, "rows", 1, { "bias.q": [5], "bias.k": [3] }),
    );
    requests.push(request(dtype, "rows", 1, { experts: [3, 5, 7] }), request(dtype, "rows", 1, { scalar: [] }));

    const source = randomSource(stored, sources);
    const plan = planWeights(requests);
    const { file, sha256 } = await packInMemory(plan, source);
    expect(file.length).toBe(plan.bytes);
    expect(file.length % 4096).toBe(0);
    expect(sha256).toBe(createHash("sha256").update(file).digest("hex"));
    let end = 0;
    for (const tensor of plan.tensors) {
      const { entry } = tensor;
      expect(entry.offset).toBe(Math.ceil(end / 4096) * 4096);
      expect(file.subarray(end, entry.offset).every((x) => x === 0)).toBe(true);
      end = entry.offset + entry.bytes;
      const { rows, isPaddingZero } = unpack(tensor, file);
      expect(isPaddingZero, entry.name).toBe(true);
      expect(Buffer.compare(rows, await joined(source, tensor.request)), entry.name).toBe(0);
    }
  });

  it("lie in panels as the layout says, element by element", async () => {
    for (const dtype of DTYPES) {
      const [n, k, ways] = [40, 36, 2] as const;
      const source = randomSource(dtype, { gate: [n, k], up: [n, k] });
      const [wanted] = [request(dtype, "panel16", ways, { gate: [n, k], up: [n, k] })];
      const { file } = await packInMemory(planWeights([wanted]), source);
      const rows = await joined(source, wanted);
      const size = BYTES[dtype];
      for (let way = 0; way < ways; way++) {
        for (let col = 0; col < n; col++) {
          for (let i = 0; i < k; i++) {
            const panel = (Math.floor(col / 16) * ways + way) * paddedK(dtype, k) * 16;
            const within = dtype === "bf16" ? (Math.floor(i / 2) * 16 + (col % 16)) * 2 + (i % 2) : i * 16 + (col % 16);
            const at = (panel + within) * size;
            const from = ((way * n + col) * k + i) * size;
            if (Buffer.compare(file.subarray(at, at + size), rows.subarray(from, from + size)) !== 0)
              expect.fail(`${dtype} way ${way} (${col}, ${i})`);
          }
        }
      }
    }
  });

  it("larger than a window are the same as in one piece", async () => {
    // 4 MB windows: two windows of panels, of rows, and panels larger than a window each.
    const source = randomSource("f32", { wide: [500, 3000], up: [500, 3000], long: [20, 70_000], flat: [2_500_001] });
    const plan = planWeights([
      request("bf16", "panel16", 2, { wide: [500, 3000], up: [500, 3000] }),
      request("f16", "panel16", 1, { wide: [500, 3000] }),
      request("f32", "panel16", 1, { long: [20, 70_000] }),
      request("bf16", "rows", 1, { flat: [2_500_001] }),
    ]);
    const { file } = await packInMemory(plan, source);
    for (const tensor of plan.tensors) {
      const { rows, isPaddingZero } = unpack(tensor, file);
      expect(isPaddingZero).toBe(true);
      expect(Buffer.compare(rows, await joined(source, tensor.request)), tensor.entry.name).toBe(0);
    }
  });

  /** The value of `node` over f32 weights, in its dtype. */
  async function valueBytes(node: Node, source: WeightSource): Promise<Uint8Array> {
    const names = weightRows(node).segments.map((s) => s.source.name);
    const values = new Map<string, Float32Array>();
    for (const name of new Set(names)) values.set(name, await weightValues(source, name));
    const value = expressionValue(node, (name) => values.get(name)!);
    const bytes = new Uint8Array(value.length * BYTES[node.type.dtype as WeightDType]);
    converter("f32", node.type.dtype as WeightDType)(
      new Uint8Array(value.buffer, value.byteOffset, value.byteLength),
      bytes,
      value.length,
    );
    return bytes;
  }

  it.each(DTYPES)("of expressions are the expressions' values, read from a checkpoint in %s", async (stored) => {
    const experts = 5;
    const [I, K] = [40, 36];
    const shapes: Record<string, readonly number[]> = {
      gate_up: [experts, K, 2 * I],
      "gate_up.bias": [experts, 2 * I],
      positions: [50, 33],
      gain: [77],
      fused: [6 * 16, 24],
    };
    for (let e = 0; e < experts; e++) for (const part of ["gate", "up"]) shapes[`${e}.${part}`] = [I, K];
    const weight = (dtype: WeightDType, name: string) => g.weight(name, { dtype, shape: shapes[name]! });
    const stack = (part: string) =>
      g.concat(
        Array.from({ length: experts }, (_, e) => g.reshape(weight("bf16", `${e}.${part}`), [1, I, K])),
        0,
      );
    const column = (dtype: WeightDType, parity: 0 | 1) => {
      const pairs = g.reshape(weight(dtype, "gate_up"), [experts, K, I, 2]);
      return g.transpose(g.reshape(g.slice(pairs, 3, parity, 1), [experts, K, I]));
    };
    const bias = g.reshape(g.slice(g.reshape(weight("f32", "gate_up.bias"), [experts, I, 2]), 2, 1, 1), [experts, I]);
    const heads = g.slice(g.reshape(weight("f16", "fused"), [6, 16, 24]), 0, 1, 4);
    const requests: [PackRequest, Node][] = [
      ["stack", g.concat([stack("gate"), stack("up")], 1), "panel16", 2] as const,
      ["one way", stack("gate"), "panel16", 1] as const,
      ["interleaved", g.concat([column("f16", 0), column("f16", 1)], 1), "panel16", 2] as const,
      ["transposed", column("f32", 1), "rows", 1] as const,
      ["bias", bias, "rows", 1] as const,
      ["positions", g.slice(weight("bf16", "positions"), 0, 2, 48), "rows", 1] as const,
      ["gain", g.plus(weight("f32", "gain"), g.constant(1)), "rows", 1] as const,
      ["heads", g.reshape(heads, [64, 24]), "panel16", 1] as const,
      ["columns", g.slice(weight("f32", "fused"), 1, 5, 11), "panel16", 2] as const,
    ].map(([name, node, layout, ways]) => [requestOf(name, node, layout, ways), node]);
    const source = randomSource(stored, shapes);
    const plan = planWeights(requests.map(([r]) => r));
    const { file } = await packInMemory(plan, source);
    for (const [i, tensor] of plan.tensors.entries()) {
      const { rows, isPaddingZero } = unpack(tensor, file);
      expect(isPaddingZero, tensor.entry.name).toBe(true);
      expect(Buffer.compare(rows, await valueBytes(requests[i]![1], source)), tensor.entry.name).toBe(0);
    }
    const packed = await packWeights(plan, source, join(folder, "weights.bin"));
    const weights = { file: "weights.bin", ...packed, tensors: plan.tensors.map((t) => t.entry), unused: [] };
    const reader = new PackedWeightsReader(folder, { ...sampleManifest(), weights });
    for (const [{ name, dtype }, node] of requests) {
      const bytes = await valueBytes(node, source);
      const values = new Float32Array(bytes.length / BYTES[dtype]);
      converter(dtype, "f32")(bytes, new Uint8Array(values.buffer), values.length);
      expect(reader.read(name), name).toEqual(values);
    }
    expect(plan.tensors[0]!.entry).toMatchObject({ shape: [experts, 2 * I, K], bytes: experts * panel16Bytes("bf16", 2, I, K) });
    expect(plan.tensors[0]!.entry.sources).toEqual(["{0..4}.gate", "{0..4}.up"]);
  });

  it("of a transposed matrix larger than a window are read from the checkpoint once", async () => {
    const shapes = { experts: [2, 600, 2 * 1000] };
    const source = randomSource("f32", shapes);
    let read = 0;
    const counting: WeightSource = {
      list: () => source.list(),
      find: (name) => source.find(name),
      read: (name, begin, into) => {
        read += into.length;
        return source.read(name, begin, into);
      },
    };
    const pairs = g.reshape(g.weight("experts", { dtype: "f32", shape: shapes.experts }), [2, 600, 1000, 2]);
    const way = (parity: number) => g.transpose(g.reshape(g.slice(pairs, 3, parity, 1), [2, 600, 1000]));
    const node = g.concat([way(0), way(1)], 1);
    const plan = planWeights([requestOf("gate_up", node, "panel16", 2)]);
    const { file } = await packInMemory(plan, counting);
    expect(read).toBe(4 * 2 * 600 * 2000);
    expect(Buffer.compare(unpack(plan.tensors[0]!, file).rows, await valueBytes(node, source))).toBe(0);
  });

  it("are the same bytes again, in a file that is whole, with progress to the end", async () => {
    const source = randomSource("bf16", { a: [100, 64] });
    const plan = planWeights([request("bf16", "panel16", 1, { a: [100, 64] })]);
    const steps: [number, number][] = [];
    const file = join(folder, "weights.bin");
    const first = await packWeights(plan, source, file, (done, total) => steps.push([done, total]));
    const { file: bytes, sha256 } = await packInMemory(plan, source);
    expect(first).toEqual({ bytes: plan.bytes, sha256 });
    expect(Buffer.compare(readFileSync(file), bytes)).toBe(0);
    expect(steps.at(-1)).toEqual([plan.bytes, plan.bytes]);
    expect(readdirSync(folder)).toEqual(["weights.bin"]);
  });

  it("of no tensors are an empty file", async () => {
    expect(await packWeights(planWeights([]), randomSource("f32", {}), join(folder, "w"))).toMatchObject({ bytes: 0 });
  });

  it("leave nothing behind when reading fails midway, and no promise unhandled", async () => {
    const good = randomSource("bf16", { a: [5000, 2000] });
    const source: WeightSource = {
      list: () => good.list(),
      find: (name) => good.find(name),
      read: async (name, begin, into) => {
        if (begin > 2_000_000) throw new CompileError("the disk was pulled out");
        await good.read(name, begin, into);
      },
    };
    const plan = planWeights([request("bf16", "panel16", 1, { a: [5000, 2000] })]);
    await expect(packWeights(plan, source, join(folder, "weights.bin"))).rejects.toThrow("the disk was pulled out");
    expect(readdirSync(folder)).toEqual([]);
  });

  it("stop at the first failed write", async () => {
    const plan = planWeights([request("bf16", "panel16", 1, { a: [20_000, 2000] })]);
    let writes = 0;
    const sink = {
      write: async () => {
        if (++writes === 3) throw Object.assign(new Error("no space left on device"), { code: "ENOSPC" });
      },
    };
    await expect(streamWeights(plan, randomSource("bf16", { a: [20_000, 2000] }), sink)).rejects.toThrow(
      "no space left on device",
    );
    expect(writes).toBe(3);
  });
});

describe("a plan of weights", () => {
  it("names many sources in few words", () => {
    expect(printNames(["layers.1.q", "layers.1.k", "layers.1.v"])).toEqual(["layers.1.q", "layers.1.k", "layers.1.v"]);
    expect(printNames(["7.a.8", "7.b.8", "7.a.9", "7.b.9", "7.a.10", "7.b.12", "norm"])).toEqual([
      "7.a.{8..10}",
      "7.b.{8..9}",
      "7.b.12",
      "norm",
    ]);
    expect(printNames(["e.08", "e.09", "e.10", "e.0"])).toEqual(["e.0{8..9}", "e.10", "e.0"]);
  });

  it("refuses rows that do not split into ways", () => {
    expect(() => planWeights([request("f32", "panel16", 2, { a: [5, 8] })])).toThrow(
      "a has 5 rows, which do not split into 2 equal parts",
    );
  });
});
