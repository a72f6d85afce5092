/** Tiles of tensor cores at shapes of published models: what the model of a GPU prefers, and that it can be had. */
import { describe, expect, it } from "vitest";
import { cudaDialects } from "../../../compiler/codegen/cuda/dialect.ts";
import { chooseTiles, modelled, numTiles, PARTS, type Product, TILES, tileBytes } from "../../../compiler/schedule/cuda-tiles.ts";

const h200 = cudaDialects.sm_90a;
const chosen = (product: Product, parts?: readonly number[]) => chooseTiles(product, h200, parts);
const product = (rows: number, n: number, k: number, ways = 1): Product => ({ count: 1, rows, n, k, ways });

describe("tiles", () => {
  it.each([16, 64, 256])(
    "keep every multiprocessor busy with %i rows of a narrow linear, where blocks share its sums",
    (rows) => {
      const down = product(rows, 4096, 12288);
      const { tiles, parts } = chosen(down, PARTS);
      expect(numTiles(tiles, down) * parts).toBeGreaterThanOrEqual(0.9 * h200.multiprocessors);
    },
  );

  it("are the largest for thousands of rows, which nobody shares", () => {
    expect(chosen(product(8192, 12288, 4096), PARTS)).toEqual({
      tiles: expect.objectContaining({ tileN: 128, tileT: 128 }),
      parts: 1,
    });
  });

  it("are no taller than the rows there are", () => {
    expect(chosen(product(16, 24576, 4096)).tiles.tileT).toBe(16);
    expect(chosen(product(64, 24576, 4096)).tiles.tileT).toBe(64);
  });

  it("have room for sixteen rows of a gate and of its up", () => {
    for (const rows of [5, 16, 64, 4096]) expect(chosen(product(rows, 64, 256, 2)).tiles.tileN).toBeGreaterThanOrEqual(32);
  });

  it.each(Object.values(cudaDialects))("fit the shared memory of $arch, all of them", (dialect) => {
    for (const tiles of TILES) expect(tileBytes(tiles)).toBeLessThanOrEqual(dialect.sharedBytes);
  });

  it("take no less than the weights from memory and the products from tensor cores", () => {
    const wide = product(256, 24576, 4096, 2);
    for (const tiles of TILES) {
      const time = modelled({ tiles, parts: 1 }, wide, h200);
      expect(time).toBeGreaterThan((24576 * 4096 * 2) / h200.bytesPerNs);
      expect(time).toBeGreaterThan((256 * 24576 * 4096) / h200.macsPerNs / h200.multiprocessors);
    }
  });
});
