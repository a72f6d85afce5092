/**
 * Order statistics of small samples, defined as numpy defines them, so that numbers compare with Python benchmarks.
 */
import { invariant } from "../errors.ts";

/** The `p`-th percentile, 0 ≤ p ≤ 100, with linear interpolation between ranks (numpy's default). `sorted` ascends and is not empty. */
export function percentileOfSorted(sorted: readonly number[], p: number): number {
  invariant(sorted.length > 0 && p >= 0 && p <= 100, `percentile ${p} of ${sorted.length} values`);
  const rank = ((sorted.length - 1) * p) / 100;
  const below = Math.floor(rank);
  const lower = sorted[below] as number;
  const upper = sorted[Math.min(below + 1, sorted.length - 1)] as number;
  return lower + (upper - lower) * (rank - below);
}

export function percentile(values: readonly number[], p: number): number {
  return percentileOfSorted(sortedAscending(values), p);
}

export function median(values: readonly number[]): number {
  return percentile(values, 50);
}

export interface Summary {
  readonly count: number;
  readonly mean: number;
  /** Of the population (numpy's `std`), not the sample. */
  readonly std: number;
  readonly min: number;
  readonly q1: number;
  readonly median: number;
  readonly q3: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

/** Summarizes `values`, which must not be empty. */
export function summarize(values: readonly number[]): Summary {
  const sorted = sortedAscending(values);
  const at = (p: number) => percentileOfSorted(sorted, p);
  const mean = sorted.reduce((a, b) => a + b, 0) / sorted.length;
  const variance = sorted.reduce((a, b) => a + (b - mean) ** 2, 0) / sorted.length;
  return {
    count: sorted.length,
    mean,
    std: Math.sqrt(variance),
    min: at(0),
    q1: at(25),
    median: at(50),
    q3: at(75),
    p90: at(90),
    p99: at(99),
    max: at(100),
  };
}

function sortedAscending(values: readonly number[]): number[] {
  return [...values].sort((a, b) => a - b);
}
