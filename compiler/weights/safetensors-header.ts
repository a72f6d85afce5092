/**
 * The header of a safetensors file, checked as strictly as the format's reference implementation does, and further where a lying
 * header could cost memory: every length is bounded by the file's true size before anything is allocated for it.
 *
 * Format: u64 little-endian length, that many bytes of JSON, then the data, which the tensors must cover without holes or overlaps
 * (https://huggingface.co/docs/safetensors, "Format").
 */
import { CompileError } from "../errors.ts";

/** Element types of the format that are whole bytes wide, and their bytes. */
export const SAFETENSORS_BYTES = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
} as const;
export type SafetensorsDType = keyof typeof SAFETENSORS_BYTES;

/** One tensor of a file; `offset` counts from the beginning of the file. */
export interface StoredTensor {
  readonly name: string;
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  /** Name of the file within its folder. */
  readonly file: string;
  readonly offset: number;
  readonly bytes: number;
}

/** Bytes of the length field before the header. */
export const PREFIX_BYTES = 8;
/** Longest header read: 32 MB; the largest published shards need less than one. */
const MAX_HEADER_BYTES = 32 * 2 ** 20;
const MAX_RANK = 16;
const REMEDY = "download the file again, or export the model anew";

/** The header's length from the file's first eight bytes. Throws `CompileError` unless it fits the file. */
export function headerLength(prefix: Uint8Array, fileBytes: number, file: string): number {
  if (prefix.length < PREFIX_BYTES || fileBytes < PREFIX_BYTES) {
    throw new CompileError(
      `${file}: expected a safetensors file of at least ${PREFIX_BYTES} bytes, found ${fileBytes}; ${REMEDY}`,
    );
  }
  const length = new DataView(prefix.buffer, prefix.byteOffset, PREFIX_BYTES).getBigUint64(0, true);
  if (length > BigInt(fileBytes - PREFIX_BYTES)) {
    throw new CompileError(`${file}: says its header has ${length} bytes, but the file has only ${fileBytes} in all; ${REMEDY}`);
  }
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw new CompileError(`${file}: says its header has ${length} bytes; expected at most ${MAX_HEADER_BYTES}; ${REMEDY}`);
  }
  return Number(length);
}

/**
 * The tensors of a file of `fileBytes` bytes whose header is `header` (the bytes after the length), in the order of their data.
 * Throws `CompileError` naming the file, the tensor and the numbers.
 */
export function parseHeader(header: Uint8Array, fileBytes: number, file: string): StoredTensor[] {
  const refuse = (problem: string): never => {
    throw new CompileError(`${file}: ${problem}; ${REMEDY}`);
  };
  const text = decode(header) ?? refuse("its header is not UTF-8");
  if (!text.startsWith("{")) refuse(`its header must start with "{", found ${JSON.stringify(text.slice(0, 12))}`);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    refuse(`its header is not JSON: ${(error as Error).message}`);
  }
  if (!isObject(json)) return refuse("its header is not an object");
  const twice = repeatedKey(text);
  if (twice !== undefined) refuse(`its header names ${quote(twice)} twice`);

  const begin = PREFIX_BYTES + header.length;
  const dataBytes = fileBytes - begin;
  const tensors: StoredTensor[] = [];
  for (const [name, entry] of Object.entries(json)) {
    if (name === "__metadata__") {
      if (!isObject(entry) || Object.values(entry).some((v) => typeof v !== "string"))
        refuse("its __metadata__ must map names to strings");
      continue;
    }
    const tensor = parseTensor(name, entry, refuse);
    const [from, to] = tensor.range;
    if (to > dataBytes) {
      refuse(`tensor ${quote(name)} ends at byte ${to} of the data, but the file holds ${dataBytes} (truncated?)`);
    }
    tensors.push({ name, dtype: tensor.dtype, shape: tensor.shape, file, offset: begin + from, bytes: to - from });
  }

  // An empty tensor stands before the one that begins where it does.
  tensors.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes || (a.name < b.name ? -1 : 1));
  let end = begin;
  for (const { name, offset, bytes } of tensors) {
    if (offset < end)
      refuse(
        `tensor ${quote(name)} begins at byte ${offset - begin} of the data, inside the tensor before it (ends at ${end - begin})`,
      );
    if (offset > end)
      refuse(`bytes ${end - begin} … ${offset - begin} of the data, before tensor ${quote(name)}, belong to no tensor`);
    end = offset + bytes;
  }
  if (end !== fileBytes) refuse(`its tensors end at byte ${end - begin} of the data, but the file holds ${dataBytes}`);
  return tensors;
}

