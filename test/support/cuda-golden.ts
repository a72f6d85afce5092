/**
 * A kernel of every CUDA skeleton at a real model's shape, whose text is reviewed in test/golden/cuda; and the same kernel at a small shape
 * that fills no tile, whose accesses are counted under the checker.
 */
import { type CudaArch, cudaDialects } from "../../compiler/codegen/cuda/dialect.ts";
import { renderCudaKernel } from "../../compiler/codegen/cuda/render.ts";
import { type DType, timesDim } from "../../compiler/ir/tensor-type.ts";
import { forBlocks, splitLinears } from "../../compiler/kernels/for-blocks.ts";
import { interpretKernel } from "../../compiler/kernels/interpret.ts";
import { kernelName } from "../../compiler/kernels/name.ts";
import type { GroupedLinearKernel, KernelSpec, LinearKernel, SlotSumKernel } from "../../compiler/kernels/spec.ts";
import { type CudaSchedule, linearInTiles, scheduleCudaKernel } from "../../compiler/schedule/cuda.ts";
import type { Tiles } from "../../compiler/schedule/cuda-tiles.ts";
import { MAX_LOGPROBS } from "../../runtime/batch.ts";
import { plainRow, type Row } from "../native/reference-sampler.ts";
import { sampleArrays } from "../native/sample-kernel.ts";
import { type CudaEnvironment, runCudaKernel } from "./cuda-kernel.ts";
import {
  type ExpertLayer,
  expertEnvironment,
  groupedLinearSpec,
  routeSpec,
  sigmoidSteps,
  softmaxSteps,
  sortSlotsSpec,
} from "./expert-specs.ts";
import {
  acc,
  add,
  attentionSpec,
  buffer,
  gatherSpec,
  input,
  layerNormSpec,
  linearSpec,
  operand,
  randomEnvironment,
  randomSource,
  storeKvSpec,
  type TestSequence,
  tensor,
} from "./kernel-specs.ts";
import { runSimt, type SimtAccess } from "./simt-kernel.ts";

/** A kernel for steps of up to `maxTokens`. */
export interface GoldenKernel {
  /** `linear_bf16_1024x3072__add.16.sm_80`: of a linear, whose skeleton depends on it, with the largest step. */
  readonly name: string;
  readonly spec: KernelSpec;
  readonly arch: CudaArch;
  readonly maxTokens: number;
  /** The small kernel's text, and what it did to memory. */
  count(): { readonly source: string; readonly accesses: readonly SimtAccess[] };
}

const SEED = 20;

interface Small {
  readonly spec: KernelSpec;
  readonly envs: readonly CudaEnvironment[];
}

function golden(
  spec: KernelSpec,
  small: () => Small,
  { arch = "sm_80", maxTokens = 4096 } = {} as Partial<GoldenKernel>,
): GoldenKernel {
  const isSized = spec.kind === "linear" || spec.kind === "grouped_linear";
  const name = [kernelName(spec), ...(isSized ? [maxTokens] : []), arch].join(".");
  const count = () => {
    const { spec: counted, envs } = small();
    const schedule = tilesOf(spec, counted, arch, maxTokens);
    const { source } = renderCudaKernel(counted, { ...scheduleCudaKernel(counted, cudaDialects[arch], maxTokens), ...schedule });
    return { source, accesses: runCudaKernel(counted, envs, { arch, maxTokens, schedule, checked: true }).accesses };
  };
  return { name, spec: { ...spec, name: kernelName(spec) } as KernelSpec, arch, maxTokens, count };
}

/** Has a small linear computed in the tiles of a real model's. */
function tilesOf(spec: KernelSpec, small: KernelSpec, arch: CudaArch, maxTokens: number): Partial<CudaSchedule> {
  const { skeleton, blocking } = scheduleCudaKernel(spec, cudaDialects[arch], maxTokens);
  if (skeleton !== "linear_mma") return {};
  return linearInTiles(small as LinearKernel, { tiles: blocking as unknown as Tiles, parts: blocking.parts! });
}

/** The small kernel on random rows. */
const onRows =
  (spec: KernelSpec, rows = 5) =>
  (): Small => ({ spec, envs: [randomEnvironment(spec, randomSource(SEED), { rows, sampled: Math.min(rows, 3) })] });

