/**
 * Reads `manifest.json` as the untrusted file it is: after `parseManifest`, every index points into its table, every region lies
 * inside its file or arena, every launch size is bounded, and every name is safe to open or to look up.
 *
 * It does not open the files that the manifest names; their sizes and hashes are compared by who maps them.
 */
import { ManifestError } from "./errors.ts";
import {
  type BufferEntry,
  MANIFEST_FORMAT,
  type Manifest,
  type ManifestSymbol,
  PAGE_BYTES,
  RPN_OPERATORS,
  type Rpn,
  type RpnOperator,
  type Step,
  type TensorEntry,
} from "./manifest.ts";
import { asObject, FieldError } from "./manifest-fields.ts";
import { DTYPE_BYTES, MAX_BYTES, MAX_COST, MAX_UNITS, manifestFields } from "./manifest-schema.ts";

/** Longest manifest read: 64 MB; a 100-layer model's takes about one. */
const MAX_TEXT = 64 * 2 ** 20;

/**
 * Checks `json`, the text of a manifest; `where` is its path, for messages.
 * Throws `ManifestError` naming the JSON path, what was expected and what was found.
 */
export function parseManifest(json: string, where: string): Manifest {
  const remedy = "compile the model again to write a new engine";
  if (json.length > MAX_TEXT)
    throw new ManifestError(`${where}: expected at most ${MAX_TEXT} characters, found ${json.length}; ${remedy}`);
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw new ManifestError(`${where} is not JSON: ${(error as Error).message}; ${remedy}`, { cause: error });
  }
  try {
    // First the version: every other complaint about a file of another format would mislead.
    const format = asObject(value, "").format;
    if (format !== MANIFEST_FORMAT && Number.isInteger(format)) {
      throw new ManifestError(
        `${where}: this engine's format is ${format}; this version of ingot reads format ${MANIFEST_FORMAT}: ` +
          `${(format as number) > MANIFEST_FORMAT ? "update ingot, or " : ""}${remedy}`,
      );
    }
    const checked = manifestFields(value, "");
    checkReferences(checked);
    return checked;
  } catch (error) {
    if (error instanceof FieldError) throw new ManifestError(`${where}: ${error.message}; ${remedy}`, { cause: error });
    throw error;
  }
}

/** What no single field can say: that regions fit, indices point somewhere, names are unique and launches are bounded. */
function checkReferences(m: Manifest): void {
  const { weights, arena, kvCache: kv, limits: l, model } = m;
  if (model.numHeads % model.numKvHeads !== 0)
    throw new FieldError("model.numKvHeads", `a divisor of numHeads (${model.numHeads})`, model.numKvHeads);
  multipleOf("weights.bytes", weights.bytes, PAGE_BYTES);
  multipleOf("kvCache.blockSize", kv.blockSize, 16);
  within("kvCache.numLayers", kv.numLayers, model.numLayers);
  // K and V of every head and token of a block; a kernel that believes the shapes must not leave the block.
  const blockBytes = 2 * model.numKvHeads * model.headDim * kv.blockSize * DTYPE_BYTES[kv.dtype];
  if (kv.bytesPerBlock < blockBytes) throw new FieldError("kvCache.bytesPerBlock", `at least ${blockBytes}`, kv.bytesPerBlock);

  kv.rebuiltBeyond.forEach((length, i) => {
    const before = kv.rebuiltBeyond[i - 1] ?? 0;
    if (length <= before)
      throw new FieldError(`kvCache.rebuiltBeyond[${i}]`, `more than ${before}, the length before it`, length);
  });

  const symbols: { readonly [K in ManifestSymbol]: number } = {
    T: l.maxNumBatchedTokens,
    B: l.maxNumSeqs,
    S: l.maxNumBatchedTokens, // sampled rows are rows of the batch
    P: Math.ceil(l.maxModelLen / kv.blockSize),
  };

  unique("weights.tensors", weights.tensors);
  let end = 0;
  weights.tensors.forEach((t, i) => {
    const path = `weights.tensors[${i}]`;
    checkTensor(t, path);
    multipleOf(`${path}.offset`, t.offset, PAGE_BYTES);
    if (t.offset < end) throw new FieldError(`${path}.offset`, `at least ${end}, the end of the tensor before it`, t.offset);
    end = t.offset + t.bytes;
    if (end > weights.bytes) throw new FieldError(`${path}.bytes`, `an end within the file's ${weights.bytes} bytes`, end);
  });

  unique("arena.buffers", arena.buffers);
  arena.buffers.forEach((b, i) => {
    const path = `arena.buffers[${i}]`;
    const need = bufferBytes(b, b.rows === "S" ? Math.min(l.maxNumSeqs, symbols.S) : resolve(b.rows, symbols));
    if (b.bytes < need) throw new FieldError(`${path}.bytes`, `at least ${need}, for its rows, cols and layout`, b.bytes);
    multipleOf(`${path}.offset`, b.offset, 64);
    if (b.offset + b.bytes > arena.bytes)
      throw new FieldError(`${path}.bytes`, `an end within the arena's ${arena.bytes} bytes`, b.offset + b.bytes);
  });

  unique("kernels", m.kernels);
  m.kernels.forEach((k, i) => {
    checkRpn(k.flops, `kernels[${i}].flops`, symbols, MAX_COST);
    checkRpn(k.bytes, `kernels[${i}].bytes`, symbols, MAX_COST);
  });

  unique("programs", m.programs);
  let covered = 0;
  m.programs.forEach((p, i) => {
    const path = `programs[${i}]`;
    if (p.maxTokens <= covered)
      throw new FieldError(`${path}.maxTokens`, `more than ${covered}, the program before it`, p.maxTokens);
    covered = p.maxTokens;
    p.steps.forEach((s, j) => {
      checkStep(s, `${path}.steps[${j}]`, m, symbols);
    });
    unique(`${path}.taps`, p.taps);
    p.taps.forEach((t, j) => {
      within(`${path}.taps[${j}].step`, t.step, p.steps.length - 1);
      within(`${path}.taps[${j}].buffer`, t.buffer, arena.buffers.length - 1);
    });
  });
  if (covered < l.maxNumBatchedTokens) {
    const path = `programs[${m.programs.length - 1}].maxTokens`;
    throw new FieldError(path, `at least limits.maxNumBatchedTokens (${l.maxNumBatchedTokens})`, covered);
  }
}

