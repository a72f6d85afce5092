/**
 * The CUDA dialect: which GPUs a target runs on, what a compiler is told, how types are spelt and what a block may hold. One table.
 */
import type { DType } from "../../ir/tensor-type.ts";

/** Architectures that kernels are generated for. */
export type CudaArch = "sm_80" | "sm_90a";

export interface CudaDialect {
  readonly arch: CudaArch;
  /** Least compute capability, as major · 10 + minor; whether it must be that very one (`sm_90a` has instructions that later ones lack). */
  readonly capability: number;
  readonly isExact: boolean;
  /** What nvcc generates: machine code, and for later architectures PTX, which `sm_90a` has no use for. */
  readonly flags: readonly string[];
  /** Shared memory that a block may ask for. */
  readonly sharedBytes: number;
  /** Multiprocessors of the GPU that schedules are made for. */
  readonly multiprocessors: number;
  /** Multiply-adds a nanosecond that one of them reaches by `mma.sync`. */
  readonly macsPerNs: number;
  /** Bytes a nanosecond that memory gives to all of them. */
  readonly bytesPerNs: number;
}

export const cudaDialects: { readonly [K in CudaArch]: CudaDialect } = {
  sm_80: {
    arch: "sm_80",
    capability: 80,
    isExact: false,
    flags: ["-gencode", "arch=compute_80,code=sm_80", "-gencode", "arch=compute_80,code=compute_80"],
    sharedBytes: 99 * 1024, // what sm_86 and sm_89 have, which run the same code
    multiprocessors: 108, // A100
    macsPerNs: 1400,
    bytesPerNs: 1800,
  },
  sm_90a: {
    arch: "sm_90a",
    capability: 90,
    isExact: true,
    flags: ["-gencode", "arch=compute_90a,code=sm_90a"],
    sharedBytes: 227 * 1024,
    multiprocessors: 132, // H200
    macsPerNs: 2400, // two thirds of what wgmma reaches
    bytesPerNs: 4300,
  },
};

/** Files that every kernel includes. */
export const CUDA_PRELUDE = ["prelude.cuda.h", "prelude.cuda.device.h"];

/** Tokens of a KV block: 64 rows of 128 bytes and more are read by whole lines. */
export const CUDA_KV_BLOCK_SIZE = 64;

const types: { readonly [K in DType]: string } = {
  f32: "float",
  f16: "f16",
  bf16: "bf16",
  fp8_e4m3: "fp8",
  i32: "int32_t",
  u8: "uint8_t",
  bool: "bool",
};

export const cudaType = (dtype: DType): string => types[dtype];
