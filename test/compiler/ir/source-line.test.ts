import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { afterAll, describe, expect, it } from "vitest";
import { sourceLines } from "../../../compiler/ir/source-line.ts";

const scratch = mkdtempSync(join(tmpdir(), "ingot-source-line-"));
afterAll(() => rmSync(scratch, { recursive: true }));

describe("the source line of a stack frame", () => {
  it("is read of every form of frame, and of file addresses", () => {
    const stack = [
      "Error",
      "    at Graph.add (/a b/ir/graph.ts:12:34)",
      "    at new Model (file:///a%20(1)/model.ts:5:6)",
      "    at async file:///x/main.js:7:8",
      "    at /y/plain (copy).js?v=2:9:10",
      "    at native",
    ].join("\n");
    expect(sourceLines(stack)).toEqual([
      { file: "/a b/ir/graph.ts", line: 12 },
      { file: "/a (1)/model.ts", line: 5 },
      { file: "/x/main.js", line: 7 },
      { file: "/y/plain (copy).js", line: 9 },
    ]);
  });

  it("is the original's where a bundle has a source map, wherever it lies", async () => {
    const folder = join(scratch, "a place (1)");
    mkdirSync(folder);
    writeFileSync(join(folder, "model.ts"), "\n\nexport const stack = (): string => new Error().stack!;\n");
    const entry = `import { sourceLines } from ${JSON.stringify(fileURLToPath(new URL("../../../compiler/ir/source-line.ts", import.meta.url)))};
      import { stack } from "./model.ts";
      console.log(JSON.stringify(sourceLines(stack())[0]));`;
    writeFileSync(join(folder, "main.ts"), entry);
    const outfile = join(folder, "dist", "main.mjs");
    await build({
      entryPoints: [join(folder, "main.ts")],
      bundle: true,
      platform: "node",
      format: "esm",
      sourcemap: true,
      outfile,
    });
    const { stdout, stderr } = spawnSync(process.execPath, [outfile], { encoding: "utf8" });
    expect(JSON.parse(stdout || stderr)).toEqual({ file: join(folder, "model.ts"), line: 3 });
  });
});
