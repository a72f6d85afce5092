// From samples to claims: the median of per-pair ratios with its quartiles, and speeds normalised by what the machine can read.

import { weightBytesOf } from "./shapes.mjs";

/** `{ q1, median, q3 }` with linear interpolation between ranks; null for no values. */
export function quartiles(values) {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const at = (p) => {
    const rank = (sorted.length - 1) * p;
    const below = Math.floor(rank);
    return sorted[below] + (sorted[Math.min(below + 1, sorted.length - 1)] - sorted[below]) * (rank - below);
  };
  return { q1: at(0.25), median: at(0.5), q3: at(0.75) };
}

const speedOf = (pair, side) => pair.samples.find((s) => s.side === side)?.tokensPerSecond;

/** Bytes a decode step reads: the weights that its tokens use once, and each sequence's mean context. */
function bytesPerStep(cell, costs) {
  return (
    weightBytesOf(costs, cell.sequences) + cell.sequences * costs.kvBytesPerToken * (cell.promptTokens + cell.outputTokens / 2)
  );
}

/** A cell's result over the pairs that were not dropped. `ratio` is ours over theirs; null where one side was not measured. */
export function summarizeCell(cell, pairs, costs) {
  const kept = pairs.filter((p) => p.dropped === null);
  const readGBs = quartiles(kept.flatMap((p) => [p.probes.before.readGBs, p.probes.after.readGBs]));
  const names = [...new Set(pairs.flatMap((p) => p.samples.map((s) => s.side)))].sort();
  const speeds = names.map((side) => {
    const tokensPerSecond = quartiles(kept.map((p) => speedOf(p, side)));
    if (tokensPerSecond === null) return { side, tokensPerSecond };
    if (cell.kind === "prefill") {
      return { side, tokensPerSecond, gflops: (tokensPerSecond.median * costs.flopsPerPromptToken) / 1e9 };
    }
    const effectiveGBs = (bytesPerStep(cell, costs) * tokensPerSecond.median) / cell.sequences / 1e9;
    return { side, tokensPerSecond, effectiveGBs, bandwidthShare: effectiveGBs / readGBs.median };
  });
  const ratios = kept.flatMap((p) => {
    const [ours, theirs] = [speedOf(p, "ingot"), speedOf(p, "node-llama-cpp")];
    return ours === undefined || theirs === undefined ? [] : [ours / theirs];
  });
  return { ...cell, keptPairs: kept.length, readGBs, ratio: quartiles(ratios), speeds };
}

const digits = (x) => (x >= 100 ? x.toFixed(0) : x.toFixed(x >= 10 ? 1 : 2));
const range = (q) => (q === null ? "-" : `${digits(q.median)} (${digits(q.q1)}-${digits(q.q3)})`);

/** A Markdown table of a result: one row a cell, medians with quartiles in parentheses. */
export function tableOf(result) {
  const sideOf = (cell, name) => cell.speeds.find((s) => s.side === name);
  const limit = (speed) => {
    if (!speed?.tokensPerSecond) return "-";
    if (speed.gflops !== undefined) return `${digits(speed.gflops)} GFLOP/s`;
    return `${digits(speed.effectiveGBs)} GB/s, ${(100 * speed.bandwidthShare).toFixed(0)} %`;
  };
  const rows = result.cells.map((cell) => {
    const ours = sideOf(cell, "ingot");
    const theirs = sideOf(cell, "node-llama-cpp");
    const speed = (side) => (side === undefined ? "-" : range(side.tokensPerSecond));
    return [
      cell.name,
      speed(ours),
      speed(theirs),
      range(cell.ratio),
      limit(ours),
      limit(theirs),
      `${cell.keptPairs}/${cell.pairs.length}`,
    ];
  });
  const header = ["cell", "ingot tok/s", "node-llama-cpp tok/s", "ratio", "ingot", "node-llama-cpp", "pairs"];
  const line = (cells) => `| ${cells.join(" | ")} |`;
  const { machine, protocol } = result;
  return [
    line(header),
    line(header.map(() => "---")),
    ...rows.map(line),
    "",
    `${machine.cpu}, ${protocol.threads} threads, ${result.model.name} with ${result.model.numLayers} layers, ${result.model.dtype}; shares are of the read bandwidth probed around each pair.`,
  ].join("\n");
}
