/**
 * What a benchmark asks of an engine: prompts as token ids, each with its output length.
 *
 * `nanoVllmWorkload` reproduces `GeeeekExplorer/nano-vllm:bench.py`; `fixedWorkload` has equal lengths. Neither sends anything.
 */
import { createHash } from "node:crypto";
import { PythonRandom } from "./python-random.ts";

export interface WorkloadRequest {
  readonly promptTokenIds: readonly number[];
  /** Tokens to generate, EOS ignored. */
  readonly outputTokens: number;
}

/** Both ends are included, as in Python's `randint`. */
export interface InclusiveRange {
  readonly low: number;
  readonly high: number;
}

export interface WorkloadOptions {
  readonly numSeqs: number;
  readonly inputTokens: InclusiveRange;
  readonly outputTokens: InclusiveRange;
  /** Token ids are 0 … maxTokenId. */
  readonly maxTokenId: number;
  readonly seed: number;
}

/** The published figures: 256 requests, 100 … 1024 tokens in and out, ids 0 … 10000, seed 0. */
export const NANO_VLLM: WorkloadOptions = {
  numSeqs: 256,
  inputTokens: { low: 100, high: 1024 },
  outputTokens: { low: 100, high: 1024 },
  maxTokenId: 10_000,
  seed: 0,
};

/**
 * The requests of Nano-vLLM's benchmark, drawn in its order: per request its length, then its ids; after all prompts the
 * output lengths. Bit-exact with CPython for any options. Throws RangeError for an empty range.
 */
export function nanoVllmWorkload(options: WorkloadOptions = NANO_VLLM): WorkloadRequest[] {
  const { numSeqs, inputTokens, outputTokens, maxTokenId } = options;
  const random = new PythonRandom(options.seed);
  const prompts = Array.from({ length: numSeqs }, () => {
    const length = random.randint(inputTokens.low, inputTokens.high);
    return Array.from({ length }, () => random.randint(0, maxTokenId));
  });
  return prompts.map((promptTokenIds) => ({ promptTokenIds, outputTokens: random.randint(outputTokens.low, outputTokens.high) }));
}

export interface FixedWorkloadOptions {
  readonly numSeqs: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly maxTokenId: number;
  readonly seed: number;
}

/** `numSeqs` prompts of random ids, all of the same input and output length. */
export function fixedWorkload(options: FixedWorkloadOptions): WorkloadRequest[] {
  const exactly = (n: number): InclusiveRange => ({ low: n, high: n });
  return nanoVllmWorkload({ ...options, inputTokens: exactly(options.inputTokens), outputTokens: exactly(options.outputTokens) });
}

export interface WorkloadSummary {
  readonly numSeqs: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
  /** Of `P,P,…;O,O,…` (prompt lengths; output lengths), hex: names the shape of the work in a result file. */
  readonly sha256: string;
}

/** The totals of a workload and the hash of its lengths. */
export function summarizeWorkload(requests: readonly WorkloadRequest[]): WorkloadSummary {
  const inputs = requests.map((r) => r.promptTokenIds.length);
  const outputs = requests.map((r) => r.outputTokens);
  const sum = (xs: readonly number[]) => xs.reduce((a, b) => a + b, 0);
  return {
    numSeqs: requests.length,
    inputTokens: sum(inputs),
    outputTokens: sum(outputs),
    sha256: createHash("sha256")
      .update(`${inputs.join(",")};${outputs.join(",")}`)
      .digest("hex"),
  };
}
