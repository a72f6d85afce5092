import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { z } from "zod";
import { loadArchitectures } from "../../compiler/cli/architecture-file.ts";
import { PACKAGE_ENTRIES } from "../../compiler/cli/package-entries.ts";
import { packageRoot } from "../../compiler/cli/package-root.ts";
import { CompileError } from "../../compiler/errors.ts";
import { Graph } from "../../compiler/ir/graph.ts";
import { ARCHITECTURES } from "../../models/registry.ts";
import { scratchFolder } from "../support/compiled-engine.ts";
import { ownArchitecture } from "../support/own-architecture.ts";

const scratch = scratchFolder("architecture-file");
process.env.INGOT_CACHE = join(scratch, "cache");

it("an architecture file imports the very modules of the program that runs it", async () => {
  const file = ownArchitecture(join(scratch, "modules"), [
    "export const own",
    `import { CompileError, Graph } from "ingot/compiler";
     export const seen = { ...defineArchitecture<models.DecoderConfig>({ name: "Seen", readConfig: () => { throw new Error() }, build() {} }),
       modules: [CompileError, Graph, models.ARCHITECTURES, z] };
     export const own`,
  ]);
  const [own, seen] = await loadArchitectures(file);
  expect([own, seen].map((a) => a?.name)).toEqual(["Qwen3ForCausalLM", "Seen"]);
  const { modules } = seen as unknown as { modules: unknown[] };
  for (const [i, here] of [CompileError, Graph, ARCHITECTURES, z].entries()) expect(modules[i]).toBe(here);
});

it("types are checked again when only a file of types changed", async () => {
  const folder = join(scratch, "types");
  const file = ownArchitecture(folder, [
    "export const own",
    `import type { Layers } from "./layers.ts";
     export const layers: Layers = 2;
     export const own`,
  ]);
  writeFileSync(join(folder, "layers.ts"), "export type Layers = number;");
  await loadArchitectures(file);
  writeFileSync(join(folder, "layers.ts"), "export type Layers = string;");
  await expect(loadArchitectures(file)).rejects.toThrow("Type 'number' is not assignable to type 'string'");
});

it("what it may import is what the package exports", () => {
  const { exports } = JSON.parse(readFileSync(join(packageRoot(), "package.json"), "utf8")) as {
    exports: Record<string, { types: string }>;
  };
  const declared = Object.entries(exports).map(([entry, { types }]) => [entry.replace(/^\./, "ingot"), types]);
  expect(Object.entries(PACKAGE_ENTRIES).map(([entry, { module }]) => [entry, `./dist/types/${module}.d.ts`])).toEqual(declared);
});
