import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { commandLine, pebble, root } from "../support/ingot-command.ts";

const { run, scratch } = commandLine("verify");
const recorded = join(root, "../shared/golden/qwen3");
const small = ["--kv-cache-memory", "64MiB"];

describe("ingot verify without recorded activations", () => {
  it("compares every layer with the interpreter, as a table and as JSON", async () => {
    const table = await run(["verify", pebble, "--tokens", "6", ...small]);
    expect(table.code, table.stdout + table.stderr).toBe(0);
    expect(table.stderr).toContain("no recorded activations: comparing with the interpreter on random tokens …\n");
    expect(table.stdout).toMatch(/^prompt +tokens +what +error +allowed\n/);
    expect(table.stdout).toMatch(/\n\npassed: 24 comparisons, bfloat16 against interpreter\n$/);
    const { stdout } = await run(["verify", pebble, "--tokens", "2", "--json", ...small]);
    const result = JSON.parse(stdout);
    expect(result).toMatchObject({ ok: true, firstFailure: null, reference: "interpreter", dtype: "bfloat16" });
    expect(new Set(result.rows.map((r: { what: string }) => r.what))).toEqual(
      new Set(["hidden.0", "hidden.1", "hidden.2", "hidden.3", "hidden.4", "hidden.5", "hidden.6", "logits"]),
    );
  });

  it("refuses a golden folder that is none", async () => {
    const { code, stderr } = await run(["verify", pebble, "--golden", scratch, ...small]);
    expect(stderr).toContain(`${scratch} holds no golden.json; expected recorded reference activations`);
    expect(code).toBe(1);
  });
});

describe.skipIf(!existsSync(recorded))("ingot verify with recorded activations", () => {
  it("finds them in the model's folder, and demands exact greedy tokens in f32", async () => {
    const { code, stdout } = await run(["verify", recorded, "--dtype", "float32", "--json", ...small]);
    const result = JSON.parse(stdout);
    expect(result).toMatchObject({ ok: true, dtype: "float32", reference: recorded });
    expect(result.rows).toContainEqual(expect.objectContaining({ what: "greedy", error: 0, allowed: 0 }));
    expect(code).toBe(0);
  });

  it("exits with 1 and names the first layer that differs from the folder given", async () => {
    const folder = join(scratch, "planted");
    mkdirSync(folder);
    cpSync(join(recorded, "golden.json"), join(folder, "golden.json"));
    const file = readFileSync(join(recorded, "golden.safetensors"));
    const length = Number(file.readBigUInt64LE(0));
    const header = JSON.parse(file.subarray(8, 8 + length).toString());
    const layer = Object.keys(header).find((name) => /^p\d+\.hidden\.1$/.test(name)) as string;
    file.writeFloatLE(1e3, 8 + length + header[layer].data_offsets[0]);
    writeFileSync(join(folder, "golden.safetensors"), file);
    const { code, stdout } = await run(["verify", recorded, "--golden", folder, "--dtype", "float32", ...small]);
    const prompt = /\d+/.exec(layer)?.[0];
    expect(stdout).toMatch(
      new RegExp(`\\nFAILED: first off is hidden\\.1 of prompt ${prompt} \\(\\d+ tokens\\), float32 against`),
    );
    expect(stdout).toMatch(/hidden\.1 .*OFF\n/);
    expect(code).toBe(1);
  });
});
