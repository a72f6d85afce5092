import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import type { KernelExplanation } from "../../compiler/explain.ts";
import { goldenFolder, hasGolden } from "../support/golden.ts";
import { commandLine, pebble, root } from "../support/ingot-command.ts";
import { ownArchitecture } from "../support/own-architecture.ts";

const { run, scratch } = commandLine("explain");
const engine = join(scratch, "engine");
const file = ownArchitecture(join(scratch, "explained"));
const compile = ["compile", pebble, "--arch", file, "-o", engine, "--no-build", "--max-model-len", "64", "--target", "cpu:avx2"];

beforeAll(async () => {
  const { code, stderr } = await run(compile);
  expect(code, stderr).toBe(0);
});

describe("ingot compile --explain", () => {
  it("prints a block a kernel, of an engine that is up to date too: steps, ops, the model's lines, rules", async () => {
    const { code, stdout } = await run([...compile, "--explain"]);
    expect(code).toBe(0);
    const [summary, ...blocks] = stdout.trimEnd().split("\n\n");
    expect(summary).toMatch(/is up to date \(cpu:avx2\): nothing to do$/);
    const gated = blocks.find((block) => block.includes("__silu_mul"))!.replace(/own\.ts:\d+/g, "own.ts:N");
    expect(gated).toMatchInlineSnapshot(`
      "linear_bf16_768x256__silu_mul
        source   kernels/linear_bf16_768x256__silu_mul.cpp
        steps    8,16,24,32,40 (5 of 55), layers 0…4
        computes linear_bf16_768x256__silu_mul(v34, model.layers.0.mlp.gate_proj.weight+model.layers.0.mlp.up_proj.weight) -> v42 f32(T, 768) = (silu(acc0) * acc1)
        ops      linear, slice ×2, silu, mul
        from     layers.0…4.mlp.gate_proj (explained/own.ts:N)
                 layers.0…4.mlp.up_proj (explained/own.ts:N)
                 layers.0…4.mlp (explained/own.ts:N)
        because  fuse-projections: gate and up are one linear (×5)
                 form-kernels: read where it lies, never copied: slice (×5)
                 form-kernels: fused into the linear, so that nothing in between is stored: silu, mul (×5)
                 pack-weights: computed once, when weights are packed: concat (×5)"
    `);
    expect(blocks.at(-1)).toMatch(
      /^sample_4096\n.*\n {2}steps {4}\d+ \(1 of \d+\)\n.*\n {2}from {5}the sampler, which follows every model$/,
    );
  });

  it("accounts for every step once, and gives the lines of the architecture's file", async () => {
    const { stdout } = await run([...compile, "--explain", "--json"]);
    const report = JSON.parse(stdout) as { upToDate: boolean; explanation: KernelExplanation[] };
    expect(report.upToDate).toBe(true);
    const steps = report.explanation.flatMap((kernel) => kernel.steps).sort((a, b) => a - b);
    expect(steps).toEqual(Array.from(steps, (_, i) => i));
    const kernels = report.explanation.filter((kernel) => kernel.anchor !== "sample");
    expect(kernels.flatMap((k) => k.origins).filter(({ line }) => !/^explained\/own\.ts:\d+$/.test(line ?? ""))).toEqual([]);
    const fusions = kernels.flatMap((k) => k.reasons).filter((reason) => reason.pass === "fuse-projections");
    expect(fusions).toEqual([
      { pass: "fuse-projections", rule: "q, k and v are one linear", times: 6 },
      { pass: "fuse-projections", rule: "gate and up are one linear", times: 5 },
      { pass: "fuse-projections", rule: "gate and up are one linear", times: 1 }, // of the sampled rows
    ]);
    const gathers = kernels.filter((kernel) => kernel.anchor === "gather");
    expect(gathers.map(({ origins: [first] }) => first?.path)).toEqual([""]); // where the model samples
    for (const { reasons } of gathers) expect(reasons).toContainEqual(expect.objectContaining({ pass: "sampled-rows" }));
    expect(kernels.find((k) => k.name.includes("silu_mul"))).toMatchObject({
      layers: [0, 1, 2, 3, 4],
      ops: { linear: 1, silu: 1 },
    });
  });

  it("tells what is fused and written all the same: columns that become heads in the same CUDA kernel", async () => {
    const flags = ["--no-build", "--target", "cuda:sm_80", "-o", join(scratch, "cuda"), "--explain", "--json"];
    const { stdout } = await run(["compile", pebble, ...flags]);
    const { explanation } = JSON.parse(stdout) as { explanation: KernelExplanation[] };
    const stores = explanation.filter((kernel) => kernel.anchor === "store_kv");
    const rules = stores.map(({ name, reasons }) => [name, reasons.find(({ rule }) => rule.includes("rope"))?.rule]);
    expect(rules).toEqual([
      [
        expect.stringMatching(/^rms_norm_linear_.*_store_kv_/),
        expect.stringMatching(/^in the same kernel, .*: rms_norm, cast, linear, rope$/),
      ],
      [expect.stringMatching(/^rms_norm_linear_.*_t4$/), expect.stringMatching(/^in the same kernel, /)],
      [
        expect.stringMatching(/^norm_rope_store_kv_/),
        expect.stringMatching(/^fused into the store_kv, so that nothing in between is stored/),
      ],
    ]);
  });

  it("says of products why they are apart: norms over rows stand between q, k and attention", async () => {
    const model = join(root, "test", "models", "olmo2");
    const flags = ["--no-build", "--target", "cpu:avx2", "-o", join(scratch, "apart"), "--explain", "--json"];
    const { stdout } = await run(["compile", model, ...flags]);
    const { explanation } = JSON.parse(stdout) as { explanation: KernelExplanation[] };
    const apart = explanation.filter((k) => k.reasons.some(({ rule }) => rule.startsWith("apart from other products")));
    const paths = apart.flatMap((k) => k.origins.map(({ path }) => path));
    expect(paths).toEqual(["q_proj", "k_proj", "v_proj"].map((name) => `layers.0…1.self_attn.${name}`));
  });

  it.skipIf(!hasGolden)("says what is computed of weights before any step: 1 + w of every norm", async () => {
    const flags = [
      "--weights",
      "random",
      "--no-build",
      "--target",
      "cpu:avx2",
      "-o",
      join(scratch, "packed"),
      "--explain",
      "--json",
    ];
    const { stdout } = await run(["compile", goldenFolder("gemma3"), ...flags]);
    const { explanation } = JSON.parse(stdout) as { explanation: KernelExplanation[] };
    const norms = explanation.filter((k) => k.anchor === "rms_norm" && !k.name.includes("gather"));
    for (const { steps, reasons } of norms)
      expect(reasons).toContainEqual({
        pass: "pack-weights",
        rule: "computed once, when weights are packed: add",
        times: steps.length,
      });
    expect(norms.length).toBeGreaterThan(0);
  });

  it.skipIf(!hasGolden)("knows where the plan of an expert layer and the biases of q, k and v come from", async () => {
    const folder = join(scratch, "experts");
    const flags = ["--weights", "random", "--layers", "2", "--no-build", "--max-model-len", "64", "--target", "cpu:avx2"];
    const { stdout } = await run(["compile", goldenFolder("glm4-moe"), "-o", folder, ...flags, "--explain", "--json"]);
    const { explanation } = JSON.parse(stdout) as { explanation: KernelExplanation[] };
    const one = (name: string) => explanation.find((kernel) => kernel.name.startsWith(name));
    const topK = one("route_")!.origins.map(({ path, line }) => ({ path, line }));
    expect(one("sort_slots_")).toMatchObject({ layers: [1], origins: [{ path: "layers.1.mlp.gate" }] });
    expect(topK).toContainEqual(one("sort_slots_")!.origins[0]);
    const biased = explanation.find(({ name }) => name.endsWith("__bias"))!;
    const lines = ["q", "k", "v"].map((part) =>
      biased.origins.filter(({ path }) => path.endsWith(`.${part}_proj`)).map(({ line }) => line),
    );
    expect(lines[0]).toHaveLength(2); // the product's, the sum's
    expect(lines).toEqual([lines[0], lines[0], lines[0]]);
    expect(explanation.filter(({ computes, name }) => !computes.startsWith(`${name}(`))).toEqual([]);
  });
});