const common = { nodes: [], epilogue: acc, operands: [] };

const rmsNorm = (cols: number): KernelSpec => ({
  ...common,
  kind: "rms_norm",
  name: "norm",
  x: buffer("x", cols),
  rows: null,
  gain: tensor("gain", 1, cols, "bf16"),
  eps: 1e-6,
  out: buffer("out", cols, "bf16"),
});
const embedding = (vocab: number, cols: number): KernelSpec => ({
  ...common,
  kind: "embedding",
  name: "embedding",
  ids: input("token_ids"),
  table: tensor("table", vocab, cols, "bf16"),
  out: buffer("out", cols),
});
const elementwise = (cols: number): KernelSpec => ({
  ...common,
  kind: "elementwise",
  name: "elementwise",
  operands: [buffer("a", cols), buffer("b", cols, "bf16")],
  epilogue: add(operand(0), operand(1)),
  out: buffer("out", cols),
});
const slotSum = (perToken: number, cols: number): SlotSumKernel => ({
  ...common,
  kind: "slot_sum",
  name: "sum",
  y: { ...buffer("y", cols), rows: timesDim(buffer("x", 1).rows, perToken) },
  weights: buffer("weights", perToken),
  epilogue: add(acc, operand(0)),
  operands: [buffer("residual", cols)],
  out: buffer("out", cols),
});
const angles = (half: number, beyond: number | null): KernelSpec => {
  const invFreq = Array.from({ length: half }, (_, i) => 10000 ** (-i / half));
  const long = { beyond: beyond ?? 0, invFreq: invFreq.map((f) => f / 4), seqIds: input("seq_ids"), seqLens: input("seq_lens") };
  return {
    ...{ kind: "rope_angles", name: "angles", nodes: [], positions: input("positions"), invFreq },
    ...{ attentionFactor: beyond === null ? 1 : 1.19, long: beyond === null ? null : long, out: buffer("out", 2 * half) },
  };
};
const residual = (cols: number) => ({ operands: [buffer("residual", cols)], epilogue: add(operand(0), acc) });

/** Prefill and decode in one batch, one of them long enough for two chunks. */
const sequences: readonly TestSequence[] = [
  { length: 37, tokens: 37 },
  { length: 300, tokens: 1 },
  { length: 65, tokens: 2 },
];
function onCache(spec: KernelSpec, of: readonly TestSequence[] = sequences): () => Small {
  return () => ({ spec, envs: [randomEnvironment(spec, randomSource(SEED), { sequences: of, blockSize: 64 })] });
}

/** An attention and what plans it, where anything does. */
function attention(o: Parameters<typeof attentionSpec>[0]): readonly KernelSpec[] {
  return forBlocks([attentionSpec(o)], (spec) => spec.kv.dtype !== "f32");
}
function onCacheInUnits(o: Parameters<typeof attentionSpec>[0]): () => Small {
  return () => {
    const kernels = attention(o);
    const env = randomEnvironment(attentionSpec(o), randomSource(SEED), { sequences, blockSize: 64 });
    for (const units of kernels.slice(0, -1)) interpretKernel(units, env);
    return { spec: kernels.at(-1)!, envs: [env] };
  };
}

/** Qwen3-30B-A3B's experts, and few small ones. */
const experts = { experts: 128, perToken: 8, hidden: 2048, inner: 768, weights: "bf16", x: "bf16" } as const;
const fewExperts = { ...experts, experts: 6, perToken: 2, hidden: 72, inner: 48 } as const;

/** Rows of experts go back to their slots. */
function scattered(l: ExpertLayer): GroupedLinearKernel {
  const spec = groupedLinearSpec({ ...l, hidden: l.inner, inner: l.hidden }, { ways: 1, epilogue: acc, gathers: false });
  return { ...spec, scatters: true, out: { ...spec.out, dtype: "f32" as DType, rows: timesDim(spec.tokens, l.perToken) } };
}
const toExperts = (spec: (l: ExpertLayer) => KernelSpec, tokens: number) => (): Small => {
  const small = spec(fewExperts);
  const layer = small.kind === "grouped_linear" ? { ...fewExperts, hidden: small.k, inner: small.n } : fewExperts;
  const env = expertEnvironment(layer, tokens, randomSource(SEED), 3);
  if (small.kind === "grouped_linear" && !small.gathers) {
    env.buffers.set(small.x.name, new Float32Array((small.x.rows as number) * small.k).fill(1));
  }
  return { spec: small, envs: [env] };
};

