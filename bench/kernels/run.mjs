// Speed of generated kernels on this machine, apart from any engine: `node bench/kernels/run.mjs [--isa avx512] [--only M=1]
// [--threads 2] [--seconds 1] [--rounds 3] [--blocking prefetchBytes=2048]`. Prints GFLOPS, and GB/s beside the read bandwidth that
// the addon probes (four streams a thread) between the rounds. Build first: `npm run build`.
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { build } from "esbuild";

const root = fileURLToPath(new URL("../..", import.meta.url));
const { values: flags } = parseArgs({
  options: {
    isa: { type: "string", multiple: true },
    only: { type: "string" },
    threads: { type: "string", default: "2" },
    seconds: { type: "string", default: "1" },
    rounds: { type: "string", default: "3" },
    flag: { type: "string", multiple: true, default: [] },
    blocking: { type: "string", multiple: true, default: [] },
  },
});

// The compiler is TypeScript: bundle the rooms this needs.
const bundle = join(root, "dist", "bench", "kernels.mjs");
await build({
  stdin: {
    contents: [
      'export { cpuDialects } from "./compiler/codegen/cpu/dialect.ts";',
      'export { linearInputDtype } from "./compiler/codegen/cpu/dialect.ts";',
      'export { renderKernel, librarySources } from "./compiler/codegen/cpu/render.ts";',
      'export { scheduleKernel } from "./compiler/schedule/cpu.ts";',
      'export { evaluateRpn } from "./compiler/engine/manifest.ts";',
      'export { findCompiler } from "./compiler/toolchain/compiler.ts";',
      'export { compileFlags } from "./compiler/toolchain/flags.ts";',
    ].join("\n"),
    resolveDir: root,
    loader: "ts",
  },
  bundle: true,
  platform: "node",
  format: "esm",
  packages: "external",
  outfile: bundle,
  logLevel: "error",
});
const ingot = await import(pathToFileURL(bundle).href);
const compiler = ingot.findCompiler();

const T = { sym: "T", max: 4096, multipleOf: 1 };
const buffer = (name, cols, dtype = "f32") => ({ kind: "buffer", name, dtype, rows: T, cols });
const acc = { kind: "acc", way: 0 };

function linear(isa, { n, k, ways = 1, weights = "bf16" }) {
  const x = ingot.linearInputDtype(isa, weights);
  const gated = { kind: "binary", fn: "mul", a: { kind: "unary", fn: "silu", x: acc }, b: { kind: "acc", way: 1 } };
  return {
    kind: "linear",
    name: `linear_${weights}_${n}x${k}`,
    x: buffer("x", k, x),
    w: { kind: "tensor", name: "w", dtype: weights, rows: n * ways, cols: k },
    ways,
    n,
    k,
    epilogue: ways === 2 ? gated : acc,
    operands: [],
    out: buffer("out", n, ways === 2 ? x : "f32"),
  };
}

const attention = {
  kind: "paged_attention",
  name: "attention",
  q: buffer("q", 16 * 128),
  kv: { kind: "kv", dtype: "bf16", numKvHeads: 8, headDim: 128 },
  numHeads: 16,
  headDim: 128,
  scale: 128 ** -0.5,
  window: null,
  epilogue: acc,
  out: buffer("out", 16 * 128),
};

// Qwen3-0.6B: hidden 1024, intermediate 3072, 16 query and 8 key heads of 128.
const shapes = { qkv: { n: 4096, k: 1024 }, gate_up: { n: 3072, k: 1024, ways: 2 }, down: { n: 1024, k: 3072 } };
const cells = [
  ...Object.entries(shapes).flatMap(([name, shape]) =>
    [1, 4, 16, 64, 512].map((rows) => ({ name: `${name} M=${rows}`, shape, rows })),
  ),
  ...[
    [512, 512],
    [512, 2048],
    [1, 2048],
    [16, 512],
  ].map(([tokens, context]) => ({ name: `attention T=${tokens} ctx=${context}`, tokens, context })),
].filter((c) => !flags.only || c.name.includes(flags.only));

