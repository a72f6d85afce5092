import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { readGolden } from "../../compiler/cli/golden.ts";
import {
  GOLDEN_F32_TOLERANCE,
  relativeError,
  type Verifiable,
  verifyAgainst,
  verifyGolden,
  whereToLook,
} from "../../compiler/cli/verification.ts";
import { safetensorsFile } from "../compiler/weights/safetensors-file.ts";

const LAYERS = 4;
const VOCAB = 6;

/** Numbers that differ from place to place. */
const wave = (length: number, phase: number) => Float32Array.from({ length }, (_, i) => Math.sin(i * 1.7 + phase));
const outputs = (ids: readonly number[]) => ({
  logits: wave(ids.length * VOCAB, 0),
  hidden: Array.from({ length: LAYERS + 1 }, (_, l) => wave(ids.length * 8, l)),
});
/** The argmax of the logits after 1, 2, 3 … tokens, written out. */
const CHOSEN = [1, 2, 0, 5, 3, 4, 2, 3, 1, 2, 0, 5, 3, 4, 2];
const continuation = (ids: readonly number[], count: number) => CHOSEN.slice(ids.length - 1, ids.length - 1 + count);
const prompts = [[1], [3, 1, 4, 1, 5]].map((ids) => ({ ids, greedy: continuation(ids, 3), ...outputs(ids) }));
const golden = { bf16RelativeError: 0.01, prompts };

type Plant = (o: ReturnType<typeof outputs>, ids: readonly number[]) => void;

/** An engine that computes what was recorded, but for what is planted in prefill, in decode and in its tokens. */
function engine(
  plants: {
    forward?: Plant;
    decode?: Plant;
    greedy?: (ids: readonly number[]) => readonly number[];
    maxTokens?: number;
    rebuiltBeyond?: readonly number[];
    sumsVary?: boolean;
  } = {},
): Verifiable {
  const computing = (plant?: Plant) => async (ids: readonly number[]) => {
    const result = outputs(ids);
    plant?.(result, ids);
    return result;
  };
  return {
    maxTokens: plants.maxTokens ?? 100,
    rebuiltBeyond: plants.rebuiltBeyond ?? [],
    sumsVary: plants.sumsVary ?? false,
    forward: computing(plants.forward),
    decode: computing(plants.decode),
    greedy: async (ids, count) => plants.greedy?.(ids) ?? continuation(ids, count),
  };
}

/** The names of all rows of a prompt whose layers and continuation are recorded, in order. */
const ROWS = [
  ...["", "decode."].flatMap((path) => [...Array.from({ length: LAYERS + 1 }, (_, l) => `${path}hidden.${l}`), `${path}logits`]),
  "sampler",
  "greedy",
];