const sampler = (vocab: number) =>
  ({ kind: "sample", name: "sample", nodes: [], logits: buffer("logits", vocab, "f32", "S"), vocabSize: vocab }) as const;

/** Greedy, and with everything that a row can ask for. */
function countSampler(): ReturnType<GoldenKernel["count"]> {
  const [vocab, spec] = [1003, sampler(1003)];
  const asked: Partial<Row> = { temperature: 0.8, topK: 40, topP: 0.9, minP: 0.01, repetitionPenalty: 1.2, numLogprobs: 3 };
  const rows: Row[] = [plainRow, { ...plainRow, ...asked, tokens: [[5, 1]], bias: [[7, 2]] }];
  const random = randomSource(SEED);
  const logits = rows.map(() => Float32Array.from({ length: vocab }, () => 3 * random.normal()));
  const arrays = sampleArrays(rows, vocab, (r) => logits[r]!);
  const schedule = scheduleCudaKernel(spec, cudaDialects.sm_80, 64);
  const kernel = renderCudaKernel(spec, schedule);
  const bytes = (a: Int32Array | Float32Array) => new Uint8Array(a.buffer);
  const outputs = [1, 1, MAX_LOGPROBS, MAX_LOGPROBS].map((n) => new Uint8Array(4 * n * rows.length).fill(0xff));
  const given = [arrays.all, arrays.floats, arrays.ints, arrays.tokens].map(bytes);
  const args = [...given, ...outputs, bytes(Int32Array.of(rows.length))];
  const launch = { grid: rows.length, threads: schedule.threads, sharedBytes: schedule.sharedBytes, args };
  return { source: kernel.source, accesses: runSimt(kernel, [launch], { checked: true }).accesses };
}

/** A linear that makes the heads which the same kernel stores, its rows normalized before. */
function projected(k: number, shape: Parameters<typeof storeKvSpec>[0]): KernelSpec {
  const heads = shape.heads + 2 * shape.kvHeads;
  const linear: LinearKernel = {
    ...linearSpec({ n: heads * shape.headDim, k }),
    x: buffer("rows", k),
    norm: { gain: tensor("row_gain", 1, k), eps: 1e-6, dtype: "bf16" },
    out: buffer("x", heads * shape.headDim),
  };
  const counters = { ...buffer("counters", heads, "i32"), rows: 1 };
  return { ...storeKvSpec(shape), projection: { linear: { ...linear, name: kernelName(linear) }, counters } };
}

/** Blocks share its sums two by two. */
const inTwoParts = (spec: LinearKernel): KernelSpec => splitLinears([spec], () => ({ parts: 2, tiles: 64, sums: 64 * 64 }))[0]!;

const linears: readonly GoldenKernel[] = [
  golden(
    linearSpec({ n: 3072, k: 1024, ways: 2, x: "bf16", out: "bf16" }),
    onRows(linearSpec({ n: 40, k: 264, ways: 2, x: "bf16", out: "bf16" }), 1),
    { maxTokens: 1 },
  ),
  golden(
    linearSpec({ n: 151936, k: 1024, x: "bf16", rows: "S" }),
    onRows(linearSpec({ n: 4104, k: 72, x: "bf16", rows: "S" }), 1),
    { maxTokens: 1 },
  ),
  ...[4, 16, 64, 4096].map((maxTokens) => {
    const small = linearSpec({ n: 48, k: 136, x: "bf16", ...residual(48) });
    return golden(linearSpec({ n: 1024, k: 3072, x: "bf16", ...residual(1024) }), onRows(small, Math.min(maxTokens - 1, 70)), {
      maxTokens,
    });
  }),
  golden(
    inTwoParts(linearSpec({ n: 1024, k: 3072, x: "bf16", ...residual(1024) })),
    onRows(inTwoParts(linearSpec({ n: 48, k: 264, x: "bf16", ...residual(48) })), 70),
    { arch: "sm_90a", maxTokens: 256 },
  ),
  golden(
    linearSpec({ n: 6144, k: 4096, ways: 2, x: "f16", weights: "f16", out: "f16" }),
    onRows(linearSpec({ n: 40, k: 72, ways: 2, x: "f16", weights: "f16", out: "f16" }), 70),
  ),
  golden(linearSpec({ n: 1024, k: 2048, weights: "f32" }), onRows(linearSpec({ n: 40, k: 132, weights: "f32" }), 6)),
];

