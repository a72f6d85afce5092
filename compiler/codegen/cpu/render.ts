/**
 * Kernel specs become C++ text: a skeleton, its slots, and the constants a schedule chose.
 *
 * Text depends on what a kernel computes and nothing else (no layer, tensor or buffer name), so equal work has equal text.
 */
import { KERNEL_ABI } from "../../../runtime/manifest.ts";
import { InternalError, invariant } from "../../errors.ts";
import { headSources, kernelArgs } from "../../kernels/operands.ts";
import type {
  BufferValue,
  GatherKernel,
  HeadChain,
  KernelKind,
  KernelOf,
  KernelSpec,
  LayerNormKernel,
  RmsNormKernel,
  StoreKvKernel,
} from "../../kernels/spec.ts";
import { floatLiteral } from "../expression.ts";
import type { RenderedKernel, SourceFile } from "../rendered.ts";
import { ropeAngles } from "../rope-angles.ts";
import { readTemplate, renderTemplate, type TemplateContext } from "../template.ts";
import type { CpuDialect } from "./dialect.ts";
import { expertContexts } from "./experts.ts";
import type { KernelSchedule } from "./kernel-schedule.ts";
import { cppType, extentText, field, rowCountText, slots } from "./kernel-text.ts";
import { paddedK } from "./layout.ts";
import { productContext } from "./product.ts";

/** Renders `spec` as `schedule` says, under the name `name`. */
export function renderKernel(spec: KernelSpec, schedule: KernelSchedule, dialect: CpuDialect, name = spec.name): RenderedKernel {
  invariant(schedule.isa === dialect.isa, `${spec.name} was scheduled for ${schedule.isa}, not for ${dialect.isa}`);
  const context = (contexts[spec.kind] as ContextOf<KernelKind>)(spec as never, schedule, dialect);
  const { scratchBytes = 0, ...fields } = context;
  return {
    name,
    source: renderTemplate(`${schedule.skeleton}.cpu.njk`, { name, prelude: dialect.prelude, ...fields }),
    scratchBytes: scratchBytes as number,
  };
}

/** Files every kernel library of a dialect needs: the preludes, and the source that says which calling convention it was built for. */
export function librarySources(dialect: CpuDialect): readonly SourceFile[] {
  const library = [
    "// Version of the calling convention (prelude.cpu.h) these kernels were generated for.",
    "#include <stdint.h>",
    "",
    'extern "C" __attribute__((visibility("default"))) const uint32_t ingot_abi;',
    `const uint32_t ingot_abi = ${KERNEL_ABI};`,
    "",
  ].join("\n");
  return [...dialect.preludeFiles.map((name) => ({ name, text: readTemplate(name) })), { name: "library.cpp", text: library }];
}

type ContextOf<K extends KernelKind> = (spec: KernelOf<K>, schedule: KernelSchedule, dialect: CpuDialect) => TemplateContext;

