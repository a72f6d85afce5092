/**
 * The library file of an engine for GPUs: one image a kernel (what nvcc calls a fatbin: machine code and PTX), with a table in front.
 *
 * As in safetensors: eight bytes of length (little-endian), so many of JSON, `{ "<kernel>": [offset, bytes] }` with offsets from the
 * file's beginning, then the images, each at a multiple of 16.
 */
import { closeSync, openSync, readSync, statSync } from "node:fs";
import { ManifestError } from "./errors.ts";

/** Where the image of a kernel lies. */
export interface KernelImage {
  readonly offset: number;
  readonly bytes: number;
}

const ALIGN = 16;
/** Longest table read: 64 K kernels of the longest names take 20 MB. */
const MAX_TABLE = 2 ** 25;

const align = (n: number): number => Math.ceil(n / ALIGN) * ALIGN;

/** The file's bytes. */
export function packKernelImages(images: readonly (readonly [name: string, image: Uint8Array])[]): Uint8Array {
  const table = (start: number): string => {
    let at = start;
    const entries = images.map(([name, image]) => {
      const entry = [name, [at, image.length]] as const;
      at = align(at + image.length);
      return entry;
    });
    return JSON.stringify(Object.fromEntries(entries));
  };
  // Offsets have digits of their own: room for the longest they can have.
  const room = align(table(2 ** 40).length + 8);
  const json = table(room).padEnd(room - 8, " ");
  const last = images.reduce((at, [, image]) => align(at + image.length), room);
  const file = new Uint8Array(last);
  new DataView(file.buffer).setBigUint64(0, BigInt(json.length), true);
  file.set(new TextEncoder().encode(json), 8);
  let at = room;
  for (const [, image] of images) {
    file.set(image, at);
    at = align(at + image.length);
  }
  return file;
}

/** The table of a library file. Throws `ManifestError` for one that is damaged. */
export function readKernelImages(file: string): ReadonlyMap<string, KernelImage> {
  const size = statSync(file).size;
  const damaged = (why: string) => new ManifestError(`${file}: ${why}: build the engine again with \`ingot build\``);
  const fd = openSync(file, "r");
  try {
    const read = (length: number, at: number): Buffer => {
      const bytes = Buffer.alloc(length);
      if (at + length > size || readSync(fd, bytes, 0, length, at) !== length)
        throw damaged(`expected ${at + length} bytes of images and their table, found ${size}`);
      return bytes;
    };
    const length = Number(read(8, 0).readBigUInt64LE());
    if (length > MAX_TABLE) throw damaged(`expected a table of at most ${MAX_TABLE} bytes, found ${length}`);
    const images = new Map<string, KernelImage>();
    for (const [name, place] of Object.entries(parseTable(read(length, 8).toString("utf8"), damaged))) {
      const [offset, bytes] = Array.isArray(place) ? (place as unknown[]) : [];
      const isInside =
        Number.isSafeInteger(offset) &&
        Number.isSafeInteger(bytes) &&
        isRange(offset as number, bytes as number, length + 8, size);
      if (!isInside) throw damaged(`the image of ${name} lies at ${JSON.stringify(place)}, outside the file`);
      images.set(name, { offset: offset as number, bytes: bytes as number });
    }
    return images;
  } finally {
    closeSync(fd);
  }
}

const isRange = (offset: number, bytes: number, first: number, size: number): boolean =>
  offset >= first && bytes > 0 && offset + bytes <= size;

function parseTable(json: string, damaged: (why: string) => ManifestError): Record<string, unknown> {
  try {
    const table: unknown = JSON.parse(json);
    if (typeof table === "object" && table !== null && !Array.isArray(table)) return table as Record<string, unknown>;
  } catch {
    // As any other table that is none.
  }
  throw damaged("its table of kernels is no JSON object");
}
