/** Writes an engine folder whose kernels are written by hand, so that the runtime is tested without the compiler. */
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Batch } from "../../../runtime/batch.ts";
import type { Arg, Manifest, Step } from "../../../runtime/manifest.ts";
import { compileKernels } from "../../native/kernel-library.ts";

export const VOCAB = 100;
export const COLS = 40;
const MAX_TOKENS = 64;

/** Row `id` of the weights: what the embedding kernel gives. */
export const tableRow = (id: number): number[] => Array.from({ length: COLS }, (_, c) => id + c / 64);

/** The folder of a fresh echo engine; `change` edits the manifest before it is written. */
export function writeEchoEngine(change: (manifest: Manifest) => Manifest = (manifest) => manifest): string {
  const folder = mkdtempSync(join(tmpdir(), "ingot-echo-"));
  mkdirSync(join(folder, "build"));
  const library = compileKernels("echo-kernels", readFileSync(new URL("./echo-kernels.cpp", import.meta.url), "utf8"));
  copyFileSync(library, join(folder, "build", "kernels.so"));
  const weights = new Uint8Array(16384);
  weights.set(tableBytes());
  writeFileSync(join(folder, "weights.bin"), weights);
  writeFileSync(
    join(folder, "manifest.json"),
    JSON.stringify(change(echoManifest(sha256(weights), sha256(readFileSync(library))))),
  );
  return folder;
}

function tableBytes(): Uint8Array {
  return new Uint8Array(Float32Array.from(Array.from({ length: VOCAB }, (_, id) => tableRow(id)).flat()).buffer);
}

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

function echoManifest(weightsHash: string, libraryHash: string): Manifest {
  const step = (kernel: number, grid: Step["grid"], args: readonly Arg[]): Step => ({ kernel, grid, args });
  const kernel = (name: string, serialUnits = 1) => ({
    name,
    source: `kernels/${name}.cpp`,
    launch: { chunk: 2, serialUnits, scratchBytes: 256 },
    flops: [0],
    bytes: [0],
    origins: [],
  });
  const attend = (layer: number): Step =>
    step(
      2,
      ["T"],
      [
        { array: "token_ids" },
        { kv: layer },
        { array: "positions" },
        { array: "seq_ids" },
        { array: "block_tables" },
        { buffer: 2 + layer },
      ],
    );
  return {
    format: 2,
    name: "echo",
    model: {
      architecture: "EchoForCausalLM",
      hiddenSize: COLS,
      intermediateSize: COLS,
      numLayers: 2,
      numHeads: 1,
      numKvHeads: 1,
      headDim: 16,
      vocabSize: VOCAB,
      maxPositionEmbeddings: 128,
      tieWordEmbeddings: true,
      dtype: "float32",
      numParameters: VOCAB * COLS,
      bosTokenId: null,
      eosTokenIds: [],
    },
    target: "cpu:generic",
    features: [],
    limits: { maxModelLen: 128, maxNumSeqs: 4, maxNumBatchedTokens: MAX_TOKENS },
    provenance: { compiler: "test", checkpoint: "random:0", options: {} },
    weights: {
      file: "weights.bin",
      bytes: 16384,
      sha256: weightsHash,
      tensors: [
        {
          name: "table",
          dtype: "f32",
          shape: [VOCAB, COLS],
          layout: "rows",
          ways: 1,
          offset: 0,
          bytes: VOCAB * COLS * 4,
          sources: [],
        },
      ],
      unused: [],
    },
    kvCache: { dtype: "f32", blockSize: 16, numLayers: 2, bytesPerBlock: 4096, rebuiltBeyond: [] },
    arena: {
      bytes: 65536,
      buffers: [
        { name: "hidden", dtype: "f32", rows: "T", cols: COLS, layout: "rows", offset: 0, bytes: MAX_TOKENS * COLS * 4 },
        { name: "tiles", dtype: "bf16", rows: "T", cols: COLS, layout: "tile16x32", offset: 10240, bytes: 4 * 2 * 1024 },
        { name: "seen0", dtype: "f32", rows: "T", cols: COLS, layout: "rows", offset: 20480, bytes: MAX_TOKENS * COLS * 4 },
        { name: "seen1", dtype: "f32", rows: "T", cols: COLS, layout: "rows", offset: 32768, bytes: MAX_TOKENS * COLS * 4 },
      ],
    },
    library: { file: "build/kernels.so", sha256: libraryHash },
    files: {},
    // One token of a sequence reads what another stored, so a unit of attention is the whole batch.
    kernels: [kernel("embedding"), kernel("to_tiles"), kernel("attend", MAX_TOKENS), kernel("pick")],
    programs: [8, MAX_TOKENS].map((maxTokens) => ({
      name: `step_${maxTokens}`,
      maxTokens,
      steps: [
        step(0, ["T"], [{ array: "token_ids" }, { tensor: 0 }, { buffer: 0 }]),
        step(1, ["T"], [{ buffer: 0 }, { buffer: 1 }]),
        attend(0),
        attend(1),
        step(
          3,
          ["S"],
          [
            { buffer: 3 },
            { array: "sample_rows" },
            { array: "sample_floats" },
            { array: "sampled_ids" },
            { array: "sampled_logprobs" },
            { array: "top_ids" },
            { array: "top_logprobs" },
          ],
        ),
      ],
      taps: [
        { name: "hidden.0", step: 0, buffer: 0 },
        { name: "hidden.1", step: 1, buffer: 1 },
        { name: "seen.0", step: 2, buffer: 2 },
        { name: "seen.1", step: 3, buffer: 3 },
      ],
    })),
    predicted: {
      weightBytesPerStep: 16384,
      kvBytesPerToken: 512,
      flopsPerToken: 1,
      memoryBytes: { weights: 16384, arena: 65536 },
    },
  };
}

/** A batch of whole prompts, one row of block tables each, sampling every last token. */
export function promptBatch(prompts: readonly (readonly number[])[], tables: readonly (readonly number[])[], start = 0): Batch {
  const ends = prompts.map((_, i) => prompts.slice(0, i + 1).reduce((sum, prompt) => sum + prompt.length, 0) - 1);
  return {
    tokenIds: Int32Array.from(prompts.flat()),
    positions: Int32Array.from(prompts.flatMap((prompt) => prompt.map((_, i) => start + i))),
    seqIds: Int32Array.from(prompts.flatMap((prompt, s) => prompt.map(() => s))),
    seqLens: Int32Array.from(prompts, (prompt) => start + prompt.length),
    blockTables: Int32Array.from(tables.flat()),
    numSeqs: prompts.length,
    blocksPerSeq: tables[0]!.length,
    sampleRows: Int32Array.from(ends),
    sampleFloats: Float32Array.from({ length: prompts.length * 8 }, (_, i) => (i % 8 === 0 ? i / 8 + 0.5 : 0)),
    sampleInts: new Int32Array(prompts.length * 12),
    sampleTokens: new Int32Array(0),
  };
}