const contexts: { readonly [K in KernelKind]: ContextOf<K> } = {
  embedding: (s, schedule) => ({
    cols: s.out.cols,
    vocab: s.table.rows,
    tableDtype: cppType(s.table.dtype),
    tableLayout: schedule.tableLayout,
    fromPanels: schedule.tableLayout === "panel16",
    paddedK: paddedK(s.table),
    outDtype: s.out.dtype,
    ...slots({ ...s, isa: schedule.isa, x: null, firstOperandArg: 2, outArg: 2 + s.operands.length, ways: 1 }),
  }),

  rms_norm: (s, schedule) => ({ ...rowNorm(s), ...gathered(s, schedule, 1) }),

  layer_norm: (s, schedule) => ({
    ...rowNorm(s),
    biasArg: s.rows ? 3 : 2,
    biasDtype: s.bias.dtype,
    biasType: cppType(s.bias.dtype),
    loadBias: vectorText("bias", s.out.cols),
    ...gathered(s, schedule, 2),
  }),

  gather: (s, schedule) => ({
    xCols: s.x.cols,
    sourceCol: s.col === 0 ? "j" : `${s.col} + j`,
    ...gathered(s, schedule, 0),
  }),

  linear: (s, schedule) => {
    const next = schedule.skeleton === "linear_amx" ? "kTileC" : "16";
    const accs = s.ways === 1 ? "load(acc)" : `load(acc), load(acc + ${next})`;
    return {
      ...productContext(s, schedule, s.ways),
      ways: s.ways,
      weightRows: s.n * s.ways,
      units: Math.ceil(s.n / 16),
      rows: extentText(s.out.rows),
      rowCount: rowCountText(s.out.rows),
      outDtype: s.out.dtype,
      sums:
        s.ways === 1
          ? "acc[t, j] = Σ_k x[t, k] · w[j, k]"
          : `acc0[t, j] = Σ_k x[t, k] · w[j, k];  acc1[t, j] = Σ_k x[t, k] · w[${s.n} + j, k]`,
      writeAcc: `write(slots, row0 + row, (unit + u) * 16, ${accs});`,
      ...slots({ ...s, isa: schedule.isa, x: null, firstOperandArg: 2, outArg: 2 + s.operands.length }),
    };
  },

  rope_angles: (s) => ({
    ...ropeAngles(s),
    cols: s.out.cols,
    frequencies: s.long ? "inv_freq" : "kInvFreq",
    outArg: kernelArgs(s).length - 1,
  }),

  store_kv: (s, schedule) => storeKv(s, schedule),

  paged_attention: (s, schedule) => {
    const { blocking } = schedule;
    const group = s.numHeads / s.kv.numKvHeads;
    const rows = field(blocking, "tileTokens") * group;
    const chunk = field(blocking, "chunk");
    return {
      headDim: s.headDim,
      numHeads: s.numHeads,
      numKvHeads: s.kv.numKvHeads,
      group,
      kvDtype: cppType(s.kv.dtype),
      blockSize: schedule.kvBlockSize,
      scale: s.scale,
      scaleLiteral: floatLiteral(s.scale),
      visible: s.window === null ? "0 … positions[t]" : `the last ${s.window} up to positions[t]`,
      firstVisible: s.window === null ? "0" : `int32_t(max_of(0, positions[t] + 1 - ${s.window}))`,
      outCols: s.out.cols,
      outDtype: s.out.dtype,
      ...blocking,
      hasSinks: s.sinks !== null,
      sinksDtype: s.sinks?.dtype ?? "",
      sinksType: cppType(s.sinks?.dtype ?? "f32"),
      ...slots({ ...s, isa: schedule.isa, x: null, operands: [], firstOperandArg: 5, outArg: s.sinks ? 6 : 5, ways: 1 }),
      scratchBytes: 4 * (rows * (2 * s.headDim + chunk + 4) + 2 * chunk * s.headDim),
    };
  },

  ...expertContexts,
  slot_sum: (s) => onlyBlocks(s.name),
  attention_units: (s) => onlyBlocks(s.name),

  elementwise: (s, schedule) => ({
    cols: s.out.cols,
    rows: extentText(s.out.rows),
    outDtype: s.out.dtype,
    ...slots({ ...s, isa: schedule.isa, x: null, firstOperandArg: 0, outArg: s.operands.length, ways: 0 }),
  }),

  sample: (s) => {
    const padded = Math.ceil(s.vocabSize / 16) * 16; // see the scratch line of the skeleton
    return {
      vocab: s.vocabSize,
      scratchBytes: 12 * padded + 8 * Math.ceil(padded / 1024) + 4 * Math.ceil(s.vocabSize / 64),
    };
  },
};

function onlyBlocks(name: string): never {
  throw new InternalError(`${name} is a kernel of blocks of threads, which CPUs do not have`);
}

