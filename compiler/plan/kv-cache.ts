/**
 * The KV cache of a program: how many layers store keys and values, and how large their blocks are.
 */
import type { KvCacheEntry } from "../../runtime/manifest.ts";
import { CompileError, UnsupportedError } from "../errors.ts";
import { dtypeBytes } from "../ir/tensor-type.ts";
import type { KernelSpec, KvValue } from "../kernels/spec.ts";
import { manifestDType } from "./program.ts";

/** Throws `CompileError` unless each of `numLayers` layers stores once, `UnsupportedError` where their caches differ in size. */
export function planKvCache(kernels: readonly KernelSpec[], numLayers: number, blockSize: number): KvCacheEntry {
  const caches = kernels.flatMap((k) => (k.kind === "store_kv" ? [k.kv] : []));
  const layers = caches.map((kv) => kv.layer).sort((a, b) => a - b);
  const [first] = caches;
  if (!first || layers.length !== numLayers || layers.some((layer, i) => layer !== i)) {
    throw new CompileError(
      `layers ${layers.join(", ") || "(none)"} store keys and values, but numLayers is ${numLayers}: each of 0 … ${numLayers - 1} must store once`,
    );
  }
  const other = caches.find((kv) => kvBlockBytes(kv, blockSize) !== kvBlockBytes(first, blockSize));
  if (other) {
    const size = (kv: typeof first) => `${kv.numKvHeads} heads of ${kv.headDim} ${kv.dtype}`;
    throw new UnsupportedError(
      `layer ${first.layer} caches ${size(first)}, layer ${other.layer} ${size(other)}; layers whose caches differ in size are not supported`,
    );
  }
  const rebuiltBeyond = kernels.flatMap((k) => (k.kind === "rope_angles" && k.long ? [k.long.beyond] : []));
  return {
    dtype: manifestDType(first.dtype),
    blockSize,
    numLayers: caches.length,
    bytesPerBlock: kvBlockBytes(first, blockSize),
    rebuiltBeyond: [...new Set(rebuiltBeyond)].sort((a, b) => a - b),
  };
}

/** Bytes of one KV block of one layer: [kv head][K | V], each `blockSize` tokens of headDim. */
const kvBlockBytes = (kv: KvValue, blockSize: number): number =>
  kv.numKvHeads * 2 * blockSize * kv.headDim * dtypeBytes[kv.dtype];