interface ParsedTensor {
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  readonly range: readonly [from: number, to: number];
}

function parseTensor(name: string, entry: unknown, refuse: (problem: string) => never): ParsedTensor {
  const label = `tensor ${quote(name)}`;
  if (!isObject(entry)) return refuse(`${label} must be described by an object`);
  const { dtype, shape, data_offsets: offsets, ...others } = entry;
  const [other] = Object.keys(others);
  if (other !== undefined) refuse(`${label} has an unknown field ${quote(other)}; expected dtype, shape, data_offsets`);
  if (typeof dtype !== "string" || !Object.hasOwn(SAFETENSORS_BYTES, dtype)) {
    return refuse(`${label} has dtype ${quote(dtype)}; expected one of ${Object.keys(SAFETENSORS_BYTES).join(" ")}`);
  }
  if (!Array.isArray(shape) || shape.length > MAX_RANK || !shape.every(isLength)) {
    return refuse(`${label} has shape ${quote(shape)}; expected at most ${MAX_RANK} whole numbers`);
  }
  if (!isRange(offsets)) {
    return refuse(`${label} has data_offsets ${quote(offsets)}; expected [begin, end] with begin ≤ end`);
  }
  const bytes = shape.reduce((product: number, extent: number) => product * extent, SAFETENSORS_BYTES[dtype as SafetensorsDType]);
  if (bytes !== offsets[1] - offsets[0]) {
    refuse(
      `${label}, ${dtype} (${shape.join(", ")}), needs ${bytes} bytes, but its data_offsets hold ${offsets[1] - offsets[0]}`,
    );
  }
  return { dtype: dtype as SafetensorsDType, shape, range: [offsets[0], offsets[1]] };
}

/**
 * The first key that an object of valid JSON has twice, or undefined. `JSON.parse` keeps the last of two silently, which would let
 * two readers of one file see different tensors.
 */
export function repeatedKey(json: string): string | undefined {
  const open: (Set<string> | null)[] = []; // keys of each object around the cursor; null for a list
  let i = 0;
  while (i < json.length) {
    const c = json.charCodeAt(i);
    if (c === 0x7b) open.push(new Set());
    else if (c === 0x5b) open.push(null);
    else if (c === 0x7d || c === 0x5d) open.pop();
    else if (c === 0x22) {
      const begin = i;
      for (i++; json.charCodeAt(i) !== 0x22; i++) if (json.charCodeAt(i) === 0x5c) i++;
      const keys = open.at(-1);
      if (keys && isKey(json, i + 1)) {
        const key = JSON.parse(json.slice(begin, i + 1)) as string;
        if (keys.has(key)) return key;
        keys.add(key);
      }
    }
    i++;
  }
  return undefined;
}

/** Whether the next character but for blanks is the colon that follows a key. */
function isKey(json: string, i: number): boolean {
  while (json.charCodeAt(i) === 0x20 || (json.charCodeAt(i) >= 0x09 && json.charCodeAt(i) <= 0x0d)) i++;
  return json.charCodeAt(i) === 0x3a;
}

function decode(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

const isObject = (v: unknown): v is Record<string, unknown> => typeof v === "object" && v !== null && !Array.isArray(v);
const isRange = (v: unknown): v is readonly [begin: number, end: number] =>
  Array.isArray(v) && v.length === 2 && isLength(v[0]) && isLength(v[1]) && v[0] <= v[1];
const isLength = (v: unknown): v is number => typeof v === "number" && Number.isSafeInteger(v) && v >= 0;

/** A piece of the file's own text, shortened for a message. */
function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 120 ? `${text.slice(0, 117)}…` : text;
}
