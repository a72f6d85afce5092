/**
 * An architecture file of a user's own, as `--arch` takes it: the sample model, described once more with the shared layers.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

/** Lines are counted in tests: the first is line 1. */
export const OWN_ARCHITECTURE = `import { computeDType, defineArchitecture, type Node } from "ingot/compiler";
import * as models from "ingot/models";
import { z } from "zod";

const fields = z.object({ ...models.commonFields, attention_bias: z.boolean().default(false) });

export const own = defineArchitecture<models.DecoderConfig>({
  name: "Qwen3ForCausalLM",
  readConfig(json) {
    const read = models.readFields(json, fields);
    const defaults = { tieWordEmbeddings: false, numKvHeads: null, headDim: null, bosTokenId: null, eosTokenIds: [] };
    const facts = models.readModelFacts(read, defaults);
    const bias = read.attention_bias;
    const rope = models.readRope(json, facts.headDim, "half");
    const mlp = { kind: "dense", intermediateSize: facts.intermediateSize, bias: false } as const;
    const layers = new Array<models.DecoderLayer>(facts.numLayers).fill({ rope, window: null, mlp });
    return { ...facts, layers, qkvBias: bias, outputBias: bias, qkNorm: "heads" };
  },
  build(config, g) {
    const { hiddenSize, vocabSize, rmsNormEps: eps } = config;
    const naming = { prefix: "model.", dtype: computeDType(config.dtype) };
    const table = g.weight("model.embed_tokens.weight", { dtype: naming.dtype, shape: [vocabSize, hiddenSize] });
    const { invFreq, attentionFactor } = models.ropeFrequencies(config.layers[0]!.rope!);
    const rope = { angles: g.ropeAngles(g.input("positions"), invFreq, attentionFactor), style: "half" as const };
    let x: Node = g.tap("hidden.0", g.embedding(g.input("token_ids"), table));
    config.layers.forEach(({ window }, layer) => {
      x = g.scope(\`layers.\${layer}\`, () => {
        const normed = models.rmsNorm(g, x, "input_layernorm", eps, naming);
        const options = { ...config, layer, window, qkNorm: { over: "heads" as const, eps }, rope };
        const h = g.plus(x, models.attention(g, normed, options, naming));
        const mlpInput = models.rmsNorm(g, h, "post_attention_layernorm", eps, naming);
        return g.plus(h, models.gatedMlp(g, mlpInput, { intermediateSize: config.intermediateSize, bias: false }, naming));
      });
      if (layer + 1 < config.numLayers) g.tap(\`hidden.\${layer + 1}\`, x);
    });
    const last = models.rmsNorm(g, g.gatherRows(x, g.input("sample_rows")), "norm", eps, naming);
    g.tap(\`hidden.\${config.numLayers}\`, last);
    g.setLogits(g.linear(last, table));
  },
});
`;

/** Writes the file with each of `changes` (what is there, what comes in its place) into `folder`; its path. */
export function ownArchitecture(folder: string, ...changes: readonly (readonly [from: string, to: string])[]): string {
  const file = join(folder, "own.ts");
  mkdirSync(dirname(file), { recursive: true });
  const text = changes.reduce((whole, [from, to]) => {
    if (!whole.includes(from)) throw new Error(`the architecture has no ${from}`);
    return whole.replace(from, () => to);
  }, OWN_ARCHITECTURE);
  writeFileSync(file, text);
  return file;
}
