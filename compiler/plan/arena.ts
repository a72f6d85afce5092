/**
 * Places buffers in one arena: buffers whose lives do not meet share memory, and an elementwise result takes over the operand
 * that dies with it (the residual add happens in place).
 */

import { maxOf } from "../ir/tensor-type.ts";
import { kernelBuffers, kernelOutputs } from "../kernels/operands.ts";
import type { BufferValue, KernelSpec } from "../kernels/spec.ts";

/** Where a buffer lies, in bytes. */
export interface Placement {
  readonly buffer: BufferValue;
  readonly offset: number;
  readonly bytes: number;
}

export interface ArenaPlan {
  readonly bytes: number;
  readonly placements: readonly Placement[];
}

/** Every buffer starts on a page, so that a stray write of one kernel cannot hide in another's padding. */
const ALIGN = 4096;

/** A piece of memory and the kernels between which it is in use. */
interface Storage {
  readonly buffers: BufferValue[];
  bytes: number;
  first: number;
  last: number;
}

/**
 * Plans the arena for kernels run in order. `bytesOf` sizes a buffer at its largest extent, padding of its layout included.
 * First fit by decreasing size over live intervals; `scratch` buffers share their memory with those of their name alone.
 */
export function planArena(
  kernels: readonly KernelSpec[],
  bytesOf: (buffer: BufferValue) => number,
  scratch: readonly BufferValue[] = [],
): ArenaPlan {
  const lastUse = new Map<string, number>();
  kernels.forEach((spec, i) => {
    for (const buffer of kernelBuffers(spec)) lastUse.set(buffer.name, i);
  });

  const storageOf = new Map<string, Storage>();
  kernels.forEach((spec, i) => {
    for (const out of kernelOutputs(spec)) {
      const donor = inPlaceOperand(spec, i, lastUse);
      const storage: Storage = (donor && storageOf.get(donor.name)) ?? { buffers: [], bytes: 0, first: i, last: i };
      storage.buffers.push(out);
      storage.bytes = Math.max(storage.bytes, bytesOf(out));
      storage.last = Math.max(storage.last, lastUse.get(out.name) ?? i);
      storageOf.set(out.name, storage);
    }
  });

  for (const buffer of scratch) {
    const bytes = bytesOf(buffer);
    const known = storageOf.get(buffer.name);
    if (known && known.bytes >= bytes) continue;
    storageOf.set(buffer.name, { buffers: [buffer], bytes, first: 0, last: kernels.length });
  }

  const placed: { storage: Storage; offset: number }[] = [];
  const all = [...new Set(storageOf.values())].sort((a, b) => b.bytes - a.bytes || a.first - b.first);
  for (const storage of all) {
    const meeting = placed
      .filter((p) => p.storage.first <= storage.last && storage.first <= p.storage.last)
      .sort((a, b) => a.offset - b.offset);
    let offset = 0;
    for (const p of meeting) {
      if (offset + storage.bytes <= p.offset) break;
      offset = Math.max(offset, align(p.offset + p.storage.bytes));
    }
    placed.push({ storage, offset });
  }

  return {
    bytes: align(Math.max(0, ...placed.map((p) => p.offset + p.storage.bytes))),
    placements: placed.flatMap((p) => p.storage.buffers.map((buffer) => ({ buffer, offset: p.offset, bytes: bytesOf(buffer) }))),
  };
}

const align = (n: number): number => Math.ceil(n / ALIGN) * ALIGN;

/** The slot operand whose memory the output may take over: same shape and dtype, read for the last time at the same element. */
function inPlaceOperand(spec: KernelSpec, index: number, lastUse: ReadonlyMap<string, number>): BufferValue | undefined {
  if (spec.kind !== "linear" && spec.kind !== "elementwise") return undefined;
  const { out } = spec;
  return spec.operands.find(
    (o): o is BufferValue =>
      o.kind === "buffer" &&
      o.dtype === out.dtype &&
      o.cols === out.cols &&
      maxOf(o.rows) === maxOf(out.rows) &&
      lastUse.get(o.name) === index &&
      (spec.kind !== "linear" || spec.x.name !== o.name),
  );
}
