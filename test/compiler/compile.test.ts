import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { type Architecture, defineArchitecture, type ModelConfig } from "../../compiler/architecture.ts";
import { type CompileRequest, compileEngine } from "../../compiler/compile.ts";
import { evaluateRpn } from "../../compiler/engine/manifest.ts";
import type { Node } from "../../compiler/ir/ops.ts";
import { kernelTensors } from "../../compiler/kernels/operands.ts";
import { generate } from "../../compiler/pipeline.ts";
import { RandomWeights } from "../../compiler/weights/random.ts";
import { PackedWeightsReader } from "../../compiler/weights/unpack.ts";
import { qwen2 } from "../../models/qwen2.ts";
import { parseManifest } from "../../runtime/manifest-validator.ts";
import { expressionValue, weightValues } from "../support/weight-values.ts";

const scratch = mkdtempSync(join(tmpdir(), "ingot-compile-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const json = {
  architectures: ["Qwen2ForCausalLM"],
  hidden_size: 48,
  intermediate_size: 80,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  vocab_size: 100,
  max_position_embeddings: 64,
  torch_dtype: "bfloat16",
  tie_word_embeddings: true,
};

function request(target: string, dtype: ModelConfig["dtype"], architecture: Architecture = qwen2): CompileRequest {
  const config = { ...architecture.readConfig(json), dtype };
  const shapes = new Map(architecture.weights(config).map((w) => [w.name, w.shape]));
  return {
    name: "tiny",
    architecture,
    config,
    source: new RandomWeights(1, "bf16", shapes),
    checkpoint: "random:1",
    modelFolder: null,
    configJson: json,
    target,
    limits: { maxModelLen: 64, maxNumSeqs: 4, maxNumBatchedTokens: 16 },
    kvCacheDtype: dtype === "float32" ? "f32" : "bf16",
    compiler: "ingot 0.0.0",
    options: {},
    isBeingWritten: false,
    build: false,
    weightsFile: true,
    kernelCache: join(scratch, "cache"),
  };
}

/** Compiles into a folder of its own. */
async function compiled(r: CompileRequest) {
  const folder = mkdtempSync(join(scratch, "engine-"));
  const dumps = new Map<string, string>();
  const report = await compileEngine(folder, r, { dump: (name, text) => dumps.set(name, text) });
  return { folder, dumps, report, manifest: parseManifest(readFileSync(join(folder, "manifest.json"), "utf8"), "manifest") };
}

describe("a compiled engine", () => {
  it("has each kernel once, whatever the number of layers, from every layer it stands for", async () => {
    const { manifest, report } = await compiled(request("cpu:avx512-amx", "bfloat16"));
    const { kernels, programs } = manifest;
    const [program] = programs;
    expect(kernels.map((k) => k.name)).toMatchInlineSnapshot(`
      [
        "rope_angles_8",
        "embedding_bf16_48",
        "rms_norm_bf16_48",
        "linear_bf16_128x48__bias",
        "rope_store_kv_bf16_4x2x16",
        "paged_attention_bf16_4x2x16",
        "linear_bf16_48x64__add",
        "linear_bf16_80x48__silu_mul",
        "linear_bf16_48x80__add",
        "paged_attention_bf16_4x2x16_2",
        "gather_rows_48",
        "gather_rows_64",
        "linear_bf16_48x64__add_2",
        "rms_norm_bf16_48_2",
        "linear_bf16_80x48__silu_mul_2",
        "linear_bf16_48x80__add_2",
        "rms_norm_f32_48",
        "elementwise_48",
        "linear_bf16_100x48",
        "sample_100",
      ]
    `);
    expect(program!.steps).toHaveLength(2 + 3 * 8 + 2 + 4); // the last layer samples its rows, of two values
    expect(report.kernels).toBe(kernels.length);
    for (const { name, origins } of kernels) {
      if (!/linear_bf16_128x48|store_kv|paged|silu_mul/.test(name)) continue;
      for (const layer of name.endsWith("_2") ? [2] : /linear_bf16_128x48|store_kv/.test(name) ? [0, 1, 2] : [0, 1])
        expect(
          origins.some((o) => o.includes(`layers.${layer}.`)),
          `${name} of layer ${layer}`,
        ).toBe(true);
      expect(origins.join()).toMatch(/models\/layers\.ts:\d+/);
    }
  });

  it("takes a tap when the step that writes its buffer is done, and before another takes the memory", async () => {
    const { manifest } = await compiled(request("cpu:generic", "bfloat16"));
    const [program] = manifest.programs;
    expect(program!.taps.map((t) => t.name)).toEqual(["hidden.0", "hidden.1", "hidden.2", "hidden.3", "logits"]);
    for (const { step, buffer } of program!.taps) {
      const { args } = program!.steps[step]!;
      expect(args.at(-1)).toEqual({ buffer });
    }
    const buffers = program!.taps.map((t) => manifest.arena.buffers[t.buffer]!);
    expect(buffers.map((b) => b.rows)).toEqual(["T", "T", "T", "S", "S"]);
  });

  it("says what a kernel costs: twice the parameters of its matrix a token, and reads the matrix once", async () => {
    const { manifest } = await compiled(request("cpu:generic", "float32"));
    const one = { T: 1, B: 1, S: 1, P: 1 };
    const gateUp = manifest.kernels.find((k) => k.name.includes("silu_mul"))!;
    expect(evaluateRpn(gateUp.flops, one)).toBe(2 * 160 * 48 + 80 * (4 + 1));
    expect(evaluateRpn(gateUp.bytes, one)).toBe(4 * (160 * 48 + 48 + 80));
    expect(manifest.predicted.flopsPerToken).toBeGreaterThan(2 * manifest.model.numParameters);
  });

  it("carries the config.json it was made from, so that it can be verified by itself", async () => {
    const preset = await compiled(request("cpu:generic", "bfloat16"));
    expect(JSON.parse(readFileSync(join(preset.folder, "config.json"), "utf8"))).toEqual(json);

    const modelFolder = mkdtempSync(join(scratch, "model-"));
    const text = JSON.stringify(json, null, 7);
    writeFileSync(join(modelFolder, "config.json"), text);
    const whole = await compiled({ ...request("cpu:generic", "bfloat16"), modelFolder });
    expect(readFileSync(join(whole.folder, "config.json"), "utf8")).toBe(text);
    const configJson = { ...json, num_hidden_layers: 1 };
    const config = qwen2.readConfig(configJson);
    const cut = await compiled({ ...request("cpu:generic", "bfloat16"), modelFolder, config, configJson });
    expect(JSON.parse(readFileSync(join(cut.folder, "config.json"), "utf8"))).toEqual(configJson);
  });

  it.each([
    ["cpu:generic", "float32"],
    ["cpu:avx512-amx", "bfloat16"],
    ["cpu:avx2", "float16"],
  ] as const)("for %s in %s holds every weight as the checkpoint has it", async (target, dtype) => {
    const r = request(target, dtype);
    const { folder, manifest } = await compiled(r);
    const reader = new PackedWeightsReader(folder, manifest);
    const specs = r.architecture.weights(r.config);
    const values = new Map<string, Float32Array>();
    for (const { name } of specs) values.set(name, await weightValues(r.source, name));
    const tensors = new Map(
      generate(r)
        .kernels.flat()
        .flatMap(kernelTensors)
        .map((t) => [t.name, t.node]),
    );
    expect([...tensors.keys()]).toEqual(manifest.weights.tensors.map((t) => t.name));
    expect(new Set(manifest.weights.tensors.flatMap((t) => t.sources))).toEqual(new Set(specs.map((s) => s.name)));
    for (const [name, node] of tensors) {
      expect(reader.read(name), name).toEqual(expressionValue(node, (weight) => values.get(weight)!));
    }
    expect(() => reader.read("model.nothing")).toThrow(/holds no tensor model\.nothing/);
  });

  it("is not made again from the same things", async () => {
    const folder = mkdtempSync(join(scratch, "engine-"));
    const r = request("cpu:avx2", "bfloat16");
    expect((await compileEngine(folder, r)).upToDate).toBe(false);
    expect((await compileEngine(folder, r)).upToDate).toBe(true);
    expect((await compileEngine(folder, { ...r, checkpoint: "random:2" })).upToDate).toBe(false);
  });
});

describe("the dumps of a compile", () => {
  it("are numbered, a text for each stage: graphs, kernels, schedules, memory, program", async () => {
    const { dumps } = await compiled(request("cpu:generic", "bfloat16"));
    expect([...dumps.keys()]).toEqual([
      "00-model",
      "01-canonicalize",
      "02-sampled-rows",
      "03-fuse-projections",
      "04-fold",
      "05-legalize",
      "06-form-kernels",
      "07-schedule",
      "08-plan-memory",
      "09-emit",
    ]);
    expect(dumps.get("05-legalize")).toMatch(/# layers\.2\.mlp\.down_proj \(models\/layers\.ts:\d+\)/);
    expect(dumps.get("06-form-kernels")!.split("\n").slice(0, 10).join("\n")).toMatchInlineSnapshot(`
      "000 rope_angles_8(positions) -> v2 f32(T, 16)
      001 embedding_bf16_48(token_ids, model.embed_tokens.weight) -> v4 f32(T, 48)
      002 rms_norm_f32_48(v4, model.layers.0.input_layernorm.weight) -> v6 f32(T, 48)
      003 linear_bf16_128x48__bias(v6, model.layers.0.self_attn.q_proj.weight+model.layers.0.self_attn.k_proj.weight+model.layers.0.self_attn.v_proj.weight, model.layers.0.self_attn.q_proj.bias+model.layers.0.self_attn.k_proj.bias+model.layers.0.self_attn.v_proj.bias) -> v16 f32(T, 128) = (acc0 + model.layers.0.self_attn.q_proj.bias+model.layers.0.self_attn.k_proj.bias+model.layers.0.self_attn.v_proj.bias)
      004 rope_store_kv_bf16_4x2x16(v16, v2, v2, kv.0, positions, seq_ids, block_tables) -> v21 f32(T, 64)
      005 paged_attention_bf16_4x2x16(v21, kv.0, positions, seq_ids, block_tables) -> v30 f32(T, 64)
      006 linear_bf16_48x64__add(v30, model.layers.0.self_attn.o_proj.weight, v4) -> v33 f32(T, 48) = (v4 + acc0)
      007 rms_norm_f32_48(v33, model.layers.0.post_attention_layernorm.weight) -> v35 f32(T, 48)
      008 linear_bf16_80x48__silu_mul(v35, model.layers.0.mlp.gate_proj.weight+model.layers.0.mlp.up_proj.weight) -> v43 f32(T, 80) = (silu(acc0) * acc1)
      009 linear_bf16_48x80__add(v43, model.layers.0.mlp.down_proj.weight, v33) -> v46 f32(T, 48) = (v33 + acc0)"
    `);
    expect(dumps.get("07-schedule")!.split("\n").slice(2, 6).join("\n")).toMatchInlineSnapshot(`
      "002 rms_norm_f32_48: rms_norm grid=[T] chunk=16 serialUnits=85
      003 linear_bf16_128x48__bias: linear grid=[8] chunk=4 serialUnits=0 streams=4 rowBlock=2 accumulators=2 rowsPerPass=96 blockK=512 prefetchBytes=2048
      004 rope_store_kv_bf16_4x2x16: store_kv grid=[T] chunk=2 serialUnits=1
      005 paged_attention_bf16_4x2x16: paged_attention grid=[T 16 ceildiv 2 mul] chunk=64 serialUnits=0 tileTokens=16 rowBlock=2 accumulators=2"
    `);
    expect(dumps.get("08-plan-memory")).toMatch(/^arena 20480 bytes\n( {2}v\d+ f32\([TS], \d+\) at \d+, \d+ bytes\n)+$/);
    const steps = dumps.get("09-emit")!.split("\n");
    expect(steps.filter((l) => !/^ {2}(00[0367]|0(0[89]|1|2))/.test(l)).join("\n")).toMatchInlineSnapshot(`
      "program step_16, up to 16 tokens, 17 kernels
        001 embedding_bf16_48 (token_ids, model.embed_tokens.weight, v4@12288)
        002 rms_norm_f32_48 (v4@12288, model.layers.0.input_layernorm.weight, v6@8192)
        004 rope_store_kv_bf16_4x2x16 (v16@0, v2@16384, v2@16384, kv.0, positions, seq_ids, block_tables, v21@8192)
        005 paged_attention_bf16_4x2x16 (v21@8192, kv.0, positions, seq_ids, block_tables, v30@0)
        030 sample_100 (v132@0, sample_floats, sample_ints, sample_tokens, sampled_ids, sampled_logprobs, top_ids, top_logprobs)
        tap hidden.0 after 001: v4@12288
        tap hidden.1 after 009: v46@12288
        tap hidden.2 after 017: v86@12288
        tap hidden.3 after 028: v131@4096
        tap logits after 029: v132@0
      "
    `);
  });
});

describe("a model that no engine can hold", () => {
  /** An attention for each of `caches`, [layer, kv heads], and a head of `vocab` columns. */
  const attentions = (caches: readonly (readonly [layer: number, numKvHeads: number])[], vocab = 100) =>
    defineArchitecture<ReturnType<typeof qwen2.readConfig>>({
      name: "Attentions",
      readConfig: (config) => qwen2.readConfig(config),
      build(_, g) {
        const w = (name: string, ...shape: number[]) => g.weight(name, { dtype: "f32", shape });
        let x: Node = g.tap("hidden.0", g.embedding(g.input("token_ids"), w("embed", 100, 48)));
        caches.forEach(([layer, kvHeads], i) => {
          const heads = (name: string, n: number) => g.reshape(g.linear(x, w(`${i}.${name}`, n * 16, 48)), [g.T, n, 16]);
          const kv = g.storeKv(g.kvCache(layer, "f32", kvHeads, 16), heads("k", kvHeads), heads("v", kvHeads));
          x = g.plus(x, g.linear(g.reshape(g.pagedAttention(heads("q", 4), kv, 1, null), [g.T, 64]), w(`${i}.o`, 48, 64)));
          if (i < 2) g.tap(`hidden.${i + 1}`, x);
        });
        const last = g.tap("hidden.3", g.rmsNorm(g.gatherRows(x, g.input("sample_rows")), w("norm", 48), 1e-6));
        g.setLogits(g.scope("lm_head", () => g.linear(last, w("head", vocab, 48))));
      },
    });
  const generated = (architecture: Architecture) => () => generate(request("cpu:generic", "float32", architecture));
  const layers = [0, 1, 2].map((layer) => [layer, 2] as const);

  it("is refused when its logits are not as wide as its vocabulary", () => {
    expect(generated(attentions(layers))).not.toThrow();
    expect(generated(attentions(layers, 112))).toThrow(/the logits at lm_head .* have 112 columns, but vocabSize is 100/);
  });

  it("is refused when a layer stores no keys and values, or stores them twice", () => {
    expect(generated(attentions(layers.slice(1)))).toThrow(/layers 1, 2 store keys and values, but numLayers is 3/);
    expect(generated(attentions([...layers.slice(1), [1, 1]]))).toThrow(/layers 1, 1, 2 store keys and values/);
  });

  it("is refused when its layers' caches differ in size", () => {
    const uneven = [...layers.slice(0, 2), [2, 1] as const];
    expect(generated(attentions(uneven))).toThrow(/layer 0 caches 2 heads of 16 f32, layer 2 1 heads of 16 f32;/);
  });

  it("leaves no folder behind when a tensor is missing", async () => {
    const folder = join(scratch, "missing");
    const r = request("cpu:generic", "float32");
    const source = new RandomWeights(1, "bf16", new Map());
    await expect(compileEngine(folder, { ...r, source })).rejects.toThrow(/tiny: there is no tensor model\.embed_tokens\.weight/);
    expect(existsSync(folder)).toBe(false);
    expect(readdirSync(scratch).filter((n) => n.startsWith("missing"))).toEqual([]);
  });
});
