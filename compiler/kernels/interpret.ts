/**
 * What a kernel spec means: slow, obvious f32 arithmetic over whole arrays.
 *
 * `interpretKernels` over the specs formed from a graph gives the same arrays as interpreting the graph, bit for bit: sums run in
 * double precision and in the same order, and both round where a value of the graph ends. Generated kernels are compared with it.
 * Sampling is not interpreted here: its reference is a distribution, not an array.
 */
import { invariant } from "../errors.ts";
import { roundTo } from "../ir/rounding.ts";
import { attentionUnits, planOf } from "./attention-units.ts";
import { type KernelEnvironment, read, rowCount, writeOutput } from "./environment.ts";
import { expertMeaning } from "./interpret-experts.ts";
import type { HeadChain, KernelKind, KernelOf, KernelSpec, RowNorm } from "./spec.ts";

/** Runs specs in order, leaving every written buffer in `env.buffers`. */
export function interpretKernels(specs: readonly KernelSpec[], env: KernelEnvironment): void {
  for (const spec of specs) interpretKernel(spec, env);
}

/** Runs one spec. Throws `InternalError` for `sample`. */
export function interpretKernel(spec: KernelSpec, env: KernelEnvironment): void {
  (meaning[spec.kind] as (s: KernelSpec, e: KernelEnvironment) => void)(spec, env);
}

const meaning: { readonly [K in KernelKind]: (spec: KernelOf<K>, env: KernelEnvironment) => void } = {
  embedding(spec, env) {
    const ids = env.input(spec.ids.name);
    const table = env.tensor(spec.table);
    const { cols } = spec.out;
    writeOutput(spec.out, spec.operands, spec.epilogue, env, (row, col) => [table[ids[row]! * cols + col]!]);
  },

  rms_norm(spec, env) {
    const x = read(spec.x, env);
    const gain = env.tensor(spec.gain);
    const rows = spec.rows ? env.input(spec.rows.name) : null;
    const { cols } = spec.out;
    const scale = new Float64Array(rowCount(spec.out, env));
    for (let row = 0; row < scale.length; row++) scale[row] = inverseRms(x, (rows ? rows[row]! : row) * cols, cols, spec.eps);
    writeOutput(spec.out, spec.operands, spec.epilogue, env, (row, col) => [
      Math.fround(Math.fround(x[(rows ? rows[row]! : row) * cols + col]! * scale[row]!) * gain[col]!),
    ]);
  },

  layer_norm(spec, env) {
    const x = read(spec.x, env);
    const [gain, bias] = [env.tensor(spec.gain), env.tensor(spec.bias)];
    const rows = spec.rows ? env.input(spec.rows.name) : null;
    const { cols } = spec.out;
    const moments = Array.from({ length: rowCount(spec.out, env) }, (_, row) => {
      const at = (rows ? rows[row]! : row) * cols;
      const values = x.subarray(at, at + cols);
      const mean = values.reduce((a, b) => a + b, 0) / cols;
      const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / cols;
      return { at, mean, scale: 1 / Math.sqrt(variance + spec.eps) };
    });
    writeOutput(spec.out, spec.operands, spec.epilogue, env, (row, col) => {
      const { at, mean, scale } = moments[row]!;
      return [Math.fround(Math.fround((x[at + col]! - mean) * scale) * gain[col]! + bias[col]!)];
    });
  },

  gather(spec, env) {
    const x = read(spec.x, env);
    const rows = spec.rows ? env.input(spec.rows.name) : null;
    writeOutput(spec.out, spec.operands, spec.epilogue, env, (row, col) => [
      x[(rows ? rows[row]! : row) * spec.x.cols + spec.col + col]!,
    ]);
  },

  linear(spec, env) {
    const x = spec.norm ? normalized(read(spec.x, env), spec.k, spec.norm, env) : read(spec.x, env);
    const w = env.tensor(spec.w);
    const { k, n } = spec;
    const dot = (row: number, weightRow: number): number => {
      let sum = 0;
      for (let i = 0; i < k; i++) sum += x[row * k + i]! * w[weightRow * k + i]!;
      return Math.fround(sum);
    };
    writeOutput(spec.out, spec.operands, spec.epilogue, env, (row, col) =>
      spec.ways === 1 ? [dot(row, col)] : [dot(row, col), dot(row, n + col)],
    );
  },

  rope_angles(spec, env) {
    const positions = env.input(spec.positions.name);
    const half = spec.invFreq.length;
    const out = new Float32Array(rowCount(spec.out, env) * spec.out.cols);
    for (let t = 0; t < rowCount(spec.out, env); t++) {
      const length = spec.long ? env.input(spec.long.seqLens.name)[env.input(spec.long.seqIds.name)[t]!]! : 0;
      const invFreq = spec.long && length > spec.long.beyond ? spec.long.invFreq : spec.invFreq;
      for (let i = 0; i < half; i++) {
        const angle = Math.fround(positions[t]! * Math.fround(invFreq[i]!));
        out[t * 2 * half + i] = Math.cos(angle) * spec.attentionFactor;
        out[t * 2 * half + half + i] = Math.sin(angle) * spec.attentionFactor;
      }
    }
    env.buffers.set(spec.out.name, out);
  },

  store_kv(spec, env) {
    const { headDim, projection } = spec;
    if (projection) interpretKernel(projection.linear, env);
    const out = new Float32Array(rowCount(spec.out, env) * spec.out.cols);
    const kv = env.kv(spec.kv.layer);
    const width = spec.kv.numKvHeads * headDim;
    for (let t = 0; t < rowCount(spec.out, env); t++) {
      const slot = slotOf(env, t, env.input(spec.positions.name)[t]!, kv.blockSize);
      const chain = (c: HeadChain) => headRow(c, headDim, t, env);
      out.set(roundTo(spec.out.dtype, chain(spec.q)), t * spec.out.cols);
      kv.k.set(roundTo(spec.kv.dtype, chain(spec.k)), slot * width);
      kv.v.set(roundTo(spec.kv.dtype, chain(spec.v)), slot * width);
    }
    env.buffers.set(spec.out.name, out);
  },

  paged_attention(spec, env) {
    const { headDim, numHeads } = spec;
    const { numKvHeads } = spec.kv;
    const group = numHeads / numKvHeads;
    const q = read(spec.q, env);
    const kv = env.kv(spec.kv.layer);
    const width = numKvHeads * headDim;
    const sinks = spec.sinks && env.tensor(spec.sinks);
    const result = new Float32Array(q.length);
    for (let t = 0; t < rowCount(spec.q, env); t++) {
      const position = env.input(spec.positions.name)[t]!;
      const first = spec.window === null ? 0 : Math.max(0, position - spec.window + 1);
      const slots: number[] = [];
      for (let p = first; p <= position; p++) slots.push(slotOf(env, t, p, kv.blockSize));
      for (let h = 0; h < numHeads; h++) {
        const qAt = (t * numHeads + h) * headDim;
        const kvAt = Math.floor(h / group) * headDim;
        const scores = slots.map((slot) => {
          let sum = 0;
          for (let d = 0; d < headDim; d++) sum += q[qAt + d]! * kv.k[slot * width + kvAt + d]!;
          return sum * spec.scale;
        });
        const sink = sinks ? sinks[h]! : Number.NEGATIVE_INFINITY;
        const max = Math.max(sink, ...scores);
        const weights = scores.map((s) => Math.exp(s - max));
        const total = weights.reduce((a, b) => a + b, Math.exp(sink - max));
        for (let d = 0; d < headDim; d++) {
          let sum = 0;
          for (let i = 0; i < slots.length; i++) sum += weights[i]! * kv.v[slots[i]! * width + kvAt + d]!;
          result[qAt + d] = sum / total;
        }
      }
    }
    writeOutput(spec.out, [], spec.epilogue, env, (row, col) => [result[row * spec.out.cols + col]!]);
  },

  elementwise(spec, env) {
    writeOutput(spec.out, spec.operands, spec.epilogue, env, () => []);
  },

  ...expertMeaning,

  attention_units(spec, env) {
    const { plan, cut } = spec.units;
    const units = attentionUnits(env.input(spec.positions.name), env.input(spec.seqIds.name), cut);
    const numbers = new Float32Array(plan.cols).fill(-1);
    numbers.set(planOf(units));
    env.buffers.set(plan.name, numbers);
  },

  sample() {
    invariant(false, "sampling has no array meaning; the sampler is compared with a reference distribution");
  },
};

