import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { commandLine } from "../support/ingot-command.ts";
import { type Changes, changedModel } from "../support/model-folder.ts";

const { run, cache, scratch } = commandLine("bad-models");
const GATE = "model.layers.0.mlp.gate_proj.weight";
const EMBEDDING = "model.embed_tokens.weight";
const shardIndex = (shard: string) => JSON.stringify({ metadata: {}, weight_map: { [EMBEDDING]: shard } });

/** What is wrong, how, and what the message must name: the thing, what was found, the remedy. */
const FAULTS: readonly (readonly [string, Changes, readonly (string | RegExp)[]])[] = [
  [
    "truncated weights",
    { weights: (f) => f.subarray(0, f.length - 1000) },
    ["model.safetensors", /ends at byte \d+.*holds \d+/, "download"],
  ],
  [
    "weights cut within the header",
    { weights: (f) => f.subarray(0, 200) },
    ["model.safetensors", "the file has only 200", "download"],
  ],
  ["five bytes of weights", { weights: (f) => f.subarray(0, 5) }, ["model.safetensors", "at least 8 bytes, found 5", "download"]],
  [
    "a header longer than the file",
    { weights: (f) => Buffer.concat([Buffer.from("0000000000000010", "hex"), f.subarray(8)]) },
    ["model.safetensors", "says its header has 1152921504606846976 bytes", "download"],
  ],
  [
    "offsets beyond the file",
    {
      header: (h) => {
        h[EMBEDDING]!.data_offsets = [0, 2 ** 50];
      },
    },
    [EMBEDDING, "its data_offsets hold 1125899906842624", "download"],
  ],
  [
    "two tensors in one place",
    {
      header: (h) => {
        h["model.layers.0.mlp.up_proj.weight"]!.data_offsets = h[GATE]!.data_offsets;
      },
    },
    [/tensor "model\.layers\.0\.mlp\.(up|gate)_proj\.weight"|belong to no tensor/, "download"],
  ],
  [
    "a dtype that nobody has",
    {
      header: (h) => {
        h[EMBEDDING]!.dtype = "Q9";
      },
    },
    [EMBEDDING, 'dtype "Q9"', "expected one of F64"],
  ],
  [
    "a tensor that is an integer",
    {
      header: (h) => {
        h[GATE]!.dtype = "I16";
      },
    },
    [GATE, "stored as I16", "F32, F16, BF16", "convert"],
  ],
  [
    "a tensor of another name",
    {
      header: (h) => {
        h["model.layers.0.mlp.door_proj.weight"] = h[GATE]!;
        delete h[GATE];
      },
    },
    [GATE, "config.json"],
  ],
  [
    "a tensor of another shape",
    { header: (h) => void h[GATE]!.shape.reverse() },
    [GATE, "(256, 768)", "needs (768, 256)", "config.json"],
  ],
  [
    "no weights",
    { weights: null },
    ["expected model.safetensors or model.safetensors.index.json", "download", "--weights random"],
  ],
  [
    "a missing shard",
    { weights: null, files: { "model.safetensors.index.json": shardIndex("model-00001-of-00002.safetensors") } },
    ["names model-00001-of-00002.safetensors, which is not there", "download"],
  ],
  [
    "a shard outside the folder",
    { weights: null, files: { "model.safetensors.index.json": shardIndex("../../secret.safetensors") } },
    ["../../secret.safetensors", "expected the name of a file in this folder"],
  ],
  [
    "an unknown architecture",
    { config: (c) => ({ ...c, architectures: ["FalconForCausalLM"] }) },
    ["FalconForCausalLM", "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "defineArchitecture"],
  ],
  ["no architecture", { config: ({ architectures, ...c }) => c }, ["architectures", "Qwen3ForCausalLM", 'model_type is "qwen3"']],
  [
    "a rope type that nobody knows",
    { config: (c) => ({ ...c, rope_parameters: { rope_type: "spiral", rope_theta: 1e4 } }) },
    ["rope_type", "default, linear, llama3, yarn", '"spiral"'],
  ],
  ["a config.json that is no JSON", { config: () => "{ hello" }, ["config.json is not valid JSON"]],
  ["a config.json that is a list", { config: () => [] }, ["config.json", "expected object"]],
  [
    "fields of wrong types",
    { config: (c) => ({ ...c, hidden_size: "big", num_hidden_layers: -1 }) },
    ["hidden_size", '"big"', "num_hidden_layers", "-1"],
  ],
  ["a size without end", { config: (c) => ({ ...c, hidden_size: 1e15 }) }, ["hidden_size"]],
  ["heads that do not divide", { config: (c) => ({ ...c, num_key_value_heads: 3 }) }, ["num_key_value_heads"]],
  [
    "a generation_config.json that is no JSON",
    { files: { "generation_config.json": "{" } },
    ["generation_config.json is not valid JSON"],
  ],
  [
    "an end token beyond the vocabulary",
    { files: { "generation_config.json": '{"eos_token_id": 999999}' } },
    ["generation_config.json", "eos_token_id", "999999", "below 4096"],
  ],
  [
    "a family's own end token beyond the vocabulary",
    {
      config: ({ eos_token_id, ...c }) => ({ ...c, architectures: ["Olmo2ForCausalLM"] }),
      files: { "generation_config.json": "{}" },
    },
    ["config.json: eos_token_id", "below 4096, found [50279], which Olmo2ForCausalLM has where the field is absent"],
  ],
  [
    "a tokenizer.json that is no JSON",
    { files: { "tokenizer.json": "{" } },
    ["tokenizer.json is not valid JSON", "copy it again"],
  ],
];

describe("a model folder is refused by name, with exit code 1, no stack trace and nothing left behind, for", () => {
  it.each(FAULTS)("%s", async (name, changes, words) => {
    const model = changedModel(join(scratch, name.replaceAll(" ", "-")), changes);
    const { code, stdout, stderr } = await run(["compile", model]);
    const message = stderr
      .split("\n")
      .filter((line) => !line.startsWith("native target: "))
      .join("\n");
    expect(message).toMatch(/^ingot: /);
    for (const word of words)
      expect(message).toEqual(typeof word === "string" ? expect.stringContaining(word) : expect.stringMatching(word));
    expect(message).not.toMatch(/^ {4}at |undefined|\[object|internal:/m);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(existsSync(join(cache, "engines")) ? readdirSync(join(cache, "engines")) : []).toEqual([]);
  });
});

describe("--layers", () => {
  it.each([
    ["null", () => "null"],
    ["a list", () => []],
    ["no number of layers", (c: object) => ({ ...c, num_hidden_layers: "six" })],
  ])("is refused where config.json is %s", async (name, config) => {
    const model = changedModel(join(scratch, `layers ${name}`), { config });
    const { code, stderr } = await run(["compile", model, "--layers", "2"]);
    expect(stderr).toMatch(/^ingot: --layers cuts num_hidden_layers, which is no number in config\.json$/m);
    expect(code).toBe(2);
  });
});

describe("tensors that nothing reads", () => {
  it("are reported by every compile, and the model is compiled", async () => {
    const model = changedModel(join(scratch, "extra"), {
      header: (h) => {
        const end = Math.max(...Object.values(h).map((entry) => entry.data_offsets?.[1] ?? 0));
        h["model.extra.weight"] = { dtype: "F32", shape: [4], data_offsets: [end, end + 16] };
      },
      data: (data) => Buffer.concat([data, Buffer.alloc(16)]),
    });
    for (const upToDate of [false, true]) {
      const { code, stdout, stderr } = await run(["compile", model, "-o", join(scratch, "extra-engine"), "--no-build", "--json"]);
      expect(stderr).toContain("1 tensor of the checkpoint (16 B) is not used: model.extra.weight");
      const unusedTensors = [{ names: ["model.extra.weight"], count: 1, bytes: 16, why: null }];
      expect(JSON.parse(stdout)).toMatchObject({ upToDate, unusedTensors });
      expect(code).toBe(0);
    }
  });
});

describe("a model whose file was corrected", () => {
  it("is compiled again", async () => {
    const folder = join(scratch, "corrected");
    const flags = ["--no-build", "--json"];
    changedModel(folder, { files: { "tokenizer_config.json": "{}" } });
    const one = JSON.parse((await run(["compile", folder, ...flags])).stdout);
    expect(JSON.parse((await run(["compile", folder, ...flags])).stdout)).toMatchObject({ upToDate: true });
    changedModel(folder, {});
    const other = JSON.parse((await run(["compile", folder, ...flags])).stdout);
    expect(other).toMatchObject({ upToDate: false });
    expect(other.folder).not.toBe(one.folder);
  });
});
