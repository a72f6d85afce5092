/**
 * Recorded reference activations: a folder with golden.json and golden.safetensors.
 *
 * golden.json: prompts (token ids), greedy continuations, `bf16_compute_relative_error`. golden.safetensors: `p{i}.logits` f32
 * (T, vocab) and, for some prompts, `p{i}.hidden.{l}` f32 (T, hidden), l = 0 after the embedding … L after the final norm.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { CompileError } from "../errors.ts";
import { headerLength, PREFIX_BYTES, parseHeader } from "../weights/safetensors-header.ts";
import { readJson } from "./model-source.ts";

const ids = z.array(z.number().int().min(0));
const fields = z.object({
  prompts: z.array(ids.min(1)).min(1),
  greedy: z.array(ids),
  bf16_compute_relative_error: z.number().positive(),
});

/** A prompt and what a reference gives for it. */
export interface ReferencePrompt {
  readonly ids: readonly number[];
  /** The greedy continuation; empty when not recorded. */
  readonly greedy: readonly number[];
  readonly logits: Float32Array;
  /** Index l is `hidden.l`; empty when not recorded. */
  readonly hidden: readonly Float32Array[];
}

export interface Golden {
  readonly prompts: readonly ReferencePrompt[];
  /** How far the reference's own logits move when it computes in bfloat16. */
  readonly bf16RelativeError: number;
}

export const hasGolden = (folder: string): boolean => existsSync(join(folder, "golden.json"));

/** Reads a golden folder. Throws `CompileError` naming the file and what is wrong with it. */
export function readGolden(folder: string): Golden {
  const file = join(folder, "golden.json");
  if (!existsSync(file)) throw new CompileError(`${folder} holds no golden.json; expected recorded reference activations`);
  const parsed = fields.safeParse(readJson(file));
  if (!parsed.success) throw new CompileError(`${file}: ${z.prettifyError(parsed.error)}`);
  const tensors = readF32Tensors(join(folder, "golden.safetensors"));
  const { prompts, greedy, bf16_compute_relative_error: bf16RelativeError } = parsed.data;
  return {
    bf16RelativeError,
    prompts: prompts.map((prompt, i) => {
      const logits = tensors.get(`p${i}.logits`);
      if (!logits) throw new CompileError(`${folder}: golden.safetensors has no p${i}.logits`);
      const hidden: Float32Array[] = [];
      for (let l = 0; tensors.has(`p${i}.hidden.${l}`); l++) hidden.push(tensors.get(`p${i}.hidden.${l}`) as Float32Array);
      return { ids: prompt, greedy: greedy[i] ?? [], logits, hidden };
    }),
  };
}

function readF32Tensors(file: string): Map<string, Float32Array> {
  if (!existsSync(file)) throw new CompileError(`${file} is missing`);
  const bytes = readFileSync(file);
  const length = headerLength(bytes.subarray(0, PREFIX_BYTES), bytes.length, file);
  const tensors = parseHeader(bytes.subarray(PREFIX_BYTES, PREFIX_BYTES + length), bytes.length, file);
  const f32 = tensors.filter((t) => t.dtype === "F32");
  return new Map(
    f32.map((t) => [
      t.name,
      new Float32Array(bytes.buffer.slice(bytes.byteOffset + t.offset, bytes.byteOffset + t.offset + t.bytes)),
    ]),
  );
}
