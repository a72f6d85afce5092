#!/usr/bin/env node
// Compares an engine of ours with node-llama-cpp in one run: the same shapes, token ids and threads, samples interleaved
// A B B A …, and the median of per-pair ratios as the result. `node run.mjs --help` lists the options, README.md the protocol.

import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { CELLS, promptsOf, tokensOf } from "./cells.mjs";
import { awaitQuiet, cpuTimes, describeMachine, describeSource, loadAddon, loadBetween, probe } from "./machine.mjs";
import { summarizeCell, tableOf } from "./results.mjs";
import { labelOf, MODEL_NAMES, shapeOf, stepCosts } from "./shapes.mjs";
import { ensureSyntheticModel } from "./synthetic-gguf.mjs";
import { Worker } from "./worker-protocol.mjs";

const HELP = `node bench/peers/run.mjs [options]

  --model NAME       ${MODEL_NAMES.join(", ")} (default: ${MODEL_NAMES[0]})
  --layers N         only the model's first N layers, on both sides
  --engine DIR       our engine of that model in bfloat16 with random weights (default: compiled into bench/peers/.cache)
  --peer-only        measure node-llama-cpp alone
  --cells A,B        ${CELLS.map((c) => c.name).join(", ")} (default: all)
  --pairs N          pairs per cell (default 9)
  --threads N        for both sides (default: the usable cores)
  --quiet-timeout S  seconds to wait for a quiet machine before each pair; a pair is dropped when there is none (default 120)
  --no-gate          measure at once and keep every pair: for trying out, not for claims
  --in-turn          load one side at a time, anew for every sample: for models that do not fit in memory twice
  --no-mmap          node-llama-cpp reads its weights into memory instead of mapping the file
  --output FILE      result file (default: bench/results/<date>-<model>-<layers>l-<arch>-<threads>t.json)
`;

const { values: options } = parseArgs({
  options: {
    model: { type: "string", default: MODEL_NAMES[0] },
    layers: { type: "string" },
    engine: { type: "string" },
    "peer-only": { type: "boolean", default: false },
    cells: { type: "string" },
    pairs: { type: "string", default: "9" },
    threads: { type: "string" },
    "quiet-timeout": { type: "string", default: "120" },
    "no-gate": { type: "boolean", default: false },
    "in-turn": { type: "boolean", default: false },
    "no-mmap": { type: "boolean", default: false },
    output: { type: "string" },
    help: { type: "boolean", default: false },
  },
});

function usage(message) {
  console.error(`${message}\n\n${HELP}`);
  process.exit(2);
}

function positiveInteger(name, text) {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) usage(`--${name} takes a positive integer, got ${text}`);
  return value;
}

const sleep = (ms) => new Promise((wake) => setTimeout(wake, ms));
const note = (text) => console.error(text);

/** One of those compared: a process that holds its model, all the time or while it is asked. */
class Side {
  #worker = null;

  constructor(name, script, model, inTurn) {
    Object.assign(this, { name, script, model, inTurn, facts: null });
  }

  async start() {
    this.#worker = new Worker(this.name, this.script);
    this.facts = await this.#worker.call("load", this.model);
    if (this.inTurn) this.stop();
  }