/** Rows of k elements, normalized and rounded. */
function normalized(x: Float32Array, k: number, { gain, eps, dtype }: RowNorm, env: KernelEnvironment): Float32Array {
  const gains = env.tensor(gain);
  const scales = Array.from({ length: x.length / k }, (_, row) => inverseRms(x, row * k, k, eps));
  return roundTo(
    dtype,
    x.map((v, i) => Math.fround(v * scales[Math.floor(i / k)]!) * gains[i % k]!),
  );
}

function inverseRms(x: Float32Array, at: number, length: number, eps: number): number {
  let sum = 0;
  for (let i = 0; i < length; i++) sum += x[at + i]! * x[at + i]!;
  return 1 / Math.sqrt(sum / length + eps);
}

/** One chain's heads for token t: (numHeads · headDim). */
function headRow(chain: HeadChain, headDim: number, t: number, env: KernelEnvironment): Float32Array {
  const at = t * chain.x.cols + chain.col;
  const out = read(chain.x, env).slice(at, at + chain.numHeads * headDim);
  for (let h = 0; h < chain.numHeads; h++) {
    const head = out.subarray(h * headDim, (h + 1) * headDim);
    if (chain.norm) {
      const gain = env.tensor(chain.norm.gain);
      const scale = inverseRms(head, 0, headDim, chain.norm.eps);
      for (let d = 0; d < headDim; d++) head[d] = Math.fround(head[d]! * scale) * gain[d]!;
    }
    if (chain.rope) {
      const { half, style } = chain.rope;
      const angles = read(chain.rope.angles, env).subarray(t * 2 * half, (t + 1) * 2 * half);
      for (let i = 0; i < half; i++) {
        const [a, b] = style === "half" ? [i, i + half] : [2 * i, 2 * i + 1];
        const [x, y] = [head[a]!, head[b]!];
        head[a] = x * angles[i]! - y * angles[half + i]!;
        head[b] = y * angles[i]! + x * angles[half + i]!;
      }
    }
  }
  return out;
}

function slotOf(env: KernelEnvironment, t: number, position: number, blockSize: number): number {
  const seq = env.input("seq_ids")[t]!;
  const block = env.input("block_tables")[seq * env.binding.P + Math.floor(position / blockSize)]!;
  return block * blockSize + (position % blockSize);
}
