/**
 * Where weights come from: the one interface that the packer reads through, whatever the checkpoint's format.
 */
import type { DType } from "../ir/tensor-type.ts";

/** Dtypes that weights are stored and packed in. */
export type WeightDType = Extract<DType, "f32" | "f16" | "bf16">;

/** A tensor's type as its source has it. */
export interface WeightInfo {
  readonly dtype: WeightDType;
  readonly shape: readonly number[];
}

/** How much a tensor takes where it is stored. */
export interface StoredSize {
  readonly name: string;
  readonly bytes: number;
}

/** Implemented by `Checkpoint` and by `RandomWeights`. */
export interface WeightSource {
  /** Every tensor, whatever it is stored in, in the order of names. */
  list(): readonly StoredSize[];
  /** Undefined when there is no such tensor; throws `UnsupportedError` when it is not stored in a `WeightDType`. */
  find(name: string): WeightInfo | undefined;
  /**
   * Fills `into` with elements `begin`, `begin + 1`, … of the row-major tensor, in its own dtype, little-endian.
   * `into` is a whole number of elements long and must stay untouched until the promise settles.
   */
  read(name: string, begin: number, into: Uint8Array): Promise<void>;
}

/** The number of elements of a shape. */
export const elementsOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
