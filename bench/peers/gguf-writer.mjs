// Writes GGUF version 3 files (`ggml-org/ggml:docs/gguf.md`): little-endian header, metadata, tensor table, aligned data.
// Only the value and tensor types that the synthetic model needs; it does not read or quantize.

import { closeSync, openSync, writeSync } from "node:fs";

const ALIGNMENT = 32;
const VALUE_TYPES = { uint32: 4, int32: 5, float32: 6, bool: 7, string: 8, array: 9 };
export const TENSOR_TYPES = { f32: { id: 0, bytes: 4 }, bf16: { id: 30, bytes: 2 } };

function u32(x) {
  const b = Buffer.alloc(4);
  b.writeUInt32LE(x);
  return b;
}

function u64(x) {
  const b = Buffer.alloc(8);
  b.writeBigUInt64LE(BigInt(x));
  return b;
}

function text(s) {
  const bytes = Buffer.from(s, "utf8");
  return Buffer.concat([u64(bytes.length), bytes]);
}

const ENCODERS = {
  uint32: u32,
  int32(x) {
    const b = Buffer.alloc(4);
    b.writeInt32LE(x);
    return b;
  },
  float32(x) {
    const b = Buffer.alloc(4);
    b.writeFloatLE(x);
    return b;
  },
  bool: (x) => Buffer.from([x ? 1 : 0]),
  string: text,
};

/** `{ type, value }`, or `{ type: "array", of, value }`. */
function encodeValue({ type, of, value }) {
  if (type !== "array") return Buffer.concat([u32(VALUE_TYPES[type]), ENCODERS[type](value)]);
  return Buffer.concat([u32(VALUE_TYPES.array), u32(VALUE_TYPES[of]), u64(value.length), ...value.map(ENCODERS[of])]);
}

const aligned = (n) => Math.ceil(n / ALIGNMENT) * ALIGNMENT;
const elements = (shape) => shape.reduce((a, b) => a * b, 1);

/**
 * Writes `path`. `metadata` maps keys to values; `tensors` is a list of `{ name, shape, type }` with the innermost extent first,
 * as GGUF counts; `chunks(tensor)` yields Buffers that add up to the tensor's bytes.
 */
export function writeGguf(path, metadata, tensors, chunks) {
  const sizes = tensors.map((t) => elements(t.shape) * TENSOR_TYPES[t.type].bytes);
  const offsets = [];
  let end = 0;
  for (const size of sizes) {
    offsets.push(end);
    end = aligned(end + size);
  }
  const header = Buffer.concat([
    Buffer.from("GGUF", "latin1"),
    u32(3),
    u64(tensors.length),
    u64(Object.keys(metadata).length),
    ...Object.entries(metadata).flatMap(([key, value]) => [text(key), encodeValue(value)]),
    ...tensors.flatMap((t, i) => [
      text(t.name),
      u32(t.shape.length),
      ...t.shape.map(u64),
      u32(TENSOR_TYPES[t.type].id),
      u64(offsets[i]),
    ]),
  ]);
  const file = openSync(path, "w");
  try {
    const writeAll = (buffer) => {
      for (let done = 0; done < buffer.length; ) done += writeSync(file, buffer, done);
    };
    writeAll(header);
    writeAll(Buffer.alloc(aligned(header.length) - header.length));
    for (const [i, tensor] of tensors.entries()) {
      let written = 0;
      for (const chunk of chunks(tensor)) {
        writeAll(chunk);
        written += chunk.length;
      }
      if (written !== sizes[i]) throw new Error(`tensor ${tensor.name}: ${written} bytes written, its shape has ${sizes[i]}`);
      writeAll(Buffer.alloc(aligned(written) - written));
    }
  } finally {
    closeSync(file);
  }
}
