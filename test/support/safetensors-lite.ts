/**
 * Reads test data in safetensors files as f32 or i32 arrays. It trusts what it reads: the product's parser does not.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Every tensor of the safetensors files in `folder` whose name starts with `prefix`, floats widened to f32. */
export function readTensors(folder: string, prefix: string): Map<string, Float32Array | Int32Array> {
  const tensors = new Map<string, Float32Array | Int32Array>();
  for (const file of readdirSync(folder).filter((f) => f.startsWith(prefix) && f.endsWith(".safetensors"))) {
    const bytes = readFileSync(join(folder, file));
    const headerLength = Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.toString("utf8", 8, 8 + headerLength)) as Record<string, Entry>;
    for (const [name, entry] of Object.entries(header)) {
      if (name === "__metadata__") continue;
      const [begin, end] = entry.data_offsets;
      const copy = bytes.buffer.slice(bytes.byteOffset + 8 + headerLength + begin, bytes.byteOffset + 8 + headerLength + end);
      tensors.set(name, decode[entry.dtype](copy as ArrayBuffer));
    }
  }
  return tensors;
}

/** Those tensors as a source of weights. */
export function weightSource(folder: string): (name: string) => Float32Array {
  const tensors = readTensors(folder, "model");
  return (name) => {
    const found = tensors.get(name);
    if (!(found instanceof Float32Array)) throw new Error(`${folder} has no float tensor ${name}`);
    return found;
  };
}

interface Entry {
  readonly dtype: keyof typeof decode;
  readonly data_offsets: readonly [number, number];
}

const decode = {
  F32: (b: ArrayBuffer) => new Float32Array(b),
  I32: (b: ArrayBuffer) => new Int32Array(b),
  BF16: (b: ArrayBuffer) => new Float32Array(Uint32Array.from(new Uint16Array(b), (v) => v << 16).buffer),
  F16: (b: ArrayBuffer) => Float32Array.from(new Uint16Array(b), halfToFloat),
};

function halfToFloat(h: number): number {
  const sign = h & 0x8000 ? -1 : 1;
  const exponent = (h >> 10) & 31;
  const mantissa = h & 1023;
  if (exponent === 31) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent === 0 ? mantissa * 2 ** -24 : (1 + mantissa / 1024) * 2 ** (exponent - 15));
}