  /** Answers `ask(call)`; a side that was just loaded has read none of its weights yet: `warm` is asked before. */
  async with(ask, warm = () => {}) {
    if (!this.inTurn) return ask((...args) => this.#worker.call(...args));
    this.#worker = new Worker(this.name, this.script);
    try {
      await this.#worker.call("load", this.model);
      await warm((...args) => this.#worker.call(...args));
      return await ask((...args) => this.#worker.call(...args));
    } finally {
      this.stop();
    }
  }

  stop() {
    this.#worker?.close();
  }
}

/** One timed sample with the load that others put on the machine meanwhile. */
async function sample(side, cell, prompts, setting) {
  const measure = (call) => call("measure", { cell, prompts, setting });
  return side.with(
    async (call) => {
      await sleep(200); // the other side's threads stop spinning
      const before = cpuTimes();
      const { ms, cpuMs } = await measure(call);
      return { ms, tokensPerSecond: (1000 * tokensOf(cell)) / ms, load: loadBetween(before, cpuTimes(), cpuMs) };
    },
    // Other prompts than those measured, which a prefix cache would answer.
    (call) => call("measure", { cell, prompts: prompts.map((prompt) => [...prompt].reverse()), setting }),
  );
}

/** Why a pair is no evidence, or null. */
function whyDropped(samples, { before, after }) {
  const others = Math.max(...samples.map((s) => s.load?.others ?? 0));
  if (others > 0.05) return `others used ${(100 * others).toFixed(0)} % of the CPUs meanwhile`;
  const drift = Math.abs(after.readGBs / before.readGBs - 1);
  if (drift > 0.1) return `read bandwidth moved by ${(100 * drift).toFixed(0)} %`;
  return null;
}

async function measurePair(cell, index, sides, settings, { addon, threads, gated, shape, gate }) {
  const order = index % 2 === 0 ? sides : [...sides].reverse();
  const prompts = promptsOf(cell, index + 1, shape);
  const before = probe(addon, threads);
  const samples = [];
  for (const side of order) samples.push({ side: side.name, ...(await sample(side, cell, prompts, settings[side.name].best)) });
  const probes = { before, after: probe(addon, threads) };
  return { gate, probes, samples, dropped: gated ? whyDropped(samples, probes) : null };
}

async function measureCell(cell, sides, { addon, threads, pairs, gated, quietTimeoutS, shape }) {
  const settings = {};
  if (gated) await awaitQuiet(quietTimeoutS);
  for (const side of sides) {
    settings[side.name] = await side.with((call) => call("tune", { cell, threads, prompts: promptsOf(cell, 0, shape) }));
  }
  const done = [];
  // A dropped pair is taken again, as long as fewer were dropped than asked for.
  for (let i = 0; i < 2 * pairs && done.filter((p) => p.dropped === null).length < pairs; i++) {
    const gate = gated ? await awaitQuiet(quietTimeoutS) : { quiet: true, load: null };
    if (!gate.quiet) {
      const others = (100 * gate.load.others).toFixed(0);
      const steal = (100 * gate.load.steal).toFixed(1);
      done.push({
        gate,
        probes: null,
        samples: [],
        dropped: `not quiet: others use ${others} % of the CPUs, steal is ${steal} %`,
      });
    } else {
      done.push(await measurePair(cell, i, sides, settings, { addon, threads, gated, shape, gate }));
    }
    const { samples, dropped } = done.at(-1);
    const speeds = samples.map((s) => `${s.side} ${s.tokensPerSecond.toFixed(1)} tok/s`);
    const kept = done.filter((p) => p.dropped === null).length;
    const verdict = dropped === null ? `kept, ${kept} of ${pairs}` : `dropped: ${dropped}`;
    note([`${cell.name}, pair ${i + 1}`, ...speeds, verdict].join("; "));
  }
  return { ...summarizeCell(cell, done, stepCosts(shape)), settings, pairs: done };
}

const compileArguments = ({ name, numLayers }) => ["compile", name, "--weights", "random", "--layers", String(numLayers)];

/** Folder of our engine of `shape`; what is there and up to date is kept. */
function compileEngine(shape) {
  const folder = fileURLToPath(new URL(`.cache/${labelOf(shape)}-engine`, import.meta.url));
  const ingot = fileURLToPath(new URL("../../dist/ingot.js", import.meta.url));
  execFileSync(process.execPath, [ingot, ...compileArguments(shape), "-o", folder], { stdio: ["ignore", 2, 2] });
  return folder;
}

/** Both sides must read the same weights; norms, biases and tables may add a little. */
function checkEngine({ engine, dtype, weightBytes }, shape) {
  const costs = stepCosts(shape);
  if (dtype === "bfloat16" && Math.abs(weightBytes / costs.weightBytes - 1) < 0.01) return;
  throw new Error(
    `engine ${engine} reads ${weightBytes} bytes of weights a step in ${dtype}, the comparison needs ${costs.weightBytes} in bfloat16: ` +
      `make it with \`ingot ${compileArguments(shape).join(" ")}\``,
  );
}

async function main() {
  if (options.help) return console.log(HELP);
  const wanted = options.cells?.split(",") ?? CELLS.map((c) => c.name);
  const cells = wanted.map((name) => CELLS.find((c) => c.name === name) ?? usage(`no cell is named ${name}`));
  const pairs = positiveInteger("pairs", options.pairs);
  const quietTimeoutS = positiveInteger("quiet-timeout", options["quiet-timeout"]);
  const addon = loadAddon();
  const machine = describeMachine(addon);
  const threads = options.threads === undefined ? machine.cores : positiveInteger("threads", options.threads);
  const gated = !options["no-gate"];
  const inTurn = options["in-turn"];
  const layers = options.layers === undefined ? undefined : positiveInteger("layers", options.layers);
  const shape = shapeOf(options.model, layers);

  const sides = [];
  try {
    if (!options["peer-only"]) {
      const engine = options.engine === undefined ? compileEngine(shape) : resolve(options.engine);
      sides.push(new Side("ingot", "worker-ours.mjs", { engine, threads }, inTurn));
      await sides[0].start();
      checkEngine(sides[0].facts, shape);
    }
    const maxSequences = Math.max(...cells.map((c) => c.sequences));
    const model = { model: ensureSyntheticModel(shape), threads, mmap: !options["no-mmap"], maxSequences };
    sides.push(new Side("node-llama-cpp", "worker-llama-cpp.mjs", model, inTurn));
    await sides.at(-1).start();

    const result = {
      schema: 1,
      date: new Date().toISOString(),
      machine,
      source: describeSource(),
      model: { ...shape, dtype: "bfloat16", weights: "random", ...stepCosts(shape) },
      protocol: { pairs, threads, gated, inTurn, order: "A B B A" },
      sides: sides.map((s) => ({ ...s.facts, cpuMs: undefined })),
      cells: [],
    };
    const file = resolve(options.output ?? fileURLToPath(new URL(`../results/${defaultName(result)}`, import.meta.url)));
    mkdirSync(dirname(file), { recursive: true });
    for (const cell of cells) {
      result.cells.push(await measureCell(cell, sides, { addon, threads, pairs, gated, quietTimeoutS, shape }));
      // After every cell: a run that is stopped keeps what it has.
      writeFileSync(file, `${JSON.stringify(result, null, 1)}\n`);
    }
    console.log(tableOf(result));
    note(`\nwritten to ${file}`);
    if (result.cells.some((c) => c.keptPairs < Math.min(5, pairs))) {
      note("some cells kept too few pairs for a claim: the machine was not quiet");
      process.exitCode = 1;
    }
  } finally {
    for (const side of sides) side.stop();
  }
}

function defaultName({ date, machine, model, protocol }) {
  return `${date.slice(0, 16).replace(":", "")}-${labelOf(model)}-${machine.arch}-${protocol.threads}t.json`;
}

try {
  await main();
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
}