describe("verification against recorded activations", () => {
  it("passes what is equal, rows for prefill, decode, the sampler and the greedy tokens of each prompt", async () => {
    const result = await verifyGolden(engine(), golden, { dtype: "float32", cache: "f32", reference: "here" });
    expect(result).toMatchObject({ ok: true, firstFailure: null, reference: "here", dtype: "float32" });
    expect(result.rows.map((r) => `${r.prompt} ${r.what}`)).toEqual(
      prompts.flatMap((_, p) => ROWS.map((what) => `${p} ${what}`)),
    );
  });

  it("names the layer where a planted error begins", async () => {
    const from2: Plant = ({ hidden, logits }) => {
      for (const tensor of [...hidden.slice(2), logits]) tensor[3] = (tensor[3] as number) + 0.1;
    };
    const prefill = await verifyGolden(engine({ forward: from2, decode: from2 }), golden, {
      dtype: "float32",
      cache: "f32",
      reference: "here",
    });
    expect(prefill).toMatchObject({ ok: false, firstFailure: { prompt: 0, what: "hidden.2", allowed: GOLDEN_F32_TOLERANCE } });
    const decode = await verifyGolden(engine({ decode: from2 }), golden, { dtype: "float32", cache: "f32", reference: "here" });
    expect(decode).toMatchObject({
      ok: false,
      firstFailure: { prompt: 0, what: "decode.hidden.2", allowed: GOLDEN_F32_TOLERANCE },
    });
  });

  it("names the prompt where only the longer one is off", async () => {
    const wrongLater: Plant = ({ logits }, ids) => {
      if (ids.length > 1) logits.reverse();
    };
    const result = await verifyGolden(engine({ forward: wrongLater }), golden, {
      dtype: "float32",
      cache: "f32",
      reference: "here",
    });
    expect(result.firstFailure).toMatchObject({ prompt: 1, what: "logits" });
  });

  it("says what stands where the first failure is, and which half of the work is right", async () => {
    const place = async (plants: Parameters<typeof engine>[0]) =>
      whereToLook(await verifyGolden(engine(plants), golden, { dtype: "float32", cache: "f32", reference: "here" }));
    const zero =
      (l: number, from = 1): Plant =>
      ({ hidden }, ids) =>
        void (ids.length >= from && hidden[l]?.fill(0));
    expect(await place({})).toBeNull();
    expect(await place({ forward: zero(0) })).toBe("hidden.0: what stands after the embedding");
    expect(await place({ forward: zero(1, 5), decode: zero(1, 5) })).toBe(
      "hidden.1: what stands after layer 0; " +
        "a prompt of 1 token is right: look at what mixes positions, such as rotation and window",
    );
    expect(await place({ decode: zero(LAYERS) })).toBe(
      "decode.hidden.4: what stands after layer 3 and the final norm; " +
        "computed whole it is right: look at what decode reads of the KV cache",
    );
    expect(await place({ forward: ({ logits }) => void logits.reverse() })).toBe("logits: what stands after the head");
    expect(await place({ greedy: (ids) => continuation(ids, 3).toReversed() })).toBe(
      "logits are right: look at how a token is chosen",
    );
  });

  it("names tokens that differ only where nothing else does", async () => {
    const plants = { forward: (({ hidden }) => void hidden[2]?.fill(0)) as Plant, greedy: () => [1, 3, 0] };
    const result = await verifyGolden(
      engine(plants),
      { ...golden, prompts: golden.prompts.slice(1) },
      { dtype: "float32", cache: "f32", reference: "here" },
    );
    expect(result.rows.filter((r) => !r.ok).map((r) => r.what)).toEqual(["hidden.2", "sampler", "greedy"]);
    expect(result.firstFailure).toMatchObject({ what: "hidden.2" });
  });

  it("never passes a NaN, a missing layer or a tensor of another length, in prefill or in decode", async () => {
    const plants: Plant[] = [
      ({ hidden }) => void hidden[1]?.fill(Number.NaN, 0, 1),
      ({ hidden }) => void hidden.pop(),
      (o) => Object.assign(o, { logits: o.logits.subarray(1) }),
    ];
    const first = async (plant: Parameters<typeof engine>[0]) =>
      (await verifyGolden(engine(plant), golden, { dtype: "float32", cache: "f32", reference: "x" })).firstFailure?.what;
    const whats = ["hidden.1", `hidden.${LAYERS}`, "logits"];
    expect(await Promise.all(plants.map((forward) => first({ forward })))).toEqual(whats);
    expect(await Promise.all(plants.map((decode) => first({ decode })))).toEqual(whats.map((what) => `decode.${what}`));
  });

  it("counts tokens that are not the argmax of the engine's own logits, in every dtype, also when too few came", async () => {
    for (const dtype of ["float32", "bfloat16", "float16"] as const) {
      const off = await verifyGolden(engine({ greedy: () => [1, 3, 0] }), golden, { dtype, cache: "f32", reference: "here" });
      expect(off.firstFailure).toMatchObject({ prompt: 0, what: "sampler", error: 1, allowed: 0 });
      const few = await verifyGolden(engine({ greedy: () => [1] }), golden, { dtype, cache: "f32", reference: "here" });
      expect(few.firstFailure).toMatchObject({ prompt: 0, what: "sampler", error: 2 });
    }
  });

  it("takes a token whose logit is as near to the largest as logits may be off, where sums vary", async () => {
    // Two tokens of a large row, of which the second is 1 % of its root mean square below the first.
    const pair = (gap: number) => (_: number, i: number) => [1, 1 - gap][i % VOCAB] ?? -1;
    const close =
      (gap: number): Plant =>
      (o) =>
        Object.assign(o, { logits: o.logits.map(pair(gap)) });
    const sampler = async (gap: number, sumsVary = true) => {
      const plant = close(gap);
      const near = {
        ...golden,
        prompts: prompts.map((p) => ({ ...p, logits: p.logits.map(pair(0)) })),
      };
      const against = { dtype: "bfloat16", cache: "f32", reference: "here" } as const;
      const { rows } = await verifyGolden(
        engine({ forward: plant, decode: plant, greedy: () => [1, 1, 1], sumsVary }),
        near,
        against,
      );
      return rows.find((r) => r.what === "sampler");
    };
    expect(await sampler(0.01)).toMatchObject({ error: 0, ok: true });
    expect(await sampler(0.01, false)).toMatchObject({ error: 3, ok: false });
    expect(await sampler(0.2)).toMatchObject({ error: 3, ok: false });
  });

  it("takes the first of equal logits for the argmax", async () => {
    const flat: Plant = ({ logits }) => void logits.fill(1);
    const equal = { ...golden, prompts: prompts.map((p) => ({ ...p, logits: p.logits.map(() => 1) })) };
    const sampler = async (id: number, sumsVary: boolean) =>
      (
        await verifyGolden(engine({ sumsVary, forward: flat, decode: flat, greedy: () => [id, id, id] }), equal, {
          dtype: "bfloat16",
          cache: "f32",
          reference: "here",
        })
      ).rows.find((r) => r.what === "sampler");
    for (const sumsVary of [false, true]) {
      expect(await sampler(0, sumsVary)).toMatchObject({ error: 0, ok: true });
      expect(await sampler(1, sumsVary)).toMatchObject({ error: 3, ok: false });
    }
  });

  it("counts tokens that are not the recorded ones in f32 only", async () => {
    const other = { ...golden, prompts: prompts.map((p) => ({ ...p, greedy: [1, 2, 1] })) };
    const result = await verifyGolden(engine(), other, { dtype: "float32", cache: "f32", reference: "here" });
    expect(result.firstFailure).toMatchObject({ prompt: 0, what: "greedy", error: 1, allowed: 0 });
    const narrow = await verifyGolden(engine(), other, { dtype: "bfloat16", cache: "f32", reference: "here" });
    expect(narrow.ok).toBe(true);
    expect(narrow.rows.map((r) => r.what)).not.toContain("greedy");
  });

  it("generates no more than the context holds", async () => {
    const sampled = async (maxTokens: number) =>
      (await verifyGolden(engine({ maxTokens }), golden, { dtype: "float32", cache: "f32", reference: "here" })).rows
        .filter((r) => r.what === "sampler")
        .map((r) => r.tokens);
    expect(await sampled(6)).toEqual([1, 5]);
    expect(await sampled(5)).toEqual([1]);
  });

  it("allows a narrower dtype twice the reference's own error", async () => {
    const shifted = (by: number) => {
      const plant: Plant = (o) => Object.assign(o, { logits: o.logits.map((x) => x * (1 + by)) });
      return verifyGolden(engine({ forward: plant, decode: plant }), golden, {
        dtype: "bfloat16",
        cache: "f32",
        reference: "here",
      });
    };
    expect((await shifted(0.019)).ok).toBe(true);
    expect((await shifted(0.021)).firstFailure).toMatchObject({ what: "logits" });
  });

  it("allows a cache of fp8 1/16 more, and other greedy tokens in f32", async () => {
    const shifted = async (by: number) => {
      const plant: Plant = (o) => Object.assign(o, { logits: o.logits.map((x) => x * (1 + by)) });
      const against = { dtype: "bfloat16", cache: "fp8_e4m3", reference: "here" } as const;
      return (await verifyGolden(engine({ forward: plant, decode: plant }), golden, against)).firstFailure?.what;
    };
    expect([await shifted(0.082), await shifted(0.083)]).toEqual([undefined, "logits"]);
    const other = { ...golden, prompts: prompts.map((p) => ({ ...p, greedy: [1, 2, 1] })) };
    const { ok } = await verifyGolden(engine(), other, { dtype: "float32", cache: "fp8_e4m3", reference: "here" });
    expect(ok).toBe(true);
  });

  it("says how many of the tokens are compared, from none to all", async () => {
    const seen: [number, number][] = [];
    await verifyGolden(engine(), golden, { dtype: "float32", cache: "f32", reference: "here" }, (done, total) =>
      seen.push([done, total]),
    );
    expect(seen).toEqual([
      [0, 6],
      [1, 6],
      [6, 6],
    ]);
  });
});

