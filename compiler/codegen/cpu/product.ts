/**
 * What the skeletons that multiply rows with weight panels share, in registers or in tiles.
 */
import type { ExpertSumKernel, GroupedLinearKernel, LinearKernel } from "../../kernels/spec.ts";
import type { TemplateContext } from "../template.ts";
import type { KernelSchedule } from "./kernel-schedule.ts";
import { cppType, field } from "./kernel-text.ts";
import { paddedK } from "./layout.ts";

/** Sizes, dtypes, order of summation, blocking, and the scratch that sums of a pass take. */
export function productContext(
  { n, k, x, w }: LinearKernel | GroupedLinearKernel | ExpertSumKernel,
  schedule: KernelSchedule,
  ways: number,
): TemplateContext {
  const { blocking, skeleton } = schedule;
  const common = { n, k, ...blocking };
  if (skeleton.endsWith("_amx")) return { ...common, tilesK: Math.ceil(k / 32), scratchBytes: tileSums(schedule, ways) };
  const pairs = x.dtype === "bf16";
  return {
    ...common,
    pairs,
    order: pairs ? "increasing pairs of k, of each the odd k first" : "increasing k",
    xDtype: x.dtype,
    xType: cppType(x.dtype),
    weightDtype: cppType(w.dtype),
    paddedK: paddedK(w),
    scratchBytes: field(blocking, "rowsPerPass") * field(blocking, "streams") * ways * 64,
  };
}

/** Bytes of the sums of a pass in tiles. */
export const tileSums = ({ blocking }: KernelSchedule, ways: number): number =>
  field(blocking, "rowTilesPerPass") * field(blocking, "streams") * ways * 1024;
