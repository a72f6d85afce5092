/**
 * A planned program as text: where buffers lie, then a line a step with its work and its arguments, then the taps.
 */
import type { Arg, Rpn } from "../../runtime/manifest.ts";
import type { PlannedProgram } from "./program.ts";

/** `007 linear_bf16_96x64__add grid=[6] chunk=4 serial≤0 (v12@4096, w, v9@0, v14@0)`; `tensors` are the names in weights.bin. */
export function printPlan({ arena, kernels, program }: PlannedProgram, tensors: readonly string[]): string {
  const argument = (arg: Arg): string => {
    if ("buffer" in arg) return `${arena.buffers[arg.buffer]?.name}@${arena.buffers[arg.buffer]?.offset}`;
    if ("tensor" in arg) return tensors[arg.tensor] ?? "?";
    return "kv" in arg ? `kv.${arg.kv}` : arg.array;
  };
  const number = (step: number) => String(step).padStart(3, "0");
  const lines = [
    `arena ${arena.bytes} bytes`,
    ...arena.buffers.map(
      ({ name, dtype, rows, cols, layout, offset, bytes }) =>
        `  ${name} ${dtype}(${rows}, ${cols})${layout === "rows" ? "" : ` ${layout}`} at ${offset}, ${bytes} bytes`,
    ),
    `program ${program.name}, up to ${program.maxTokens} tokens`,
    ...program.steps.map(
      ({ kernel, grid, chunk, serialUnits, args }, i) =>
        `  ${number(i)} ${kernels[kernel]?.name} grid=[${printRpn(grid)}] chunk=${chunk} serial≤${serialUnits} (${args.map(argument).join(", ")})`,
    ),
    ...program.taps.map(({ name, step, buffer }) => `  tap ${name} after ${number(step)}: ${argument({ buffer })}`),
  ];
  return `${lines.join("\n")}\n`;
}

/** Reverse Polish as it is evaluated: `T 16 ceildiv 8 mul`. */
const printRpn = (rpn: Rpn): string => rpn.join(" ");
