/**
 * Presets generate CUDA kernels, few and readable, in the full run of all their layers; and what a target is called is asked in tables of
 * targets alone.
 */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import { describe, expect, it } from "vitest";
import { PRESET_NAMES } from "../../../models/presets.ts";
import { isFullRun } from "../../support/compiled-engine.ts";
import { CUDA_TARGETS } from "../../support/cuda-engine.ts";
import { FEW_LAYERS, generateForCuda } from "../../support/cuda-models.ts";

const root = join(import.meta.dirname, "../../..");
const MOST_KERNELS = 150;
/** What no kernel says itself: the prelude's names stand for it. */
const FORBIDDEN = /\basm\b|<<<|\b(threadIdx|blockIdx|blockDim|gridDim)\b|__(syncthreads|syncwarp|shfl\w*|shared__|global__)\b/;

describe.each(isFullRun ? CUDA_TARGETS : (["cuda:sm_90a"] as const))("for %s", (target) => {
  it.each(PRESET_NAMES)("%s is generated in seconds, of at most 150 kernels that say what they compute", async (name) => {
    const start = performance.now();
    const { emitted } = await generateForCuda(name, target, isFullRun ? undefined : FEW_LAYERS);
    expect(performance.now() - start).toBeLessThan(60_000); // 8 s for the 48 layers of qwen3-30b-a3b
    expect(emitted.texts.length).toBeLessThanOrEqual(MOST_KERNELS);
    expect(new Set(emitted.texts.map((text) => text.name)).size).toBe(emitted.texts.length);
    for (const { name: kernel, source } of emitted.texts) {
      const [title, ...lines] = source.split("\n");
      const above = lines.slice(0, lines.indexOf('#include "prelude.cuda.h"')).join("\n");
      expect(title, kernel).toMatch(new RegExp(`^// ${kernel}\\b`));
      expect(title + above, kernel).toMatch(/.{40}/); // what it computes
      expect(above, kernel).toMatch(/^\/\/ Grid: /m); // and who owns what
      expect(source.match(FORBIDDEN)?.[0], kernel).toBeUndefined();
      expect(source.match(/^#include .*$/gm), kernel).toEqual(['#include "prelude.cuda.h"']);
      expect(source, kernel).toContain(`) ${kernel}(`);
    }
  });
});

/** Files that choose by a target's family, each once: what it is read as, its kernels, its toolchain. */
const TABLES = ["compiler/schedule/target.ts", "compiler/plan/kernel-target.ts", "compiler/engine/library.ts"];
/** `=== "cuda"`, `case "cpu"`, `startsWith("cuda:`, `/^cpu/`: text that decides by a target's name. */
const BY_NAME =
  /([!=]==?\s*|\bcase\s+|(startsWith|includes|match|test)\(\s*)["'`/^]+(cuda|cpu)\b|["'`](cuda|cpu)["'`]\s*[!=]==?|\/\^(cuda|cpu)(?!:sm_)/;

describe("the name of a target", () => {
  const sources = (folder: string): string[] =>
    readdirSync(folder).flatMap((name) => {
      const path = join(folder, name);
      return statSync(path).isDirectory() ? sources(path) : name.endsWith(".ts") ? [path] : [];
    });

  it("is compared in tables of targets alone", () => {
    const found = ["compiler", "runtime", "models"].flatMap((folder) =>
      sources(join(root, folder)).filter((path) => BY_NAME.test(readFileSync(path, "utf8"))),
    );
    expect(found.map((path) => relative(root, path)).sort(), `looked for ${BY_NAME}`).toEqual([...TABLES].sort());
  });

  it.each([
    'if (target === "cuda") return;',
    'target.family !== "cuda"',
    'case "cpu":',
    'target.startsWith("cuda:")',
    '"cuda" === family',
    "/^cuda/.test(target)",
  ])("would be found in %s", (text) => {
    expect(BY_NAME.test(text)).toBe(true);
  });
});
