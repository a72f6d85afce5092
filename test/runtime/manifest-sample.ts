/**
 * A small manifest that is right in every field: one layer's worth of kernels, two programs, every kind of argument.
 */
import type { Manifest } from "../../runtime/manifest.ts";

export function sampleManifest(): Manifest {
  return {
    format: 2,
    name: "tiny",
    model: {
      architecture: "Qwen3ForCausalLM",
      hiddenSize: 64,
      intermediateSize: 160,
      numLayers: 2,
      numHeads: 4,
      numKvHeads: 2,
      headDim: 16,
      vocabSize: 500,
      maxPositionEmbeddings: 2048,
      tieWordEmbeddings: true,
      dtype: "bfloat16",
      numParameters: 123456,
      bosTokenId: null,
      eosTokenIds: [1, 2],
    },
    target: "cpu:avx512-amx",
    features: ["avx512f", "amx_tile", "amx_bf16"],
    limits: { maxModelLen: 1024, maxNumSeqs: 8, maxNumBatchedTokens: 256 },
    provenance: {
      compiler: "ingot 0.1.0",
      checkpoint: "ab".repeat(32),
      options: { batchInvariant: true, dtype: "auto", seed: 7 },
    },
    weights: {
      file: "weights.bin",
      bytes: 69632 + 4096 + 8192 + 4096,
      sha256: "0".repeat(64),
      tensors: [
        // 500 rows are 32 panels of 16 × 64 bf16.
        {
          name: "embed",
          dtype: "bf16",
          shape: [500, 64],
          layout: "panel16",
          ways: 1,
          offset: 0,
          bytes: 65536,
          sources: ["model.embed_tokens.weight"],
        },
        {
          name: "norm",
          dtype: "f32",
          shape: [64],
          layout: "rows",
          ways: 1,
          offset: 65536,
          bytes: 256,
          sources: ["model.norm.weight"],
        },
        // Two ways of 20 rows: 2 × 2 panels of 16 × 32 (k padded).
        {
          name: "gate_up",
          dtype: "bf16",
          shape: [40, 24],
          layout: "panel16",
          ways: 2,
          offset: 69632,
          bytes: 4096,
          sources: ["gate", "up"],
        },
        {
          name: "head",
          dtype: "f16",
          shape: [17, 24],
          layout: "panel16",
          ways: 1,
          offset: 73728,
          bytes: 1536,
          sources: ["lm_head.weight"],
        },
      ],
      unused: [{ names: ["model.layers.{0..1}.mlp.gate.bias"], count: 2, bytes: 512, why: "biases are not done" }],
    },
    kvCache: { dtype: "bf16", blockSize: 32, numLayers: 2, bytesPerBlock: 2 * 2 * 16 * 32 * 2, rebuiltBeyond: [64] },
    arena: {
      bytes: 256 * 64 * 4 + 256 * 96 * 2,
      buffers: [
        { name: "x", dtype: "f32", rows: "T", cols: 64, layout: "rows", offset: 0, bytes: 256 * 64 * 4 },
        { name: "a", dtype: "bf16", rows: "T", cols: 70, layout: "tile16x32", offset: 256 * 64 * 4, bytes: 256 * 96 * 2 },
        { name: "logits", dtype: "f32", rows: "S", cols: 500, layout: "rows", offset: 0, bytes: 8 * 500 * 4 },
      ],
    },
    library: { file: "build/kernels.so", sha256: "1".repeat(64) },
    files: {
      LICENSE: "2".repeat(64),
      "kernels/embedding_bf16_64.cpp": "3".repeat(64),
      "kernels/prelude.cpu.h": "4".repeat(64),
      "tokenizer.json": "5".repeat(64),
    },
    kernels: [
      {
        name: "embedding_bf16_64",
        source: "kernels/embedding_bf16_64.cpp",
        launch: { chunk: 1, serialUnits: 2, scratchBytes: 0 },
        flops: [0],
        bytes: ["T", 384, "mul"],
        origins: ["model.embed_tokens (models/qwen3.ts:10)"],
      },
      {
        name: "paged_attention_2x16",
        source: "kernels/paged_attention_2x16.cpp",
        launch: { chunk: 1, serialUnits: 0, scratchBytes: 4096 },
        flops: ["T", "P", "mul", 4096, "mul"],
        bytes: ["B", "P", "mul", 4096, "mul", "T", 256, "mul", "add"],
        origins: [],
      },
    ],
    programs: [
      {
        name: "decode",
        maxTokens: 8,
        steps: [
          { kernel: 0, grid: ["T"], args: [{ array: "token_ids" }, { tensor: 0 }, { buffer: 0 }] },
          { kernel: 1, grid: ["T", 16, "ceildiv", 2, "mul"], args: [{ kv: 1 }, { buffer: 2 }] },
        ],
        taps: [{ name: "logits", step: 1, buffer: 2 }],
      },
      {
        name: "step",
        maxTokens: 256,
        steps: [{ kernel: 0, grid: ["T", "S", "add"], args: [{ array: "sampled_ids" }] }],
        taps: [],
      },
    ],
    predicted: {
      weightBytesPerStep: 71424,
      kvBytesPerToken: 256,
      flopsPerToken: 4096,
      memoryBytes: { weights: 86016, arena: 114688 },
    },
  };
}
