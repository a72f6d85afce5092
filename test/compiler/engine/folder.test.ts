import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildSync } from "esbuild";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { recoverEngineFolder, writeEngineFolder } from "../../../compiler/engine/folder.ts";
import { CompileError } from "../../../compiler/errors.ts";

let place: string;
let target: string;
beforeEach(() => {
  place = mkdtempSync(join(tmpdir(), "ingot-folder-"));
  target = join(place, "engine");
});
afterEach(() => rmSync(place, { recursive: true }));

/** Fills a folder with what makes it an engine, and `content`. */
const fill = (content: string) => async (folder: string) => {
  await writeFile(join(folder, "manifest.json"), "{}");
  await writeFile(join(folder, "weights.bin"), content);
};
const content = () => readFileSync(join(target, "weights.bin"), "utf8");

describe("an engine folder", () => {
  it("appears whole, with the folders above it", async () => {
    target = join(place, "a", "b", "engine");
    await writeEngineFolder(target, fill("one"));
    expect(content()).toBe("one");
    expect(readdirSync(join(place, "a", "b"))).toEqual(["engine"]);
  });

  it("replaces the engine that was there, and nothing of it stays", async () => {
    await writeEngineFolder(target, fill("one"));
    writeFileSync(join(target, "old-file"), "");
    await writeEngineFolder(target, fill("two"));
    expect(content()).toBe("two");
    expect(readdirSync(target).sort()).toEqual(["manifest.json", "weights.bin"]);
    expect(readdirSync(place)).toEqual(["engine"]);
  });

  it("does not appear before it is done, and the old one stays until then", async () => {
    await writeEngineFolder(target, fill("one"));
    await writeEngineFolder(target, async (folder) => {
      await fill("two")(folder);
      expect(content()).toBe("one");
      expect(readdirSync(place)).toHaveLength(2);
    });
  });

  it.each([["ENOSPC"], ["EDQUOT"]])("on a full disk (%s) is not kept half, and the old one is untouched", async (code) => {
    await writeEngineFolder(target, fill("one"));
    const attempt = writeEngineFolder(target, async (folder) => {
      await fill("half")(folder);
      throw Object.assign(new Error(`${code}: no space left on device, write`), { code });
    });
    await expect(attempt).rejects.toThrow(CompileError);
    await expect(attempt).rejects.toThrow(
      /the disk of .*engine is full; nothing was kept of the unfinished engine: free some space/,
    );
    expect(content()).toBe("one");
    expect(readdirSync(place)).toEqual(["engine"]);
  });

  it("is not made when making it fails, and the error passes", async () => {
    const error = new Error("a kernel does not compile");
    await expect(writeEngineFolder(target, () => Promise.reject(error))).rejects.toBe(error);
    expect(readdirSync(place)).toEqual([]);
  });

  it("replaces an engine that lost its weights or its manifest", async () => {
    for (const lost of ["weights.bin", "manifest.json"]) {
      mkdirSync(join(target, "kernels"), { recursive: true });
      writeFileSync(join(target, "weights.bin"), "");
      writeFileSync(join(target, "manifest.json"), "");
      rmSync(join(target, lost));
      await writeEngineFolder(target, fill("new"));
      expect(content()).toBe("new");
    }
  });

  it("leaves alone what a killed run of another engine left", async () => {
    const others = `engine.v2.old-${"0".repeat(8)}-1-1-${"0".repeat(8)}`;
    mkdirSync(join(place, others));
    utimesSync(join(place, others), 0, 0);
    await recoverEngineFolder(target);
    expect(readdirSync(place)).toEqual([others]);
  });

  it("does not replace a file or a folder that is no engine", async () => {
    mkdirSync(target);
    writeFileSync(join(target, "manifest.json"), '{"name": "a web application"}');
    await expect(writeEngineFolder(target, fill("one"))).rejects.toThrow(
      /is a folder without manifest\.json, weights\.bin and kernels\/; expected an engine to replace/,
    );
    expect(readdirSync(target)).toEqual(["manifest.json"]);
    const file = join(place, "notes.txt");
    writeFileSync(file, "mine");
    await expect(writeEngineFolder(file, fill("one"))).rejects.toThrow(/notes\.txt is a file; expected an engine to replace/);
    expect(readFileSync(file, "utf8")).toBe("mine");
  });

  it("replaces an empty folder", async () => {
    mkdirSync(target);
    await writeEngineFolder(target, fill("one"));
    expect(content()).toBe("one");
  });

  it("written by several at once is one of theirs, whole", async () => {
    await writeEngineFolder(target, fill("0"));
    const all = Array.from({ length: 12 }, (_, i) => writeEngineFolder(target, fill(String(i + 1))));
    await Promise.all(all);
    expect(readdirSync(target).sort()).toEqual(["manifest.json", "weights.bin"]);
    expect(Number(content())).toBeGreaterThanOrEqual(1);
    expect(readdirSync(place)).toEqual(["engine"]);
  });
});