/** What every norm of whole rows says. */
const rowNorm = (s: RmsNormKernel | LayerNormKernel) => ({
  gainArg: s.rows ? 2 : 1,
  gainDtype: s.gain.dtype,
  gainType: cppType(s.gain.dtype),
  eps: s.eps,
  epsLiteral: floatLiteral(s.eps),
  loadGain: vectorText("gain", s.out.cols),
});

/** What every kernel says that reads rows of x in their own or in a gathered order, `vectors` tensors after them. */
function gathered(s: RmsNormKernel | LayerNormKernel | GatherKernel, { isa }: KernelSchedule, vectors: number): TemplateContext {
  const firstOperandArg = (s.rows ? 2 : 1) + vectors;
  return {
    cols: s.out.cols,
    rows: extentText(s.out.rows),
    sourceRow: s.rows ? "rows[t]" : "t",
    gathers: s.rows !== null,
    xDtype: s.x.dtype,
    outDtype: s.out.dtype,
    ...slots({ ...s, isa, firstOperandArg, outArg: firstOperandArg + s.operands.length, ways: 1 }),
  };
}

/** Sixteen columns of a vector, zero beyond the last. */
const vectorText = (name: string, cols: number): string =>
  cols % 16 === 0 ? `load(${name} + col)` : `load_first(${name} + col, kCols - col)`;

function storeKv(s: StoreKvKernel, schedule: KernelSchedule): TemplateContext {
  const args = kernelArgs(s);
  const sources = headSources(s);
  const sourceName = (x: BufferValue) => (sources.length === 1 ? "x" : `x${sources.findIndex((o) => o.name === x.name)}`);
  let next = sources.length;
  const chain = (name: string, c: HeadChain, store: string) => ({
    name,
    source: sourceName(c.x),
    sourceCols: c.x.cols,
    from: `${c.col}${sources.length === 1 ? "" : ` of ${sourceName(c.x)}`}`,
    col: c.col,
    numHeads: c.numHeads,
    what: `${c.norm ? `, normalized (eps ${c.norm.eps})` : ""}${c.rope ? `, ${2 * c.rope.half} elements rotated in ${c.rope.style === "half" ? "halves" : "neighbouring pairs"}` : ""}`,
    hasNorm: c.norm !== null,
    gainArg: c.norm ? next++ : 0,
    eps: floatLiteral(c.norm?.eps ?? 0),
    hasRope: c.rope !== null,
    anglesArg: c.rope ? next++ : 0,
    half: c.rope?.half ?? 0,
    angleCols: c.rope?.angles.cols ?? 0,
    interleaved: c.rope?.style === "interleaved",
    store,
  });
  const chains = [
    chain("q", s.q, `memcpy(out + t * ${s.out.cols} + h * kHeadDim, head, sizeof head);`),
    chain("k", s.k, "store_key(keys + h * 2 * kHalfBlock, offset % 16, head);"),
    chain("v", s.v, "for (int64_t d = 0; d < kHeadDim; d += 16) store(values + h * 2 * kHalfBlock + d, load(head + d));"),
  ];
  invariant(args.length === next + 5, `${s.name} takes ${args.length} arguments; its skeleton knows ${next + 5}`);
  invariant(
    [...sources, s.out].every((b) => b.dtype === "f32"),
    `${s.name} reads and writes f32 rows`,
  );
  return {
    headDim: s.headDim,
    numKvHeads: s.kv.numKvHeads,
    what: sources.length === 1 ? "row of the fused projection" : "rows of q, k and v",
    sources: sources.map((x, arg) => ({ name: sourceName(x), cols: x.cols, arg })),
    outCols: s.out.cols,
    kvDtype: cppType(s.kv.dtype),
    blockSize: schedule.kvBlockSize,
    anyNorm: chains.some((c) => c.hasNorm),
    anyRope: chains.some((c) => c.hasRope),
    chains,
    kvArg: next,
    positionsArg: next + 1,
    seqIdsArg: next + 2,
    blockTablesArg: next + 3,
    outArg: next + 4,
  };
}
