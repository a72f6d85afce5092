/**
 * How many blocks the KV cache gets: what free memory holds beside weights, arena and scratch, at most what the limits can use.
 */
import { EngineError } from "./errors.ts";
import type { Limits, Manifest } from "./manifest.ts";

export const DEFAULT_MEMORY_UTILIZATION = 0.9;

/** What there is to share out. */
export interface MemoryBudget {
  /** What can be allocated now without swapping. */
  readonly availableBytes: number;
  /** Scratch of all threads together. */
  readonly scratchBytes: number;
  /** Share of `availableBytes` the engine may take, (0, 1]. */
  readonly utilization: number;
  /** The cache's size where the caller fixes it. */
  readonly kvCacheMemoryBytes: number | undefined;
}

/** Bytes that one block takes in all layers together. */
export const bytesPerBlock = ({ kvCache }: Manifest): number => kvCache.bytesPerBlock * kvCache.numLayers;

const size = (bytes: number): string =>
  bytes >= 2 ** 27 ? `${(bytes / 2 ** 30).toFixed(2)} GiB` : `${(bytes / 2 ** 20).toFixed(bytes < 2 ** 20 ? 3 : 1)} MiB`;

/** Blocks of the KV cache. Throws `EngineError` with the numbers if not even one sequence of `maxModelLen` tokens fits. */
export function numKvBlocks(manifest: Manifest, limits: Limits, memory: MemoryBudget): number {
  const { utilization: share, availableBytes: available } = memory;
  if (!(share > 0 && share <= 1)) throw new EngineError(`--memory-utilization must be above 0 and at most 1, found ${share}`);
  const { blockSize } = manifest.kvCache;
  const perBlock = bytesPerBlock(manifest);
  const blocksPerSeq = Math.ceil(limits.maxModelLen / blockSize);
  const useful = blocksPerSeq * limits.maxNumSeqs;
  if (perBlock === 0) return useful; // a model without attention keeps no cache
  // Mapped weights count in full even while cached pages make them look free: every step reads them all.
  const rest = Math.floor(available * share) - manifest.weights.bytes - manifest.arena.bytes - memory.scratchBytes;
  const budget = memory.kvCacheMemoryBytes ?? Math.max(0, rest);
  const fits = Math.floor(budget / perBlock);
  if (fits < blocksPerSeq) {
    const source =
      memory.kvCacheMemoryBytes === undefined
        ? `${size(budget)} is left (${size(available)} free, ${share * 100} % of it usable; weights ${size(manifest.weights.bytes)}, activations ${size(manifest.arena.bytes)})`
        : `--kv-cache-memory gives ${size(budget)}`;
    throw new EngineError(
      `a KV cache for one sequence of ${limits.maxModelLen} tokens takes ${size(blocksPerSeq * perBlock)}, but ${source}: ` +
        (fits > 0
          ? `lower --max-model-len to at most ${fits * blockSize}, or free memory`
          : "free memory or use a smaller model"),
    );
  }
  if (memory.kvCacheMemoryBytes !== undefined && Math.min(fits, useful) * perBlock > available) {
    throw new EngineError(
      `--kv-cache-memory ${memory.kvCacheMemoryBytes} (${size(budget)}) is more than the ${size(available)} of free memory: lower it`,
    );
  }
  return Math.min(fits, useful);
}
