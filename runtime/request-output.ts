/**
 * Gathers the news of a request into its whole output.
 */
import { invariant } from "./errors.ts";
import type { CompletionOutput, FinishReason, GenerateRequest, OutputDelta, RequestOutput, TokenLogprob } from "./request.ts";

interface Parts {
  text: string;
  readonly tokenIds: number[];
  readonly logprobs: TokenLogprob[];
  finishReason: FinishReason | null;
  stopReason: string | number | null;
}

/** Reads `deltas` to their end. Rejects with what they throw; the request is then over. */
export async function collectOutput(
  request: GenerateRequest,
  prompt: string | null,
  deltas: AsyncIterable<OutputDelta>,
): Promise<RequestOutput> {
  const parts: Parts[] = Array.from({ length: request.params.n }, () => ({
    text: "",
    tokenIds: [],
    logprobs: [],
    finishReason: null,
    stopReason: null,
  }));
  let numCachedTokens = 0;
  for await (const delta of deltas) {
    const part = parts[delta.index]!;
    part.text += delta.text;
    for (const id of delta.tokenIds) part.tokenIds.push(id);
    for (const logprob of delta.logprobs ?? []) part.logprobs.push(logprob);
    part.finishReason = delta.finishReason;
    part.stopReason = delta.stopReason;
    if (delta.index === 0) numCachedTokens = delta.numCachedTokens;
  }
  const outputs = parts.map((part, index): CompletionOutput => {
    const { text, tokenIds, finishReason, stopReason } = part;
    invariant(finishReason !== null, `completion ${index} of request ${request.requestId} ended without a reason`);
    const logprobs = request.params.logprobs === null ? null : part.logprobs;
    return { index, text, tokenIds, logprobs, finishReason, stopReason };
  });
  return { requestId: request.requestId, prompt, promptTokenIds: request.promptTokenIds, outputs, numCachedTokens };
}
