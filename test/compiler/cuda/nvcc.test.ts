/**
 * What the real compiler makes of kernels at the shapes of published models: machine code for sm_80 and sm_90a and PTX of compute_80, no
 * spills, no stack, registers and shared memory as test/golden/cuda/resources.json has them (UPDATE=1 writes it anew). An ordinary run
 * compiles what half a minute is enough for, in an order drawn by a seed, and takes what was compiled before; the full run compiles all.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type CudaArch, cudaDialects } from "../../../compiler/codegen/cuda/dialect.ts";
import { renderCudaKernel } from "../../../compiler/codegen/cuda/render.ts";
import { scheduleCudaKernel } from "../../../compiler/schedule/cuda.ts";
import { isFullRun } from "../../support/compiled-engine.ts";
import { goldenKernels } from "../../support/cuda-golden.ts";
import { FEW_LAYERS, generateForCuda } from "../../support/cuda-models.ts";
import { compileWithin, compileWithNvcc, type NvccJob, type NvccResult, realNvcc } from "../../support/nvcc.ts";
import { seededRandom } from "../../support/seeded-random.ts";

const MODELS = ["qwen3-0.6b", "qwen3-8b", "llama-3.1-8b", "glm-4-9b", "qwen3-30b-a3b", "glm-4.5-air", "gemma-3-1b"] as const;
/** The models, and the kernels whose text is kept, which have other dtypes too. */
const TABLES = [...MODELS, "golden"] as const;
const ARCHS = ["sm_80", "sm_90a"] as const;
const BUDGET_MS = 30_000;
/** Registers that a change may add unseen. */
const SLACK = 8;

/** One kernel of a model on an architecture. */
interface Instance {
  readonly kernel: string;
  readonly arch: CudaArch;
  readonly threads: number;
  readonly blocks: number;
  /** Asked for by launches. */
  readonly sharedBytes: number;
  readonly job: NvccJob;
}
/** Registers and shared bytes of a kernel by architecture. */
type Table = Record<string, Partial<Record<CudaArch, readonly [registers: number, sharedBytes: number]>>>;
interface Baseline {
  readonly nvcc: string;
  readonly models: Record<string, Table>;
}

const file = fileURLToPath(new URL("../../golden/cuda/resources.json", import.meta.url));
const isUpdate = process.env.UPDATE === "1";
const isWhole = isFullRun || isUpdate;
const baseline: Baseline = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : { nvcc: "", models: {} };

const nvcc = realNvcc();
if (!nvcc) console.log("kernels are not compiled for GPUs: no nvcc was found (see NVCC)");

const instances = new Map<string, readonly Instance[]>();
let results = new Map<NvccJob, NvccResult>();

/** Texts to compile: one for all kernels of the same text. */
class Jobs {
  readonly bySource = new Map<string, NvccJob & { readonly archs: CudaArch[] }>();

  /** A kernel, which must be launched as it is declared. */
  add(
    kernel: string,
    source: string,
    arch: CudaArch,
    launch: { readonly threads: number; readonly sharedBytes: number },
  ): Instance {
    const [, name = "", threads, blocks] = source.match(/INGOT_KERNEL\((?=\d+, \d+\) (\w+))(\d+), (\d+)\)/) ?? [];
    if (Number(threads) !== launch.threads) {
      throw new Error(`${kernel} declares ${threads} threads and is launched with ${launch.threads}`);
    }
    const job = this.bySource.get(source) ?? { name, source, archs: [] };
    if (!job.archs.includes(arch)) job.archs.push(arch);
    this.bySource.set(source, job);
    return { kernel, arch, threads: Number(threads), blocks: Number(blocks), sharedBytes: launch.sharedBytes, job };
  }
}

async function instancesOf(model: string, jobs: Jobs): Promise<Instance[]> {
  const found: Instance[] = [];
  for (const arch of ARCHS) {
    const { emitted } = await generateForCuda(model, `cuda:${arch}`, FEW_LAYERS);
    for (const { name, source } of emitted.texts) {
      const { launch } = emitted.entries.find((entry) => entry.name === name)!;
      if (!("threads" in launch)) throw new Error(`${name} is for a team of threads`);
      found.push(jobs.add(name, source, arch, launch));
    }
  }
  return found;
}

function goldenInstances(jobs: Jobs): Instance[] {
  return goldenKernels.map(({ name, spec, arch, maxTokens }) => {
    const schedule = scheduleCudaKernel(spec, cudaDialects[arch], maxTokens);
    return jobs.add(name, renderCudaKernel(spec, schedule).source, arch, schedule);
  });
}

