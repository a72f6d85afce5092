/**
 * An engine as a package: packed, installed beside the packed ingot in an empty project, built there by the install step, asked.
 *
 * No registry is asked: what ingot depends on is bundled into its tarball.
 */
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { commandLine, pebble, root } from "../support/ingot-command.ts";

const { run, cache, scratch } = commandLine("installed");
const prompt = ["Once upon a time", "--raw", "--temperature", "0", "--max-tokens", "12", "--kv-cache-memory", "64MiB"];
const foreign = process.arch === "arm64" ? "cpu:avx2" : "cpu:neon";
const env = {
  ...Object.fromEntries(Object.entries(process.env).filter(([key]) => !/^(INGOT_|VITEST|NODE_|npm_|CXX$)/i.test(key))),
  INGOT_CACHE: cache,
  npm_config_cache: join(scratch, "npm"),
  npm_config_offline: "true",
};

let ingot: string;
let engine: string;
let answer: string;
beforeAll(async () => {
  ingot = pack(bundledIngot()).tarball;
  engine = await engineTarball("engine", []);
  answer = (await run(["run", join(scratch, "engine"), ...prompt])).stdout.trimEnd();
});

/** Runs a program in a folder of `scratch`. */
function exec(folder: string, program: string, ...args: string[]) {
  return spawnSync(program, args, { cwd: join(scratch, folder), env, encoding: "utf8" });
}

/** `npm pack` of a folder of `scratch`: the tarball's path and the files in it. */
function pack(folder: string): { tarball: string; files: string[] } {
  const { status, stdout, stderr } = exec(folder, "npm", "pack", "--json", "--ignore-scripts");
  expect(status, stderr).toBe(0);
  const [packed] = JSON.parse(stdout) as [{ filename: string; files: { path: string }[] }];
  return { tarball: join(scratch, folder, packed.filename), files: packed.files.map((file) => file.path) };
}

/** A copy of this package in `scratch` that bundles what it depends on. */
function bundledIngot(): string {
  const left = /^(node_modules|\.git|test|bench|dist\/(types|native))$/;
  cpSync(root, join(scratch, "ingot"), { recursive: true, filter: (path) => !left.test(relative(root, path)) });
  const { packages } = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8"));
  for (const [path, { dev }] of Object.entries<{ dev?: boolean }>(packages)) {
    if (path === "" || dev || !existsSync(join(root, path))) continue;
    cpSync(join(root, path), join(scratch, "ingot", path), { recursive: true });
  }
  const json = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  writeFileSync(join(scratch, "ingot", "package.json"), JSON.stringify({ ...json, bundleDependencies: true }));
  return "ingot";
}

/** The sample model compiled into a folder of `scratch`, and packed. */
async function engineTarball(folder: string, flags: readonly string[]): Promise<string> {
  const { code, stderr } = await run(["compile", pebble, "-o", join(scratch, folder), ...flags]);
  expect(code, stderr).toBe(0);
  const { tarball, files } = pack(folder);
  expect(files).toEqual(expect.arrayContaining(["index.js", "manifest.json", "tokenizer.json", "weights.bin"]));
  expect(files.filter((path) => !/^(kernels\/)?\w[\w.-]*$/.test(path))).toEqual([]); // no library, no stamp
  return tarball;
}

/** An empty project in `scratch`. */
function project(folder: string): string {
  mkdirSync(join(scratch, folder));
  writeFileSync(join(scratch, folder, "package.json"), '{"name": "consumer", "version": "1.0.0", "type": "module"}');
  writeFileSync(
    join(scratch, folder, "ask.js"),
    `import { load, model } from "ingot-engine-pebble";
     const llm = await load({ kvCacheMemoryBytes: 2 ** 26 });
     const [{ outputs }] = await llm.generate("Once upon a time", { temperature: 0, maxTokens: 12 });
     console.log(JSON.stringify([model.numLayers, outputs[0].text]));
     await llm.close();`,
  );
  return folder;
}

/** `npm install` in a project. */
function install(folder: string, ...packages: string[]): void {
  const { status, stderr } = exec(folder, "npm", "install", ...packages);
  expect(status, stderr).toBe(0);
}

/** What `ask.js` prints. */
function ask(folder: string): unknown {
  const { status, stdout, stderr } = exec(folder, process.execPath, "ask.js");
  expect(status, stderr).toBe(0);
  return JSON.parse(stdout);
}

describe("an engine's package, installed elsewhere", () => {
  beforeAll(() => install(project("app"), ingot, engine));

  it("builds its kernels there and answers as the engine does", () => {
    expect(answer).toMatch(/^, a little \w+/);
    expect(ask("app")).toEqual([6, answer]);
  });

  it("stays as it is when one for another processor is refused", async () => {
    const { status, stderr } = exec("app", "npm", "install", await engineTarball("foreign", ["--target", foreign, "--no-build"]));
    expect(status).not.toBe(0);
    expect(stderr).toMatch(
      new RegExp(`the engine is for ${foreign}, but this machine \\(.*\\) lacks .*\`ingot compile <model> --target native\``),
    );
    expect(ask("app")).toEqual([6, answer]);
  });

  it("can be a folder of the project", () => {
    const folder = join(scratch, "app", "engines", "pebble");
    cpSync(join(scratch, "engine"), folder, { recursive: true });
    rmSync(join(folder, "build"), { recursive: true });
    install("app", "./engines/pebble");
    expect(realpathSync(join(scratch, "app", "node_modules", "ingot-engine-pebble"))).toBe(realpathSync(folder));
    expect(ask("app")).toEqual([6, answer]);
  });

  it("says how to build its kernels where install scripts are blocked", () => {
    install(project("blocked"), "--ignore-scripts", ingot, engine);
    const { status, stderr } = exec("blocked", process.execPath, "ask.js");
    expect(status).toBe(1);
    const folder = realpathSync(join(scratch, "blocked", "node_modules", "ingot-engine-pebble"));
    const remedy = `npx ingot build ${folder}`;
    expect(stderr).toContain(`ManifestError: ${folder}/build/kernels.so is missing: build it with \`${remedy}\``);
    const built = exec("blocked", "sh", "-c", remedy);
    expect(built.status, built.stderr).toBe(0);
    expect(ask("blocked")).toEqual([6, answer]);
  });
});
