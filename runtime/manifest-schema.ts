/**
 * The fields of `manifest.json`, each bounded by itself: types, ranges, and names that are safe to open or to look up.
 */
import {
  type Arg,
  type BlockLaunch,
  type BufferEntry,
  type KernelEntry,
  type KernelLaunch,
  type KvCacheEntry,
  type Limits,
  MANIFEST_FORMAT,
  MAX_LIMITS,
  type Manifest,
  type ManifestDType,
  type ManifestSymbol,
  type ModelFacts,
  type Program,
  RPN_OPERATORS,
  type Rpn,
  type RpnOperator,
  STEP_ARRAYS,
  type Step,
  SYMBOLS,
  type Tap,
  type TeamLaunch,
  type TensorEntry,
  type UnusedEntry,
} from "./manifest.ts";
import {
  asObject,
  boolean,
  dictionary,
  FieldError,
  integer,
  list,
  nullable,
  oneOf,
  printValue,
  type Reader,
  record,
  scalar,
  text,
} from "./manifest-fields.ts";

/** Files and arenas end below this (64 TiB): sums of two sizes stay exact in a double. */
export const MAX_BYTES = 2 ** 46;
export const MAX_UNITS = 2 ** 40;
export const MAX_COST = Number.MAX_SAFE_INTEGER;
const MAX_RPN = 64;

export const DTYPE_BYTES: { readonly [K in ManifestDType]: number } = { f32: 4, f16: 2, bf16: 2, fp8_e4m3: 1, i32: 4, u8: 1 };
const DTYPES = Object.keys(DTYPE_BYTES) as ManifestDType[];

const bytes = integer(0, MAX_BYTES);
const sha256 = text(/^[0-9a-f]{64}$/, "a sha256 in hexadecimal");
const fileName = text(/^[A-Za-z0-9][\w.-]{0,127}$/, "a file name without folders");
const identifier = text(/^[A-Za-z_]\w{0,254}$/, "a C identifier");
const label = text(/^[\x20-\x7e]{1,300}$/, "1 to 300 printable characters");

const factFields: { readonly [K in keyof ModelFacts]: Reader<ModelFacts[K]> } = {
  architecture: identifier,
  hiddenSize: integer(1, 2 ** 20),
  intermediateSize: integer(1, 2 ** 22),
  numLayers: integer(1, 4096),
  numHeads: integer(1, 4096),
  numKvHeads: integer(1, 4096),
  headDim: integer(1, 4096),
  vocabSize: integer(1, 2 ** 24),
  maxPositionEmbeddings: integer(1, 2 ** 30),
  tieWordEmbeddings: boolean,
  dtype: oneOf(["float32", "float16", "bfloat16"]),
  numParameters: integer(0, 2 ** 50),
  bosTokenId: nullable(integer(0, 2 ** 31 - 1)),
  eosTokenIds: list(integer(0, 2 ** 31 - 1), 0, 1024),
};
const facts: Reader<ModelFacts> = record<ModelFacts>(factFields);

/** What a manifest could not say of a model, a phrase a field: `numKvHeads: expected a whole number from 1 to 4096, found nothing`. */
export function modelFactsFaults(model: unknown): string[] {
  return Object.entries(factFields).flatMap(([name, read]) => {
    try {
      read(asObject(model, "")[name], name);
      return [];
    } catch (error) {
      if (!(error instanceof FieldError)) throw error;
      return [error.message];
    }
  });
}

const limits: Reader<Limits> = record<Limits>({
  maxModelLen: integer(1, MAX_LIMITS.maxModelLen),
  maxNumSeqs: integer(1, MAX_LIMITS.maxNumSeqs),
  maxNumBatchedTokens: integer(1, MAX_LIMITS.maxNumBatchedTokens),
});

const tensor: Reader<TensorEntry> = record<TensorEntry>({
  name: label,
  dtype: oneOf(DTYPES),
  shape: list(integer(1, 2 ** 31), 0, 8),
  layout: oneOf(["rows", "panel16"]),
  ways: integer(1, 2) as Reader<1 | 2>,
  offset: bytes,
  bytes,
  sources: list(label, 0, 4096),
});

const anyText = text(/^.{1,4096}$/s, "1 to 4096 characters");
const unused: Reader<UnusedEntry> = record<UnusedEntry>({
  names: list(anyText, 1, 2 ** 20),
  count: integer(1, 2 ** 30),
  bytes,
  why: nullable(anyText),
});

const rows: Reader<ManifestSymbol | number> = (value, path) =>
  typeof value === "string" ? oneOf(SYMBOLS)(value, path) : integer(1, 2 ** 31)(value, path);

const buffer: Reader<BufferEntry> = record<BufferEntry>({
  name: label,
  dtype: oneOf(DTYPES),
  rows,
  cols: integer(1, 2 ** 24),
  layout: oneOf(["rows", "tile16x32"]),
  offset: bytes,
  bytes,
});

const operators = Object.keys(RPN_OPERATORS) as RpnOperator[];

