/**
 * A plan as text: where buffers lie; and a program: a line a step with its work and its arguments, then the taps.
 */
import type { Arg, KernelEntry, Manifest, Program } from "../../runtime/manifest.ts";

type Arena = Manifest["arena"];

/** `v12 f32(T, 64) at 4096, 1024 bytes` */
export function printArena({ bytes, buffers }: Arena): string {
  const lines = buffers.map(
    ({ name, dtype, rows, cols, layout, offset, bytes }) =>
      `  ${name} ${dtype}(${rows}, ${cols})${layout === "rows" ? "" : ` ${layout}`} at ${offset}, ${bytes} bytes`,
  );
  return `${[`arena ${bytes} bytes`, ...lines].join("\n")}\n`;
}

/** `007 linear_bf16_96x64__add (v12@4096, w, v9@0, v14@0)`; `tensors` are the names in weights.bin. */
export function printProgram(
  program: Program,
  kernels: readonly KernelEntry[],
  { buffers }: Arena,
  tensors: readonly string[],
): string {
  const argument = (arg: Arg): string => {
    if ("buffer" in arg) return `${buffers[arg.buffer]?.name}@${buffers[arg.buffer]?.offset}`;
    if ("tensor" in arg) return tensors[arg.tensor] ?? "?";
    if ("kv" in arg) return `kv.${arg.kv}`;
    return "array" in arg ? arg.array : arg.symbol;
  };
  const number = (step: number) => String(step).padStart(3, "0");
  const lines = [
    `program ${program.name}, up to ${program.maxTokens} tokens, ${kernels.length} kernels`,
    ...program.steps.map(({ kernel, args }, i) => `  ${number(i)} ${kernels[kernel]?.name} (${args.map(argument).join(", ")})`),
    ...program.taps.map(({ name, step, buffer }) => `  tap ${name} after ${number(step)}: ${argument({ buffer })}`),
  ];
  return `${lines.join("\n")}\n`;
}
