/**
 * A checkpoint as Hugging Face publishes it: model.safetensors, or shards listed by model.safetensors.index.json.
 *
 * Opening reads headers only; weights are read by position into the caller's buffers. Files are never mapped or modified.
 */
import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  fstatSync,
  openSync,
  read as readAsync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
} from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { CompileError, UnsupportedError } from "../errors.ts";
import {
  headerLength,
  PREFIX_BYTES,
  parseHeader,
  repeatedKey,
  SAFETENSORS_BYTES,
  type StoredTensor,
} from "./safetensors-header.ts";
import { elementsOf, type StoredSize, type WeightDType, type WeightInfo, type WeightSource } from "./source.ts";

const SINGLE = "model.safetensors";
const INDEX = "model.safetensors.index.json";
/** Longest index read: 64 MB; the largest published one has 12. */
const MAX_INDEX_BYTES = 64 * 2 ** 20;
const MAX_SHARDS = 4096;
/** Largest single read: within what every platform's read accepts. */
const MAX_READ = 2 ** 30;

const WEIGHT_DTYPES: Readonly<Partial<Record<StoredTensor["dtype"], WeightDType>>> = { F32: "f32", F16: "f16", BF16: "bf16" };
const readAt = promisify(readAsync);

interface Shard {
  readonly name: string;
  readonly fd: number;
  readonly bytes: number;
  readonly tensors: readonly StoredTensor[];
}

/**
 * Opens the checkpoint in `folder`. Throws `CompileError` naming file, tensor and numbers when a file is missing, truncated or
 * lies about its content. Close it when done.
 */
export function openCheckpoint(folder: string): Checkpoint {
  const shards: Shard[] = [];
  try {
    const { files, weightMap } = listFiles(folder);
    for (const name of files) shards.push(openShard(folder, name));
    checkWeightMap(folder, weightMap, shards);
    return new Checkpoint(folder, shards);
  } catch (error) {
    for (const { fd } of shards) closeSync(fd);
    throw error;
  }
}

/** An open checkpoint: the tensors of all its files by name. */
export class Checkpoint implements WeightSource {
  private readonly tensors = new Map<string, StoredTensor>();
  private readonly shards: ReadonlyMap<string, Shard>;

  constructor(
    readonly folder: string,
    shards: readonly Shard[],
  ) {
    this.shards = new Map(shards.map((s) => [s.name, s]));
    for (const tensor of shards.flatMap((s) => s.tensors)) {
      const other = this.tensors.get(tensor.name);
      if (other) {
        throw new CompileError(
          `${folder}: tensor ${tensor.name} is stored twice, in ${other.file} and in ${tensor.file}; download the model again`,
        );
      }
      this.tensors.set(tensor.name, tensor);
    }
  }

