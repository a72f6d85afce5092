import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { readGolden } from "../../compiler/cli/golden.ts";
import { F32_TOLERANCE, relativeError, type Verifiable, verifyAgainst, verifyGolden } from "../../compiler/cli/verification.ts";
import { safetensorsFile } from "../compiler/weights/safetensors-file.ts";

const LAYERS = 4;
const VOCAB = 6;

/** Numbers that differ from place to place. */
const wave = (length: number, phase: number) => Float32Array.from({ length }, (_, i) => Math.sin(i * 1.7 + phase));
const outputs = (ids: readonly number[]) => ({
  logits: wave(ids.length * VOCAB, ids.length),
  hidden: Array.from({ length: LAYERS + 1 }, (_, l) => wave(ids.length * 8, l)),
});
const prompts = [[1], [3, 1, 4, 1, 5]];
const golden = {
  bf16RelativeError: 0.01,
  prompts: prompts.map((ids) => ({ ids, greedy: [2, 7, 1], ...outputs(ids) })),
};

/** An engine that computes what was recorded, but for what `plant` changes. */
function engine(
  plant: (o: ReturnType<typeof outputs>, ids: readonly number[]) => void = () => {},
  greedy = [2, 7, 1],
): Verifiable {
  return {
    async forward(ids) {
      const result = outputs(ids);
      plant(result, ids);
      return result;
    },
    greedy: async () => greedy,
  };
}

describe("verification against recorded activations", () => {
  it("passes what is equal, a row for every layer, the logits and the greedy tokens of each prompt", async () => {
    const result = await verifyGolden(engine(), golden, "float32", "here");
    expect(result).toMatchObject({ ok: true, firstFailure: null, reference: "here", dtype: "float32" });
    const rows = result.rows.map((r) => `${r.prompt} ${r.what}`);
    expect(rows).toEqual(
      prompts.flatMap((_, p) => [
        ...Array.from({ length: LAYERS + 1 }, (_, l) => `${p} hidden.${l}`),
        `${p} logits`,
        `${p} greedy`,
      ]),
    );
  });

  it("names the layer where a planted error begins", async () => {
    const wrongFrom2 = engine(({ hidden, logits }) => {
      for (const tensor of [...hidden.slice(2), logits]) tensor[3] = (tensor[3] as number) + 0.1;
    });
    const result = await verifyGolden(wrongFrom2, golden, "float32", "here");
    expect(result).toMatchObject({ ok: false, firstFailure: { prompt: 0, what: "hidden.2", allowed: F32_TOLERANCE } });
  });

  it("names the prompt where only the longer one is off", async () => {
    const wrongLater = engine(({ logits }, ids) => {
      if (ids.length > 1) logits.reverse();
    });
    expect((await verifyGolden(wrongLater, golden, "float32", "here")).firstFailure).toMatchObject({ prompt: 1, what: "logits" });
  });

  it("never passes a NaN, a missing layer or a tensor of another length", async () => {
    const faults = [
      engine(({ hidden }) => void hidden[1]?.fill(Number.NaN, 0, 1)),
      engine(({ hidden }) => void hidden.pop()),
      engine((o) => Object.assign(o, { logits: o.logits.subarray(1) })),
    ];
    const firsts = await Promise.all(faults.map(async (f) => (await verifyGolden(f, golden, "float32", "x")).firstFailure?.what));
    expect(firsts).toEqual(["hidden.1", `hidden.${LAYERS}`, "logits"]);
  });

  it("counts greedy tokens that differ in f32, also when too few came", async () => {
    const off = await verifyGolden(engine(undefined, [2, 8, 1]), golden, "float32", "here");
    expect(off.firstFailure).toMatchObject({ what: "greedy", error: 1, allowed: 0 });
    const few = await verifyGolden(engine(undefined, [2]), golden, "float32", "here");
    expect(few.firstFailure).toMatchObject({ what: "greedy", error: 2 });
  });

  it("allows a narrower dtype twice the reference's own error, and leaves its tokens alone", async () => {
    const shifted = (by: number) => engine((o) => Object.assign(o, { logits: o.logits.map((x) => x * (1 + by)) }), [0]);
    expect((await verifyGolden(shifted(0.019), golden, "bfloat16", "here")).ok).toBe(true);
    expect((await verifyGolden(shifted(0.021), golden, "bfloat16", "here")).firstFailure).toMatchObject({ what: "logits" });
  });
});