describe("after a killed compile", () => {
  let bundles: string;
  let script: string;
  beforeAll(() => {
    bundles = mkdtempSync(join(tmpdir(), "ingot-folder-bundle-"));
    script = join(bundles, "compile.mjs");
    // Writes half an engine, says so, and hangs: what a compile looks like to SIGKILL.
    const source = `
      import { writeEngineFolder } from "./compiler/engine/folder.ts";
      import { writeFileSync } from "node:fs";
      setInterval(() => {}, 1000);
      await writeEngineFolder(process.argv[2], async (folder) => {
        writeFileSync(folder + "/weights.bin", "half");
        console.log(folder);
        await new Promise(() => {});
      });`;
    buildSync({
      stdin: { contents: source, resolveDir: process.cwd() },
      bundle: true,
      platform: "node",
      format: "esm",
      outfile: script,
      logLevel: "error",
    });
  });
  afterAll(() => rmSync(bundles, { recursive: true }));

  let child: ChildProcess | undefined;
  afterEach(() => child?.kill("SIGKILL"));

  /** Starts a compile of `target` and waits until it is in the middle; the result is its temporary folder. */
  async function startCompile(): Promise<string> {
    const started = spawn(process.execPath, [script, target], { stdio: ["ignore", "pipe", "inherit"] });
    child = started;
    return new Promise((resolve, reject) => {
      started.stdout.once("data", (data: Buffer) => resolve(data.toString().trim()));
      started.once("exit", (code) => reject(new Error(`the compile ended with ${code}`)));
    });
  }

  async function kill(): Promise<void> {
    const killed = child as ChildProcess;
    const gone = new Promise((resolve) => killed.once("exit", resolve));
    killed.kill("SIGKILL");
    await gone;
  }

  it("the next one removes what it left, and the old engine served meanwhile", async () => {
    await writeEngineFolder(target, fill("one"));
    const temporary = await startCompile();
    await kill();
    expect(content()).toBe("one");
    expect(readdirSync(temporary)).toEqual(["weights.bin"]);
    await writeEngineFolder(target, fill("two"));
    expect(content()).toBe("two");
    expect(readdirSync(place)).toEqual(["engine"]);
  });

  it("a compile that still runs is left alone", async () => {
    const temporary = await startCompile();
    await writeEngineFolder(target, fill("two"));
    expect(readFileSync(join(temporary, "weights.bin"), "utf8")).toBe("half");
    expect(content()).toBe("two");
  });

  it("between moving the old engine away and the new one in, the old one comes back", async () => {
    const temporary = await startCompile();
    await kill();
    const old = temporary.replace(".tmp-", ".old-");
    mkdirSync(old);
    await fill("one")(old);
    // Even when this compile fails, too.
    await expect(writeEngineFolder(target, () => Promise.reject(new Error("no")))).rejects.toThrow("no");
    expect(content()).toBe("one");
    expect(readdirSync(place)).toEqual(["engine"]);
  });

  it("a process that got its id does not keep its leftovers alive", async () => {
    const temporary = await startCompile();
    await kill();
    const reused = temporary.replace(/-\d+-(\d+)-([0-9a-f]+)$/, `-${process.pid}-$1-$2`);
    renameSync(temporary, reused);
    await writeEngineFolder(target, fill("two"));
    expect(readdirSync(place)).toEqual(["engine"]);
  });

  it("on another machine, its leftovers go a day after they were last touched", async () => {
    const temporary = await startCompile();
    await kill();
    const foreign = temporary.replace(/\.tmp-[0-9a-f]{8}/, ".tmp-00000000");
    renameSync(temporary, foreign);
    await writeEngineFolder(target, fill("two"));
    expect(readdirSync(place)).toHaveLength(2);
    const dayAgo = Date.now() / 1000 - 25 * 3600;
    utimesSync(join(foreign, "weights.bin"), dayAgo, dayAgo);
    utimesSync(foreign, dayAgo, dayAgo);
    await writeEngineFolder(target, fill("three"));
    expect(readdirSync(place)).toEqual(["engine"]);
  });
});
