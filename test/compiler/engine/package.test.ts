import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeModule, writePackage } from "../../../compiler/engine/package.ts";
import { sampleManifest } from "../../runtime/manifest-sample.ts";

const root = join(import.meta.dirname, "../../..");
let scratch: string;
let folder: string;
beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), "ingot-engine-package-"));
  folder = join(scratch, "engine");
  mkdirSync(folder);
  await writeModule(folder, { ...sampleManifest(), name: "Qwen3-0.6B" });
  await writePackage(folder, { ...sampleManifest(), name: "Qwen3-0.6B" });
});
afterAll(() => rmSync(scratch, { recursive: true }));

const text = (name: string): string => readFileSync(join(folder, name), "utf8");

describe("an engine folder as an npm package", () => {
  it("takes along all but the library, which is built where it is installed", () => {
    expect(text("package.json")).toMatchInlineSnapshot(`
      "{
        "name": "ingot-engine-qwen3-0.6b",
        "version": "1.0.0",
        "description": "Qwen3-0.6B (Qwen3ForCausalLM) compiled by ingot for cpu:avx512-amx",
        "type": "module",
        "exports": {"types":"./index.d.ts","default":"./index.js"},
        "files": ["LICENSE","kernels","manifest.json","tokenizer.json","weights.bin"],
        "scripts": {"postinstall":"ingot build ."},
        "peerDependencies": {"ingot":"^0.1.0"}
      }
      "
    `);
  });

  it("has a module of facts that Node runs as it is", () => {
    expect(text("index.js")).toMatchInlineSnapshot(`
      "/** Qwen3-0.6B (Qwen3ForCausalLM) compiled by ingot for cpu:avx512-amx. */
      import { LLM } from "ingot";
      /** The engine's name. */
      export const name = "Qwen3-0.6B";
      /** What its kernels were generated for. */
      export const target = "cpu:avx512-amx";
      /** Facts of the model, in the words of its config.json. */
      export const model = {
          architecture: "Qwen3ForCausalLM",
          hiddenSize: 64,
          intermediateSize: 160,
          numLayers: 2,
          numHeads: 4,
          numKvHeads: 2,
          headDim: 16,
          vocabSize: 500,
          maxPositionEmbeddings: 2048,
          tieWordEmbeddings: true,
          dtype: "bfloat16",
          numParameters: 123456,
          bosTokenId: null,
          eosTokenIds: [1, 2]
      };
      /** The largest step, and the longest sequence; \`load\` can lower them. */
      export const limits = {
          maxModelLen: 1024,
          maxNumSeqs: 8,
          maxNumBatchedTokens: 256
      };
      /** Loads the engine. Rejects with what to do when its kernels are not built, or not for this machine. */
      export function load(options) {
          return LLM.load(import.meta.dirname, options);
      }
      "
    `);
  });

  it("has a type for each fact that is as literal as the fact", () => {
    expect(text("index.d.ts")).toMatchInlineSnapshot(`
      "/** Qwen3-0.6B (Qwen3ForCausalLM) compiled by ingot for cpu:avx512-amx. */
      import { LLM, type LLMOptions } from "ingot";
      /** The engine's name. */
      export declare const name: "Qwen3-0.6B";
      /** What its kernels were generated for. */
      export declare const target: "cpu:avx512-amx";
      /** Facts of the model, in the words of its config.json. */
      export declare const model: {
          readonly architecture: "Qwen3ForCausalLM";
          readonly hiddenSize: 64;
          readonly intermediateSize: 160;
          readonly numLayers: 2;
          readonly numHeads: 4;
          readonly numKvHeads: 2;
          readonly headDim: 16;
          readonly vocabSize: 500;
          readonly maxPositionEmbeddings: 2048;
          readonly tieWordEmbeddings: true;
          readonly dtype: "bfloat16";
          readonly numParameters: 123456;
          readonly bosTokenId: null;
          readonly eosTokenIds: readonly [1, 2];
      };
      /** The largest step, and the longest sequence; \`load\` can lower them. */
      export declare const limits: {
          readonly maxModelLen: 1024;
          readonly maxNumSeqs: 8;
          readonly maxNumBatchedTokens: 256;
      };
      /** Loads the engine. Rejects with what to do when its kernels are not built, or not for this machine. */
      export declare function load(options?: LLMOptions): Promise<LLM>;
      "
    `);
  });

  it("type-checks programs: right ones pass, wrong ones are told at their line", () => {
    const paths = { ingot: [join(root, "compiler/cli/library.ts")], "ingot-engine": [join(folder, "index.d.ts")] };
    const compilerOptions = { noUnusedLocals: false, typeRoots: [join(root, "node_modules/@types")], paths };
    const config = { extends: join(root, "tsconfig.json"), compilerOptions, include: ["*.ts"] };
    writeFileSync(join(scratch, "tsconfig.json"), JSON.stringify(config));
    const imports = `import { load, limits, model, name, target } from "ingot-engine";\n`;
    writeFileSync(
      join(scratch, "right.ts"),
      `${imports}
      const layers: 2 = model.numLayers;
      const architecture: "Qwen3ForCausalLM" = model.architecture;
      const bos: null = model.bosTokenId;
      const eos: readonly [1, 2] = model.eosTokenIds;
      const about: readonly ["Qwen3-0.6B", "cpu:avx512-amx", 1024] = [name, target, limits.maxModelLen];
      const llm = await load({ threads: 2 });
      const said: string | undefined = (await llm.generate("Hello"))[0]?.outputs[0]?.text;`,
    );
    writeFileSync(
      join(scratch, "wrong.ts"),
      `${imports}
      const layers: 28 = model.numLayers;
      model.numLayers = 2;
      if (target === "cpu:avx2") await load();
      await load({ threads: "two" });`,
    );
    const tsc = join(root, "node_modules", ".bin", "tsc");
    const { status, stdout } = spawnSync(tsc, ["--pretty", "false", "-p", scratch], { encoding: "utf8", cwd: scratch });
    expect(status).not.toBe(0);
    expect(stdout).toMatchInlineSnapshot(`
      "wrong.ts(3,13): error TS2322: Type '2' is not assignable to type '28'.
      wrong.ts(4,13): error TS2540: Cannot assign to 'numLayers' because it is a read-only property.
      wrong.ts(5,11): error TS2367: This comparison appears to be unintentional because the types '"cpu:avx512-amx"' and '"cpu:avx2"' have no overlap.
      wrong.ts(6,20): error TS2322: Type 'string' is not assignable to type 'number'.
      "
    `);
  });
});
