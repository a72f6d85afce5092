/**
 * Tensor types: a dtype and a shape whose extents may be symbols bound once per step.
 */

/** Element types. A quantized weight is not a dtype but a scheme (see `compiler/weights`). */
export type DType = "f32" | "f16" | "bf16" | "i32" | "u8" | "bool" | "fp8_e4m3";

/** What a step binds: `T` tokens, `B` sequences, `S` sampled rows, `P` blocks per block table. */
export type SymbolName = "T" | "B" | "S" | "P";

/** A symbolic extent, `times` a symbol. `max` sizes the arena; `multipleOf` tells kernels what they may assume. */
export interface SymDim {
  readonly sym: SymbolName;
  /** 1, or k for rows that each token has k of. */
  readonly times: number;
  readonly max: number;
  readonly multipleOf: number;
}

export type Dim = number | SymDim;

export interface TensorType {
  readonly shape: readonly Dim[];
  readonly dtype: DType;
}

/** Bytes of one element. */
export const dtypeBytes: { readonly [K in DType]: number } = {
  f32: 4,
  f16: 2,
  bf16: 2,
  i32: 4,
  u8: 1,
  bool: 1,
  fp8_e4m3: 1,
};

/** The largest value an extent can take. */
export const maxOf = (dim: Dim): number => (typeof dim === "number" ? dim : dim.max);

/** Whether two extents are the same number or the same multiple of a symbol. */
export const sameDim = (a: Dim, b: Dim): boolean =>
  typeof a === "number" || typeof b === "number" ? a === b : a.sym === b.sym && a.times === b.times;

/** `by` times an extent. */
export const timesDim = (dim: Dim, by: number): Dim =>
  typeof dim === "number" ? dim * by : { ...dim, times: dim.times * by, max: dim.max * by, multipleOf: dim.multipleOf * by };

/** The value of an extent under a step's binding. */
export const extentOf = (dim: Dim, binding: Readonly<Record<SymbolName, number>>): number =>
  typeof dim === "number" ? dim : dim.times * binding[dim.sym];

/** `1024`, `T`, `8·T` */
export const printDim = (dim: Dim): string =>
  typeof dim === "number" ? `${dim}` : dim.times === 1 ? dim.sym : `${dim.times}·${dim.sym}`;

/** `(T, 1024)` */
export const printShape = (shape: readonly Dim[]): string => `(${shape.map(printDim).join(", ")})`;

/** `bf16(T, 1024)` */
export const printType = (type: TensorType): string => `${type.dtype}${printShape(type.shape)}`;