function checkStep(s: Step, path: string, m: Manifest, symbols: { readonly [K in ManifestSymbol]: number }): void {
  within(`${path}.kernel`, s.kernel, m.kernels.length - 1);
  checkRpn(s.grid, `${path}.grid`, symbols, MAX_UNITS);
  s.args.forEach((a, i) => {
    if ("buffer" in a) within(`${path}.args[${i}].buffer`, a.buffer, m.arena.buffers.length - 1);
    else if ("tensor" in a) within(`${path}.args[${i}].tensor`, a.tensor, m.weights.tensors.length - 1);
    else if ("kv" in a) within(`${path}.args[${i}].kv`, a.kv, m.kvCache.numLayers - 1);
  });
}

/** Bytes of a tensor are exactly those of its layout; see `compiler/weights/panel.ts` for `panel16` and its ways. */
function checkTensor(t: TensorEntry, path: string): void {
  const size = DTYPE_BYTES[t.dtype];
  const elements = t.shape.reduce((a, b) => Math.min(a * b, MAX_BYTES), 1);
  if (t.layout === "rows") {
    if (t.ways !== 1) throw new FieldError(`${path}.ways`, "1 for layout rows", t.ways);
    if (t.bytes !== elements * size) throw new FieldError(`${path}.bytes`, `${elements * size}, from shape and dtype`, t.bytes);
    return;
  }
  const [k, n, count = 1] = t.shape.toReversed();
  if (n === undefined || k === undefined || t.shape.length > 3 || size === 1 || t.dtype === "i32") {
    const found = `${t.dtype}(${t.shape.join(", ")})`;
    throw new FieldError(path, "a floating-point matrix, or a stack of them, for layout panel16", found);
  }
  const kp = t.dtype === "bf16" ? Math.ceil(k / 32) * 32 : k;
  if (n % t.ways !== 0) throw new FieldError(`${path}.ways`, `a divisor of ${n} rows`, t.ways);
  const expected = count * t.ways * Math.ceil(n / t.ways / 16) * 16 * kp * size;
  if (t.bytes !== expected) throw new FieldError(`${path}.bytes`, `${expected}, from shape, dtype and ways`, t.bytes);
}

function bufferBytes(b: BufferEntry, numRows: number): number {
  if (b.layout === "rows") return numRows * b.cols * DTYPE_BYTES[b.dtype];
  return Math.ceil(numRows / 16) * Math.ceil(b.cols / 32) * 16 * 32 * DTYPE_BYTES[b.dtype];
}

/**
 * Runs an expression on intervals, symbols from 0 to their largest value: it must leave one value, never divide by what can be
 * zero, and stay at or below `max`. Operators grow with their first operand, so the ends of an interval are enough.
 */
function checkRpn(expression: Rpn, path: string, symbols: { readonly [K in ManifestSymbol]: number }, max: number): void {
  const stack: (readonly [min: number, max: number])[] = [];
  for (const [i, token] of expression.entries()) {
    if (typeof token === "number") {
      stack.push([token, token]);
      continue;
    }
    if (!isOperator(token)) {
      stack.push([0, symbols[token]]);
      continue;
    }
    const b = stack.pop();
    const a = stack.pop();
    if (!a || !b) throw new FieldError(`${path}[${i}]`, "two values before an operator", token);
    if (token === "ceildiv" && b[0] < 1) throw new FieldError(`${path}[${i}]`, "a divisor of at least 1", token);
    const apply = RPN_OPERATORS[token];
    // A quotient falls where its divisor grows; the other operators grow with both.
    const result =
      token === "ceildiv" ? ([apply(a[0], b[1]), apply(a[1], b[0])] as const) : ([apply(a[0], b[0]), apply(a[1], b[1])] as const);
    if (result[1] > max) throw new FieldError(`${path}[${i}]`, `a value of at most ${max} for the largest step`, result[1]);
    stack.push(result);
  }
  const [result] = stack;
  if (!result || stack.length !== 1) throw new FieldError(path, "an expression that leaves one value", `${stack.length} items`);
  if (result[1] > max) throw new FieldError(path, `a value of at most ${max} for the largest step`, result[1]);
}

const isOperator = (token: ManifestSymbol | RpnOperator): token is RpnOperator => Object.hasOwn(RPN_OPERATORS, token);

const resolve = (r: ManifestSymbol | number, symbols: { readonly [K in ManifestSymbol]: number }): number =>
  typeof r === "number" ? r : symbols[r];

function within(path: string, value: number, max: number): void {
  if (value > max) throw new FieldError(path, max < 0 ? "no index: the table is empty" : `an index of at most ${max}`, value);
}

function multipleOf(path: string, value: number, factor: number): void {
  if (value % factor !== 0) throw new FieldError(path, `a multiple of ${factor}`, value);
}

function unique(path: string, named: readonly { readonly name: string }[]): void {
  const seen = new Set<string>();
  named.forEach(({ name }, i) => {
    if (seen.has(name)) throw new FieldError(`${path}[${i}].name`, "a name of its own", name);
    seen.add(name);
  });
}
