/** Renders templates/sample.cpu.njk for a vocabulary, compiles it, and runs rows through the executor. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import nunjucks from "nunjucks";
import { MAX_LOGPROBS, SAMPLE_FLOATS, SAMPLE_FLOATS_WIDTH, SAMPLE_INTS, SAMPLE_INTS_WIDTH } from "../../runtime/batch.ts";
import type { NativeExecutor } from "../../runtime/native.ts";
import { compileKernels, executorOptions, testAddon } from "./kernel-library.ts";
import type { Row } from "./reference-sampler.ts";

const template = readFileSync(new URL("../../templates/sample.cpu.njk", import.meta.url), "utf8");
const environment = new nunjucks.Environment(null, {
  autoescape: false,
  throwOnUndefined: true,
  tags: { blockStart: "/*%", blockEnd: "%*/", variableStart: "${", variableEnd: "}", commentStart: "/*#", commentEnd: "#*/" },
});

export interface Sampled {
  readonly ids: Int32Array;
  readonly logprobs: Float32Array;
  readonly topIds: Int32Array;
  readonly topLogprobs: Float32Array;
}

export class SampleKernel {
  private readonly executor: NativeExecutor;

  constructor(
    readonly vocab: number,
    flags: readonly string[],
    threads = 2,
  ) {
    const abi = 'extern "C" __attribute__((visibility("default"))) const uint32_t ingot_abi;\nconst uint32_t ingot_abi = 1;\n';
    const source = environment.renderString(template, { name: "sample", vocab }) + abi;
    const include = fileURLToPath(new URL("../../templates", import.meta.url));
    const padded = Math.ceil(vocab / 16) * 16;
    this.executor = testAddon().createExecutor(
      executorOptions({
        library: compileKernels(`sample-${vocab}`, source, [...flags, `-I${include}`, "-fvisibility=hidden"]),
        scratchBytes: 12 * padded + 8 * Math.ceil(padded / 1024) + 4 * Math.ceil(vocab / 64),
        threads,
        numArrays: 8,
        programs: [
          {
            steps: [
              {
                kernel: "sample",
                grid: ["S"],
                chunk: 1,
                serialUnits: 1,
                args: Array.from({ length: 8 }, (_, i) => ["array", i] as const),
              },
            ],
          },
        ],
      }),
    );
  }

  /** Samples one token for each row; logits are copied first, since the kernel overwrites them. */
  async sample(rows: readonly Row[], logits: (row: number) => ArrayLike<number>): Promise<Sampled> {
    const n = rows.length;
    const { all, floats, ints, tokens } = sampleArrays(rows, this.vocab, logits);
    const result: Sampled = {
      ids: new Int32Array(n),
      logprobs: new Float32Array(n),
      topIds: new Int32Array(n * MAX_LOGPROBS),
      topLogprobs: new Float32Array(n * MAX_LOGPROBS),
    };
    const arrays = [all, floats, ints, tokens, result.ids, result.logprobs, result.topIds, result.topLogprobs];
    await this.executor.run(0, Int32Array.of(n, n, n, 1), arrays, []);
    return result;
  }

  close(): Promise<void> {
    return this.executor.close();
  }
}

/** What a sampling kernel reads for `rows`: their logits one after another, and the arrays of `runtime/batch.ts`. */
export function sampleArrays(rows: readonly Row[], vocab: number, logits: (row: number) => ArrayLike<number>) {
  const n = rows.length;
  const all = new Float32Array(n * vocab);
  const floats = new Float32Array(n * SAMPLE_FLOATS_WIDTH);
  const ints = new Int32Array(n * SAMPLE_INTS_WIDTH);
  const entries: number[] = [];
  const bits = (x: number) => new Int32Array(Float32Array.of(x).buffer)[0]!;
  rows.forEach((row, r) => {
    all.set(logits(r), r * vocab);
    for (const name of Object.keys(SAMPLE_FLOATS) as (keyof typeof SAMPLE_FLOATS)[])
      floats[r * SAMPLE_FLOATS_WIDTH + SAMPLE_FLOATS[name]] = row[name];
    const set = (name: keyof typeof SAMPLE_INTS, value: number) => {
      ints[r * SAMPLE_INTS_WIDTH + SAMPLE_INTS[name]] = value;
    };
    set("topK", row.topK);
    set("seedLow", row.seed[0]);
    set("seedHigh", row.seed[1]);
    set("counter", row.counter);
    set("numLogprobs", row.numLogprobs);
    set("tokensBegin", entries.length / 2);
    entries.push(...row.tokens.flat());
    set("tokensEnd", entries.length / 2);
    set("biasBegin", entries.length / 2);
    entries.push(...row.bias.flatMap(([id, bias]) => [id, bits(bias)]));
    set("biasEnd", entries.length / 2);
  });
  return { all, floats, ints, tokens: Int32Array.from(entries) };
}