const attentions: readonly GoldenKernel[] = [
  golden(
    attention({ heads: 16, kvHeads: 8, headDim: 128, out: "bf16" }).at(-1)!,
    onCacheInUnits({ heads: 4, kvHeads: 2, headDim: 128, out: "bf16" }),
  ),
  golden(
    attention({ heads: 64, kvHeads: 8, headDim: 64, window: 128, sinks: "bf16", out: "bf16" }).at(-1)!,
    onCacheInUnits({ heads: 16, kvHeads: 2, headDim: 64, window: 128, sinks: "bf16", out: "bf16" }),
    { arch: "sm_90a" },
  ),
  golden(attention({ heads: 4, kvHeads: 1, headDim: 256 }).at(-1)!, onCacheInUnits({ heads: 4, kvHeads: 1, headDim: 256 })),
  golden(
    attention({ heads: 16, kvHeads: 8, headDim: 128, dtype: "f32" }).at(-1)!,
    onCache(attention({ heads: 4, kvHeads: 2, headDim: 128, dtype: "f32" })[0]!),
  ),
  golden(attention({ heads: 16, kvHeads: 8, headDim: 128 })[0]!, onCache(attention({ heads: 4, kvHeads: 2, headDim: 128 })[0]!)),
  golden(
    storeKvSpec({ heads: 16, kvHeads: 8, headDim: 128, norm: true, half: 64 }),
    onCache(storeKvSpec({ heads: 3, kvHeads: 2, headDim: 128, norm: true, half: 64 })),
  ),
  golden(
    projected(1024, { heads: 16, kvHeads: 8, headDim: 128, norm: true, half: 64 }),
    onCache(projected(136, { heads: 3, kvHeads: 1, headDim: 128, norm: true, half: 64 }), [{ length: 70, tokens: 1 }]),
    { maxTokens: 1, arch: "sm_90a" },
  ),
  golden(
    storeKvSpec({ heads: 32, kvHeads: 2, headDim: 128, half: 32, style: "interleaved" }),
    onCache(storeKvSpec({ heads: 3, kvHeads: 2, headDim: 128, half: 32, style: "interleaved" })),
  ),
];

const ofExperts: readonly GoldenKernel[] = [
  golden(groupedLinearSpec(experts), toExperts(groupedLinearSpec, 2), { maxTokens: 1 }),
  golden(groupedLinearSpec(experts), toExperts(groupedLinearSpec, 40), { maxTokens: 64 }),
  golden(scattered(experts), toExperts(scattered, 40)),
  golden(slotSum(8, 2048), onRows(slotSum(3, 72))),
  golden(routeSpec(softmaxSteps(128, 8)), onRows(routeSpec(softmaxSteps(128, 8)))),
  golden(routeSpec(sigmoidSteps()), onRows(routeSpec(sigmoidSteps()))),
  golden(sortSlotsSpec(experts), toExperts(sortSlotsSpec, 40)),
];

/** Every kernel whose text is kept. */
export const goldenKernels: readonly GoldenKernel[] = [
  golden(embedding(151936, 1024), onRows(embedding(77, 104))),
  golden(rmsNorm(1024), onRows(rmsNorm(1024))),
  golden(rmsNorm(5120), onRows(rmsNorm(5120))),
  golden(layerNormSpec({ cols: 768, gathers: true }), onRows(layerNormSpec({ cols: 768, gathers: true }))),
  golden(gatherSpec({ from: 1024, cols: 1024, gathers: true }), onRows(gatherSpec({ from: 104, cols: 104, gathers: true }))),
  golden(elementwise(1152), onRows(elementwise(104))),
  golden(angles(64, null), onRows(angles(64, null))),
  golden(angles(48, 4096), onRows(angles(48, 3))),
  ...linears,
  ...attentions,
  ...ofExperts,
  {
    name: "sample_151936.sm_80",
    spec: { ...sampler(151936), name: "sample_151936" },
    arch: "sm_80",
    maxTokens: 64,
    count: countSampler,
  },
];
