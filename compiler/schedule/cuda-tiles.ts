/**
 * Tiles of products in tensor cores: for a shape and a size of step, those that a small model of a GPU finds quickest.
 */
import type { CudaDialect } from "../codegen/cuda/dialect.ts";

/** A tile of weights and rows, and how warps share it. */
export interface Tiles {
  /** Rows of weights. */
  readonly tileN: number;
  /** Rows of inputs. */
  readonly tileT: number;
  readonly tileK: number;
  /** Pieces of `tileK` in shared memory at once: one is multiplied, the others arrive. */
  readonly stages: number;
  readonly warpsN: number;
  readonly warpsT: number;
  readonly warpsK: number;
}

/** `count` products of `rows` rows with (n, k) weights of two bytes, which are `ways` matrices that take turns every sixteen rows. */
export interface Product {
  readonly count: number;
  readonly rows: number;
  readonly n: number;
  readonly k: number;
  readonly ways: number;
}

/** Tiles, and among how many blocks the sums of each are divided, which share k. */
export interface Tiling {
  readonly tiles: Tiles;
  readonly parts: number;
}

/** Few rows want many small tiles, whose warps share k; many rows want warps of 64 × 64, which multiply most of what they load. */
export const TILES: readonly Tiles[] = [
  { tileN: 16, tileT: 16, tileK: 256, stages: 3, warpsN: 1, warpsT: 1, warpsK: 8 },
  { tileN: 32, tileT: 16, tileK: 128, stages: 3, warpsN: 1, warpsT: 1, warpsK: 4 },
  { tileN: 32, tileT: 64, tileK: 64, stages: 4, warpsN: 1, warpsT: 1, warpsK: 4 },
  { tileN: 64, tileT: 64, tileK: 64, stages: 4, warpsN: 2, warpsT: 1, warpsK: 2 },
  { tileN: 64, tileT: 128, tileK: 32, stages: 4, warpsN: 1, warpsT: 2, warpsK: 2 },
  { tileN: 128, tileT: 128, tileK: 32, stages: 4, warpsN: 2, warpsT: 2, warpsK: 1 },
];

/** Bytes that wait in shared memory, or as the sums that take their place. */
export const tileBytes = ({ tileN, tileT, tileK, stages, warpsK }: Tiles): number =>
  Math.max(stages * (tileN + tileT) * tileK * 2, warpsK * tileT * (tileN + 4) * 4);

export const tileThreads = ({ warpsN, warpsT, warpsK }: Tiles): number => 32 * warpsN * warpsT * warpsK;

/** Parts that sums may be divided into. */
export const PARTS: readonly number[] = [1, 2, 4, 8];

/** The quickest way to compute `product` with its sums in one of `parts`. */
export function chooseTiles(product: Product, dialect: CudaDialect, parts: readonly number[] = [1]): Tiling {
  const possible = TILES.flatMap((tiles) =>
    tiles.tileN % (16 * product.ways) === 0 && tileBytes(tiles) <= dialect.sharedBytes
      ? parts.filter((n) => n === 1 || n * tiles.tileK <= product.k).map((n): Tiling => ({ tiles, parts: n }))
      : [],
  );
  const times = possible.map((tiling) => modelled(tiling, product, dialect));
  return possible[times.indexOf(Math.min(...times))]!;
}

/** Tiles of a product's sums. */
export const numTiles = ({ tileN, tileT }: Tiles, { count, rows, n }: Product): number =>
  count * Math.ceil(n / tileN) * Math.ceil(rows / tileT);

/** Bytes a nanosecond that a multiprocessor draws from the second-level cache, and how long it waits for the first of them. */
const DRAWN_PER_NS = 100;
const LATENCY_NS = 700;
/** Bytes a nanosecond that it writes to and reads from shared memory. */
const SHARED_PER_NS = 220;
const MOST_THREADS = 2048;

/**
 * Nanoseconds of a launch: a multiprocessor has its share of blocks, each of which draws its rows, moves them through shared memory and
 * multiplies them, whichever takes longest; it draws no faster than what is on its way allows. Where blocks share sums, the last of them
 * waits for the others' and reads them. None of it is quicker than weights are read from memory, beside which a tenth of it shows.
 */
export function modelled({ tiles, parts }: Tiling, product: Product, dialect: CudaDialect): number {
  const { tileN, tileT, tileK, stages, warpsN, warpsT } = tiles;
  const share = Math.ceil((numTiles(tiles, product) * parts) / dialect.multiprocessors);
  const room = Math.min(Math.floor(dialect.sharedBytes / tileBytes(tiles)), Math.floor(MOST_THREADS / tileThreads(tiles)));
  const rowBytes = (tileN + tileT) * 2;
  const onTheWay = Math.min(share, room) * (stages - 1) * tileK * rowBytes;
  const draw = rowBytes / Math.min(DRAWN_PER_NS, onTheWay / LATENCY_NS);
  const move = (rowBytes + (tileN * warpsT + tileT * warpsN) * 2) / SHARED_PER_NS;
  const multiply = (tileN * tileT) / dialect.macsPerNs;
  const sharing = parts === 1 ? 0 : 2 * LATENCY_NS + (share * (parts + 1) * tileN * tileT * 4) / DRAWN_PER_NS;
  const own = share * Math.ceil(product.k / parts) * Math.max(draw, move, multiply) + sharing;
  const memory = (product.count * product.n * product.k * 2) / dialect.bytesPerNs;
  return Math.max(own, memory) + 0.1 * Math.min(own, memory);
}