const rpn: Reader<Rpn> = list<Rpn[number]>(
  (value, path) =>
    typeof value === "string"
      ? oneOf<ManifestSymbol | RpnOperator>([...SYMBOLS, ...operators])(value, path)
      : integer(0, MAX_COST)(value, path),
  1,
  MAX_RPN,
);

const launch: Reader<KernelLaunch> = (value, path) =>
  Object.hasOwn(asObject(value, path), "threads")
    ? record<BlockLaunch>({ threads: integer(32, 1024), sharedBytes: integer(0, 2 ** 20) })(value, path)
    : record<TeamLaunch>({ chunk: integer(1, 2 ** 24), serialUnits: integer(0, MAX_UNITS), scratchBytes: integer(0, 2 ** 32) })(
        value,
        path,
      );

const kernel: Reader<KernelEntry> = record<KernelEntry>({
  name: identifier,
  source: text(/^kernels\/[A-Za-z0-9_][\w.-]{0,259}$/, "kernels/ and a file name"),
  launch,
  flops: rpn,
  bytes: rpn,
  origins: list(label, 0, 65536),
});

const arg: Reader<Arg> = (value, path) => {
  const [kind, ...rest] = Object.keys(asObject(value, path));
  if (rest.length > 0) throw new FieldError(path, "one of buffer, tensor, kv, array, symbol", printValue(value));
  const index = integer(0, 2 ** 24);
  if (kind === "buffer") return record<{ buffer: number }>({ buffer: index })(value, path);
  if (kind === "tensor") return record<{ tensor: number }>({ tensor: index })(value, path);
  if (kind === "kv") return record<{ kv: number }>({ kv: index })(value, path);
  if (kind === "symbol") return record<{ symbol: ManifestSymbol }>({ symbol: oneOf(SYMBOLS) })(value, path);
  return record<{ array: (typeof STEP_ARRAYS)[number] }>({ array: oneOf(STEP_ARRAYS) })(value, path);
};

const step: Reader<Step> = record<Step>({
  kernel: integer(0, 2 ** 24),
  grid: rpn,
  args: list(arg, 0, 256),
});

const program: Reader<Program> = record<Program>({
  name: identifier,
  maxTokens: integer(1, MAX_LIMITS.maxNumBatchedTokens),
  steps: list(step, 1, 2 ** 18),
  taps: list(record<Tap>({ name: label, step: integer(0, 2 ** 18), buffer: integer(0, 2 ** 24) }), 0, 8192),
});

const kvCache: Reader<KvCacheEntry> = record<KvCacheEntry>({
  dtype: oneOf(DTYPES),
  blockSize: integer(16, 4096),
  numLayers: integer(0, 4096),
  bytesPerBlock: bytes,
  rebuiltBeyond: list(integer(1, MAX_LIMITS.maxModelLen), 0, 16),
});

/** Every field by itself: what holds between them is checked by `parseManifest`. */
export const manifestFields: Reader<Manifest> = record<Manifest>({
  format: (value, path) => {
    if (value === MANIFEST_FORMAT) return MANIFEST_FORMAT;
    throw new FieldError(path, `${MANIFEST_FORMAT}, the only format this version of ingot reads`, printValue(value));
  },
  name: text(/^[A-Za-z0-9][\w.-]{0,127}$/, "a name of letters, digits, dots, dashes and underscores"),
  model: facts,
  target: text(/^[a-z][a-z0-9]{0,31}(:[a-z0-9_-]{1,64})?$/, 'a target like "cpu:avx512-amx"'),
  features: list(text(/^[a-z][a-z0-9_]{0,31}$/, 'a processor feature like "avx512f"'), 0, 64),
  limits,
  provenance: record<Manifest["provenance"]>({
    compiler: label,
    checkpoint: text(/^([0-9a-f]{64}|random:\d{1,15})$/, "a sha256 in hexadecimal, or random: and a seed"),
    options: dictionary(/^[A-Za-z][\w-]{0,63}$/, "fields with plain names", scalar, 64),
  }),
  weights: record<Manifest["weights"]>({
    file: fileName,
    bytes,
    sha256: nullable(sha256),
    tensors: list(tensor, 0, 2 ** 20),
    unused: list(unused, 0, 2 ** 16),
  }),
  kvCache,
  arena: record<Manifest["arena"]>({ bytes, buffers: list(buffer, 0, 2 ** 18) }),
  library: nullable(
    record<NonNullable<Manifest["library"]>>({
      file: text(/^(build\/)?[A-Za-z0-9_][\w.-]{0,127}$/, "a file name, in build/ or beside the manifest"),
      sha256,
    }),
  ),
  files: dictionary(/^(kernels\/)?[A-Za-z0-9_][\w.-]{0,259}$/, "files by name, alone or in kernels/", sha256, 2 ** 17),
  kernels: list(kernel, 0, 2 ** 16),
  programs: list(program, 1, 64),
  predicted: record<Manifest["predicted"]>({
    weightBytesPerStep: integer(0, MAX_COST),
    kvBytesPerToken: integer(0, MAX_COST),
    flopsPerToken: integer(0, MAX_COST),
    memoryBytes: record<Manifest["predicted"]["memoryBytes"]>({ weights: bytes, arena: bytes }),
  }),
});