describe("verification against a computed reference", () => {
  it("compares every prompt and names the first row that is off", async () => {
    const options = { dtype: "bfloat16", tolerance: 0.02, reference: "interpreter" } as const;
    expect(await verifyAgainst(engine(), prompts, outputs, options)).toMatchObject({ ok: true, reference: "interpreter" });
    const wrong = engine(({ hidden }) => void hidden[3]?.fill(0));
    expect((await verifyAgainst(wrong, prompts, outputs, options)).firstFailure).toMatchObject({ what: "hidden.3", error: 1 });
    expect((await verifyAgainst(engine(), [], outputs, options)).ok).toBe(false); // nothing compared proves nothing
  });
});

describe("the relative error", () => {
  it("is ‖Δ‖/‖ref‖ over the whole tensor", () => {
    expect(relativeError(new Float32Array([3, 5]), new Float32Array([3, 4]))).toBeCloseTo(1 / 5, 12);
    expect(relativeError(new Float32Array(2), new Float32Array(2))).toBe(0);
    expect(relativeError(new Float32Array([1, 0]), new Float32Array(2))).toBe(Number.POSITIVE_INFINITY);
    expect(relativeError(new Float32Array([Number.NaN, 0]), new Float32Array(2))).toBeNaN();
    expect(relativeError(new Float32Array(1), new Float32Array(2))).toBeNaN();
  });
});

describe("a golden folder", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "ingot-golden-"));
  });
  afterEach(() => rmSync(folder, { recursive: true }));
  const f32 = (name: string, values: number[], shape: number[]) => ({
    name,
    dtype: "F32",
    shape,
    data: new Uint8Array(Float32Array.from(values).buffer),
  });
  const write = (json: unknown, tensors: ReturnType<typeof f32>[]) => {
    writeFileSync(join(folder, "golden.json"), typeof json === "string" ? json : JSON.stringify(json));
    writeFileSync(join(folder, "golden.safetensors"), safetensorsFile(tensors));
  };
  const json = { prompts: [[1, 2]], greedy: [[3]], bf16_compute_relative_error: 0.01 };

  it("gives logits and as many layers as were recorded", () => {
    write(json, [f32("p0.logits", [1, 2, 3, 4], [2, 2]), f32("p0.hidden.0", [5, 6], [2, 1]), f32("p0.hidden.1", [7, 8], [2, 1])]);
    const { prompts, bf16RelativeError } = readGolden(folder);
    expect(bf16RelativeError).toBe(0.01);
    expect(prompts).toEqual([
      {
        ids: [1, 2],
        greedy: [3],
        logits: new Float32Array([1, 2, 3, 4]),
        hidden: [new Float32Array([5, 6]), new Float32Array([7, 8])],
      },
    ]);
  });

  it("is refused by file and field when something is missing or wrong", () => {
    expect(() => readGolden(folder)).toThrow(/holds no golden\.json/);
    write("{", []);
    expect(() => readGolden(folder)).toThrow(/golden\.json is not valid JSON/);
    write({ ...json, prompts: [[-1]] }, []);
    expect(() => readGolden(folder)).toThrow(/golden\.json: .*prompts/s);
    write(json, [f32("p1.logits", [1], [1])]);
    expect(() => readGolden(folder)).toThrow(/golden\.safetensors has no p0\.logits/);
    rmSync(join(folder, "golden.safetensors"));
    expect(() => readGolden(folder)).toThrow(/golden\.safetensors is missing/);
  });
});