  list(): readonly StoredSize[] {
    return [...this.tensors.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** Bytes of all files. */
  get bytes(): number {
    return [...this.shards.values()].reduce((sum, s) => sum + s.bytes, 0);
  }

  /** Where a tensor lies. Throws `CompileError` when there is none of that name, naming the nearest. */
  tensor(name: string): StoredTensor {
    const tensor = this.tensors.get(name);
    if (tensor) return tensor;
    const last = name.split(".").slice(-2).join(".");
    const alike = [...this.tensors.keys()].filter((n) => n.endsWith(last)).slice(0, 3);
    throw new CompileError(
      `${this.folder}: there is no tensor ${name} among ${this.tensors.size}` +
        `${alike.length > 0 ? ` (there is ${alike.join(", ")})` : ""}; is config.json of this checkpoint?`,
    );
  }

  find(name: string): WeightInfo | undefined {
    const tensor = this.tensors.get(name);
    if (!tensor) return undefined;
    const dtype = WEIGHT_DTYPES[tensor.dtype];
    if (dtype) return { dtype, shape: tensor.shape };
    throw new UnsupportedError(
      `${join(this.folder, tensor.file)}: tensor ${name} is stored as ${tensor.dtype}; this version reads weights in ` +
        `${Object.keys(WEIGHT_DTYPES).join(", ")}: convert the checkpoint`,
    );
  }

  async read(name: string, begin: number, into: Uint8Array): Promise<void> {
    const tensor = this.tensor(name);
    const { fd } = this.shards.get(tensor.file) as Shard;
    const from = begin * SAFETENSORS_BYTES[tensor.dtype];
    if (from < 0 || from + into.length > tensor.bytes) {
      throw new CompileError(
        `${join(this.folder, tensor.file)}: tensor ${name} has ${elementsOf(tensor.shape)} elements; ` +
          `asked for bytes ${from} … ${from + into.length} of ${tensor.bytes}`,
      );
    }
    for (let done = 0; done < into.length; ) {
      const wanted = Math.min(MAX_READ, into.length - done);
      const { bytesRead } = await readAt(fd, into, done, wanted, tensor.offset + from + done);
      if (bytesRead === 0) {
        throw new CompileError(
          `${join(this.folder, tensor.file)} became shorter while it was read (tensor ${name}): leave it alone and compile again`,
        );
      }
      done += bytesRead;
    }
  }

  /**
   * sha256 over `config` (the text of config.json) and the files' names and content, `hashOf` of their paths. Times and places do
   * not count: a copy is the same checkpoint.
   */
  async hash(config: string, hashOf: (path: string) => Promise<string>): Promise<string> {
    const files: string[] = [];
    for (const name of this.shards.keys()) files.push(name, await hashOf(join(this.folder, name)));
    return createHash("sha256")
      .update(JSON.stringify([config, ...files]))
      .digest("hex");
  }

  /** Closes the files; call it once, after the last read has settled. */
  close(): void {
    for (const { fd } of this.shards.values()) closeSync(fd);
  }
}

/** Tensor names and the files that an index says they are in. */
type WeightMap = readonly (readonly [tensor: string, file: string])[];

/** The files of the checkpoint, sorted; checks the index when there is one. */
function listFiles(folder: string): { readonly files: readonly string[]; readonly weightMap: WeightMap } {
  if (existsSync(join(folder, SINGLE))) return { files: [SINGLE], weightMap: [] }; // first, as transformers does
  if (existsSync(join(folder, INDEX))) return listShards(folder);
  const files = existsSync(folder) ? readdirSync(folder) : [];
  const others = files.filter((f) => /\.(bin|pth?|gguf|safetensors)$/.test(f)).slice(0, 3);
  throw new CompileError(
    `${folder}: expected ${SINGLE} or ${INDEX}, found ${others.length > 0 ? others.join(", ") : "no weights"}; ` +
      "download the model's safetensors files, or compile with --weights random",
  );
}

/** Throws `CompileError` where the index says more than the files hold. */
function checkWeightMap(folder: string, weightMap: WeightMap, shards: readonly Shard[]): void {
  const held = new Map(shards.map((s) => [s.name, new Set(s.tensors.map((t) => t.name))]));
  const lie = weightMap.find(([tensor, file]) => !held.get(file)?.has(tensor));
  if (!lie) return;
  const [tensor, file] = lie;
  throw new CompileError(
    `${join(folder, INDEX)}: says tensor ${tensor.slice(0, 100)} is in ${file}, which does not hold it; download the model again`,
  );
}

function listShards(folder: string): { readonly files: readonly string[]; readonly weightMap: WeightMap } {
  const path = join(folder, INDEX);
  const refuse = (problem: string): never => {
    throw new CompileError(`${path}: ${problem}; download the model again`);
  };
  const { size } = statSync(path);
  if (size > MAX_INDEX_BYTES) refuse(`has ${size} bytes; expected at most ${MAX_INDEX_BYTES}`);
  const text = readFileSync(path, "utf8");
  let index: unknown;
  try {
    index = JSON.parse(text);
  } catch (error) {
    refuse(`is not JSON: ${(error as Error).message}`);
  }
  const twice = repeatedKey(text);
  if (twice !== undefined) refuse(`names ${JSON.stringify(twice.slice(0, 100))} twice`);
  const weightMap = parseIndex(index, refuse);
  const files = [...new Set(weightMap.map(([, file]) => file))].sort();
  if (files.length === 0 || files.length > MAX_SHARDS) refuse(`names ${files.length} files; expected 1 to ${MAX_SHARDS}`);
  const missing = files.find((name) => !existsSync(join(folder, name)));
  if (missing !== undefined) refuse(`names ${missing}, which is not there`);
  return { files, weightMap };
}

/** What an index's `weight_map` says, each file a plain name within the folder. */
function parseIndex(index: unknown, refuse: (problem: string) => never): WeightMap {
  const map = typeof index === "object" && index !== null ? (index as Record<string, unknown>).weight_map : undefined;
  if (typeof map !== "object" || map === null || Array.isArray(map)) return refuse('has no "weight_map" object');
  return Object.entries(map).map(([tensor, file]) => {
    if (typeof file !== "string" || !/^[A-Za-z0-9_][\w.-]{0,254}$/.test(file)) {
      refuse(
        `says tensor ${tensor.slice(0, 100)} is in ${JSON.stringify(file)?.slice(0, 100)}; expected the name of a file in this folder`,
      );
    }
    return [tensor, file as string];
  });
}

function openShard(folder: string, name: string): Shard {
  const path = join(folder, name);
  const fd = open(path);
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new CompileError(`${path}: expected a safetensors file, found a folder or device`);
    const prefix = new Uint8Array(PREFIX_BYTES);
    const header = new Uint8Array(headerLength(prefix.subarray(0, readSync(fd, prefix, 0, PREFIX_BYTES, 0)), stat.size, path));
    let have = 0;
    while (have < header.length) {
      const got = readSync(fd, header, have, header.length - have, PREFIX_BYTES + have);
      if (got === 0) throw new CompileError(`${path} became shorter while it was read: compile again`);
      have += got;
    }
    const tensors = parseHeader(header, stat.size, path).map((t) => ({ ...t, file: name }));
    return { name, fd, bytes: stat.size, tensors };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function open(path: string): number {
  try {
    return openSync(path, "r");
  } catch (error) {
    throw new CompileError(`${path} cannot be opened: ${(error as Error).message}`, { cause: error });
  }
}
