/**
 * What every target's `rope_angles` skeleton is given: the frequencies as literals.
 */
import type { KernelOf } from "../kernels/spec.ts";
import { floatLiteral, literalLines } from "./expression.ts";

export const ropeAngles = ({ invFreq, attentionFactor, long }: KernelOf<"rope_angles">) => ({
  half: invFreq.length,
  attentionFactor,
  factorLiteral: floatLiteral(attentionFactor),
  invFreqLines: literalLines(invFreq),
  hasLong: long !== null,
  beyond: long?.beyond ?? 0,
  longInvFreqLines: literalLines(long?.invFreq ?? []),
});