describe("verification against a computed reference", () => {
  const computed = prompts.map((p) => ({ ...p, greedy: [] }));
  const options = { dtype: "bfloat16", tolerance: 0.02, reference: "interpreter" } as const;

  it("compares every prompt and names the first row that is off", async () => {
    expect(await verifyAgainst(engine(), computed, options)).toMatchObject({ ok: true, reference: "interpreter" });
    const wrong = engine({ forward: ({ hidden }) => void hidden[3]?.fill(0) });
    expect((await verifyAgainst(wrong, computed, options)).firstFailure).toMatchObject({ what: "hidden.3", error: 1 });
    expect((await verifyAgainst(engine(), [], options)).ok).toBe(false); // nothing compared proves nothing
  });

  it("checks the sampler on tokens of its own, in f32 as well", async () => {
    const wrong = engine({ greedy: (ids) => continuation(ids, 8).map((id) => id ^ 1) });
    for (const dtype of ["float32", "bfloat16"] as const) {
      const { firstFailure } = await verifyAgainst(wrong, computed, { ...options, dtype });
      expect(firstFailure).toMatchObject({ prompt: 0, what: "sampler", error: 8 });
    }
  });
});

describe("an engine whose keys change with the length of a sequence", () => {
  const computed = prompts.map((p) => ({ ...p, greedy: [] }));
  const options = { dtype: "bfloat16", tolerance: 0.02, reference: "interpreter" } as const;

  it("is compared under the keys of a prompt's length, its tokens under those of the lengths they were generated from", async () => {
    const isLong = (length: number) => length > 6;
    const negated: Plant = ({ logits }, ids) => {
      if (isLong(ids.length))
        logits.forEach((x, i) => {
          logits[i] = -x;
        });
    };
    const lowest = (length: number) => {
      const row = wave(length * VOCAB, 0).slice(-VOCAB);
      return row.indexOf(Math.min(...row));
    };
    const greedy = (ids: readonly number[]) =>
      continuation(ids, 8).map((id, i) => (isLong(ids.length + i) ? lowest(ids.length + i) : id));
    const changing = { forward: negated, decode: negated, greedy };
    expect(await verifyAgainst(engine({ ...changing, rebuiltBeyond: [6] }), computed, options)).toMatchObject({ ok: true });
    const { firstFailure } = await verifyAgainst(engine(changing), computed, options);
    expect(firstFailure).toMatchObject({ prompt: 0, what: "decode.logits" });
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