const isas = flags.isa ?? ["avx2", "avx512", "avx512-bf16", "avx512-amx"];
const programs = new Map();
for (const cell of cells) {
  for (const isa of isas) programs.set(`${cell.name} ${isa}`, prepare(cell, isa));
}
const results = new Map();
const addon = createRequire(import.meta.url)("../../dist/ingot.node");
const probes = [];
for (let round = 0; round < Number(flags.rounds); round++) {
  probes.push(addon.readBandwidth(Number(flags.threads), 512 * 2 ** 20, 3));
  for (const [key, p] of programs) {
    const { stdout, status, stderr } = spawnSync(p.program, p.args, { encoding: "utf8" });
    if (status !== 0) throw new Error(`${key}: ${status} ${stderr}`);
    results.set(key, [...(results.get(key) ?? []), JSON.parse(stdout)]);
  }
}
const median = (xs) => xs.sort((a, b) => a - b)[Math.floor(xs.length / 2)];
const probe = median(probes);
console.log(`read bandwidth ${probe.toFixed(1)} GB/s with ${flags.threads} threads`);
for (const [key, p] of programs) {
  const runs = results.get(key);
  const ms = median(runs.map((r) => r.ms));
  const rate = p.bytes / ms / 1e6;
  const share =
    probe > 0 ? ` ${rate.toFixed(1).padStart(6)} GB/s = ${((100 * rate) / probe).toFixed(0)}% of ${probe.toFixed(1)}` : "";
  console.log(`${key.padEnd(40)} ${ms.toFixed(3).padStart(9)} ms ${(p.flops / ms / 1e6).toFixed(0).padStart(6)} GFLOPS${share}`);
}

function prepare(cell, isa) {
  const spec = cell.shape ? linear(isa, cell.shape) : attention;
  const scheduled = ingot.scheduleKernel(spec, isa);
  const overrides = Object.fromEntries(
    flags.blocking.map((b) => [b.split("=")[0], Number(b.split("=")[1])]).filter(([n]) => n in scheduled.blocking),
  );
  const schedule = { ...scheduled, blocking: { ...scheduled.blocking, ...overrides } };
  const kernel = ingot.renderKernel(spec, schedule, ingot.cpuDialects[isa]);
  const folder = mkdtempSync(join(tmpdir(), "ingot-bench-"));
  mkdirSync(folder, { recursive: true });
  for (const f of ingot.librarySources(ingot.cpuDialects[isa])) writeFileSync(join(folder, f.name), f.text);
  writeFileSync(join(folder, "kernel.cpp"), kernel.source);
  const cxx = (...args) => {
    const [program, ...leading] = compiler.command;
    const { status, stderr } = spawnSync(program, [...leading, ...args], { cwd: folder, encoding: "utf8" });
    if (status !== 0) throw new Error(stderr);
  };
  cxx(...ingot.compileFlags(compiler, isa), ...flags.flag, "-c", "kernel.cpp", "-o", "kernel.o");
  const main = fileURLToPath(new URL("bench.cpp", import.meta.url));
  cxx(
    "-std=c++17",
    "-O2",
    "-mavx2",
    "-pthread",
    "-Wno-psabi",
    main,
    "kernel.o",
    `-Wl,--defsym,kernel_under_test=${kernel.name}`,
    "-o",
    "bench",
  );
  const common = (rows, tables, grid) =>
    [flags.threads, flags.seconds, rows, 1, rows, tables, grid, schedule.chunk, kernel.scratchBytes].map(String);
  const program = join(folder, "bench");
  if (cell.shape) {
    const { n, k, ways = 1, weights = "bf16" } = cell.shape;
    const elements = n * k * ways;
    const bytes = elements * (weights === "f32" ? 4 : 2);
    // Few rows read weights from memory, as a step does; many rows are about arithmetic.
    const copies = cell.rows <= 16 ? Math.ceil(520e6 / bytes) : 4;
    const rows = Math.ceil(cell.rows / 16) * 16;
    const args = [`${spec.x.dtype}:${rows * k}`, `${weights}:${elements}:x${copies}`, `f32:${rows * n}`];
    return {
      program,
      args: [...common(cell.rows, 1, Math.ceil(n / 16)), ...args],
      bytes,
      flops: 2 * elements * cell.rows,
      fromMemory: copies > 4,
    };
  }
  const { tokens, context } = cell;
  // Many tokens are one sequence's last ones; a few are one token each of sequences with this context.
  const together = tokens > 16;
  const blocks = context / 32;
  const sequences = together ? 1 : tokens;
  const kvElements = sequences * context * 8 * 128 * 2;
  const visible = together ? tokens * (context - tokens / 2) : tokens * context;
  const grid = ingot.evaluateRpn(schedule.grid, { T: tokens, B: sequences, S: tokens, P: blocks });
  const args = [
    `f32:${tokens * 2048}`,
    `bf16:${kvElements}:x${together ? 1 : Math.ceil(520e6 / kvElements / 2)}`,
    together ? `iota:${tokens}:${context - tokens}` : `i32:${tokens}:${context - 1}`,
    together ? `i32:${tokens}:0` : `iota:${tokens}:0`,
    `iota:${sequences * blocks}:0`,
    `f32:${tokens * 2048}`,
  ];
  return {
    program,
    args: [...common(tokens, blocks, grid), ...args],
    bytes: kvElements * 2,
    flops: 4 * visible * 16 * 128,
    fromMemory: !together,
  };
}
