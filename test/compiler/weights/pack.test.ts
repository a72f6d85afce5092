import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { CompileError } from "../../../compiler/errors.ts";
import { converter } from "../../../compiler/weights/convert.ts";
import { checkSources, type PackRequest, type PlannedTensor, planWeights } from "../../../compiler/weights/layout.ts";
import { packWeights, streamWeights } from "../../../compiler/weights/pack.ts";
import { LANES, paddedK, panelBytes, unpackPanel } from "../../../compiler/weights/panel.ts";
import { RandomWeights } from "../../../compiler/weights/random.ts";
import { elementsOf, type WeightDType, type WeightSource } from "../../../compiler/weights/source.ts";

const BYTES = { f32: 4, f16: 2, bf16: 2 } as const;
const DTYPES = ["f32", "f16", "bf16"] as const;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ingot-pack-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

const randomSource = (dtype: WeightDType, shapes: Record<string, readonly number[]>) =>
  new RandomWeights(3, dtype, new Map(Object.entries(shapes)));

function request(
  dtype: WeightDType,
  layout: "rows" | "panel16",
  ways: 1 | 2,
  sources: Record<string, readonly number[]>,
): PackRequest {
  return {
    name: Object.keys(sources).join("+"),
    sources: Object.entries(sources).map(([name, shape]) => ({ name, shape })),
    dtype,
    layout,
    ways,
  };
}

/** The sources joined and converted, whole in memory: what unpacking must give. */
async function joined(source: WeightSource, { sources, dtype }: PackRequest): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for (const { name, shape } of sources) {
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
  const [total, k] = entry.shape as [number, number];
  const n = total / ways;
  const panel = panelBytes(dtype, k);
  const rowBytes = k * BYTES[dtype];
  const rows = new Uint8Array(total * rowBytes);
  let nonZero = 0;
  for (let p = 0; p * panel < packed.length; p++) {
    const sixteen = new Uint8Array(LANES * rowBytes);
    unpackPanel(dtype, k, packed, p * panel, sixteen, 0);
    const [way, first] = [p % ways, Math.floor(p / ways) * LANES];
    const count = Math.min(LANES, n - first);
    rows.set(sixteen.subarray(0, count * rowBytes), (way * n + first) * rowBytes);
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
  it("refuses sources that do not join", () => {
    expect(() => planWeights([request("f32", "rows", 1, { q: [4, 8], k: [4, 9] })])).toThrow(
      "q+k joins q (4, 8) and k (4, 9); all extents but the first must match",
    );
  });

  it("refuses rows that do not split into ways", () => {
    expect(() => planWeights([request("f32", "panel16", 2, { a: [5, 8] })])).toThrow(
      "a has 5 rows, which do not split into 2 equal parts",
    );
  });

  it("checked against a checkpoint names what is missing or has another shape", () => {
    const plan = planWeights([request("f32", "rows", 1, { a: [4, 8] }), request("f32", "rows", 1, { b: [2] })]);
    expect(() => checkSources(plan, randomSource("f32", { a: [8, 4] }), "models/x")).toThrow(
      "models/x: a is (8, 4), but the model described by config.json needs (4, 8); there is no tensor b (2). " +
        "Is config.json of this checkpoint, and every shard there?",
    );
    expect(() => checkSources(plan, randomSource("f32", { a: [4, 8], b: [2] }), "models/x")).not.toThrow();
  });
});
