/**
 * Generated CUDA sources, reviewed when they change: a refactor shows an empty diff in test/golden/cuda. `vitest --update` rewrites them.
 * Each goes through the compiler of the emulator; what real ones make of it is in test/compiler/cuda.
 */
import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { cudaDialects } from "../../../compiler/codegen/cuda/dialect.ts";
import { renderCudaKernel } from "../../../compiler/codegen/cuda/render.ts";
import { templatesFolder } from "../../../compiler/codegen/template.ts";
import { scheduleCudaKernel } from "../../../compiler/schedule/cuda.ts";
import { goldenKernels } from "../../support/cuda-golden.ts";
import { buildSimtKernel } from "../../support/simt-kernel.ts";

const folder = fileURLToPath(new URL("../../golden/cuda/", import.meta.url));
const schedule = (kernel: (typeof goldenKernels)[number]) =>
  scheduleCudaKernel(kernel.spec, cudaDialects[kernel.arch], kernel.maxTokens);

describe("generated CUDA sources", () => {
  it.each(goldenKernels)("$name is what was reviewed, and compiles", async (kernel) => {
    const rendered = renderCudaKernel(kernel.spec, schedule(kernel));
    await expect(rendered.source).toMatchFileSnapshot(`${folder}${kernel.name}.cu`);
    expect(buildSimtKernel(rendered, false)).not.toBe("");
  });

  it("are kept of every skeleton, and no file is left over", () => {
    const names = new Set(goldenKernels.map((kernel) => kernel.name));
    expect(names.size).toBe(goldenKernels.length);
    const kept = readdirSync(folder).filter((file) => file.endsWith(".cu"));
    expect(kept.sort()).toEqual([...names].map((name) => `${name}.cu`).sort());
    const entries = readdirSync(templatesFolder()).filter((file) => file.endsWith(".cuda.njk"));
    const skeletons = entries.map((file) => file.replace(".cuda.njk", ""));
    const used = new Set(goldenKernels.map((kernel) => schedule(kernel).skeleton));
    expect(skeletons.filter((name) => !used.has(name))).toEqual([
      "heads",
      "linear_rows",
      "store_head",
      "tile_product",
      "vector_product",
    ]); // which others include
  });
});
