/**
 * The arguments of a manifest's steps as native code takes them: offsets and indices.
 */
import { type Arg, type Manifest, STEP_ARRAYS, SYMBOLS } from "../manifest.ts";
import type { NativeArg } from "../native.ts";

/** Where an argument of a launch points; `numBlocks` of the KV cache lie [layer][block]. */
export function nativeArg(arg: Arg, { arena, weights, kvCache }: Manifest, numBlocks: number): NativeArg {
  if ("buffer" in arg) return ["arena", arena.buffers[arg.buffer]!.offset];
  if ("tensor" in arg) return ["weights", weights.tensors[arg.tensor]!.offset];
  if ("kv" in arg) return ["kv", arg.kv * numBlocks * kvCache.bytesPerBlock];
  if ("array" in arg) return ["array", STEP_ARRAYS.indexOf(arg.array)];
  return ["symbol", SYMBOLS.indexOf(arg.symbol)];
}