describe.skipIf(!nvcc)("kernels through nvcc", () => {
  beforeAll(async () => {
    const made = new Jobs();
    for (const model of MODELS) instances.set(model, await instancesOf(model, made));
    instances.set("golden", goldenInstances(made));
    const jobs = made.bySource;
    const seed = Number(process.env.INGOT_TEST_SEED ?? Date.now() % 1e9);
    const random = seededRandom(seed);
    const order = [...jobs.values()].map((job) => [random.below(2 ** 31), job] as const).sort((a, b) => a[0] - b[0]);
    results = await compileWithin(
      nvcc!,
      order.map(([, job]) => job),
      isWhole ? Number.POSITIVE_INFINITY : BUDGET_MS,
    );
    console.log(`${results.size} of ${jobs.size} texts compiled with ${nvcc!.version}, seed ${seed} (INGOT_TEST_SEED)`);
    if (nvcc!.version !== baseline.nvcc)
      console.log(`registers are not compared: the baseline is of ${baseline.nvcc || "no compiler"}`);
    if (isWhole) expect(results.size).toBe(jobs.size);
  }, 3_600_000);

  it.each(TABLES)("of %s become machine code and PTX, without spills or stack, within what their blocks may use", (model) => {
    const kernels = instances.get(model)!;
    expect(new Set(kernels.map((k) => k.kernel)).size).toBeLessThanOrEqual(150);
    for (const { kernel, arch, threads, blocks, sharedBytes, job } of kernels) {
      const result = results.get(job);
      if (!result) continue;
      const what = `${kernel} for ${arch}`;
      expect("error" in result ? result.error : "", what).toBe("");
      const { [arch]: used } = result as Exclude<NvccResult, { error: string }>;
      expect(used, what).toMatchObject({ spillBytes: 0, stackBytes: 0 });
      const cap = Math.min(255, Math.floor(65536 / (threads * blocks) / 8) * 8);
      expect(used!.registers, `registers of ${what}, ${blocks} × ${threads} threads`).toBeLessThanOrEqual(cap);
      expect(used!.sharedBytes + sharedBytes, `shared memory of ${what}`).toBeLessThanOrEqual(cudaDialects[arch].sharedBytes);
    }
  });

  it.skipIf(isUpdate || nvcc?.version !== baseline.nvcc).each(TABLES)("of %s use no more than they did", (model) => {
    const table = baseline.models[model] ?? {};
    const kernels = instances.get(model)!;
    expect([...new Set(kernels.map((k) => k.kernel))].sort(), "kernels of resources.json; UPDATE=1 writes it anew").toEqual(
      Object.keys(table).sort(),
    );
    for (const { kernel, arch, sharedBytes, job } of kernels) {
      const result = results.get(job);
      if (!result || "error" in result) continue;
      const used = result[arch]!;
      const [registers, shared] = table[kernel]![arch]!;
      expect(used.registers, `registers of ${kernel} for ${arch}`).toBeLessThanOrEqual(registers + SLACK);
      expect(used.sharedBytes + sharedBytes, `shared bytes of ${kernel} for ${arch}`).toBeLessThanOrEqual(shared);
    }
  });

  it("would be found out if they kept an array in memory or held more than registers", async () => {
    const kernel = (name: string, threads: number, body: string) => ({
      name,
      source: `#include "prelude.cuda.h"\nnamespace ingot {\nINGOT_KERNEL(${threads}, 1) ${name}(float* x, const int* n) {\n${body}\n}\n}\n`,
      archs: ["sm_80" as const],
    });
    const indexed = kernel(
      "indexed",
      32,
      "float a[512];\nfor (int i = 0; i < 512; ++i) a[n[i]] = x[i];\nx[0] = a[n[0]] + a[n[1]];",
    );
    const held =
      "float a[200];\nINGOT_UNROLL for (int i = 0; i < 200; ++i) a[i] = x[i * 1024 + thread_id()];\nsync_block();\n" +
      "INGOT_UNROLL for (int i = 0; i < 200; ++i) x[i * 1024 + thread_id()] = a[i] + a[(i * 7 + 3) % 200];";
    const [stack, spilled] = await Promise.all([indexed, kernel("held", 1024, held)].map((job) => compileWithNvcc(nvcc!, job)));
    expect(stack).toMatchObject({ sm_80: { stackBytes: 2048 } });
    expect((spilled as { sm_80: { spillBytes: number } }).sm_80.spillBytes).toBeGreaterThan(0);
    expect(await compileWithNvcc(nvcc!, kernel("wrong", 32, "nothing();"))).toMatchObject({
      error: expect.stringContaining("nothing"),
    });
  });
});

afterAll(() => {
  if (!isUpdate || !nvcc || results.size === 0) return;
  const models = [...instances].map(([model, kernels]) => {
    const table: Table = {};
    for (const { kernel, arch, sharedBytes, job } of kernels) {
      const result = results.get(job) as Exclude<NvccResult, { error: string }>;
      table[kernel] = { ...table[kernel], [arch]: [result[arch]!.registers, result[arch]!.sharedBytes + sharedBytes] };
    }
    const lines = Object.entries(table).map(([kernel, entry]) => `      ${JSON.stringify(kernel)}: ${JSON.stringify(entry)}`);
    return `    ${JSON.stringify(model)}: {\n${lines.join(",\n")}\n    }`;
  });
  writeFileSync(file, `{\n  "nvcc": ${JSON.stringify(nvcc.version)},\n  "models": {\n${models.join(",\n")}\n  }\n}\n`);
});
