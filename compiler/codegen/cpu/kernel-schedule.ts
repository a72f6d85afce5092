/**
 * What a schedule says of one kernel: its skeleton, its blocks, and how its work is handed to threads.
 */
import type { Rpn } from "../../../runtime/manifest.ts";
import type { KernelKind } from "../../kernels/spec.ts";
import type { Isa } from "./dialect.ts";
import type { TensorLayout } from "./layout.ts";

/** How one spec is computed on one instruction set. */
export interface KernelSchedule {
  readonly isa: Isa;
  /** File stem of the skeleton: `templates/<skeleton>.cpu.njk`. */
  readonly skeleton: KernelKind | "linear_amx" | "grouped_linear_amx" | "expert_sum_amx";
  /** Units of work of a launch. */
  readonly grid: Rpn;
  /** Units handed out at a time; ranges start at its multiples. */
  readonly chunk: number;
  /** With at most this many units one thread runs the launch alone. */
  readonly serialUnits: number;
  /** Blocking constants of the skeleton. */
  readonly blocking: Readonly<Record<string, number>>;
  /** Tokens of a KV block. */
  readonly kvBlockSize: number;
  /** How the table of an embedding lies: an untied one in rows, a tied one as the head's panels. */
  readonly tableLayout: TensorLayout;
}

/** What a schedule must know of the program around its kernel. */
export interface ScheduleContext {
  /** Tokens of a KV block, a multiple of 16. */
  readonly kvBlockSize: number;
  /** Names of the tensors some linear reads, which are packed as panels for every reader. */
  readonly panelTensors: ReadonlySet<string>;
}

export const DEFAULT_KV_BLOCK_SIZE = 32;
