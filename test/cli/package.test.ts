import { spawnSync } from "node:child_process";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { isFullRun, scratchFolder } from "../support/compiled-engine.ts";
import { root } from "../support/ingot-command.ts";
import { ownArchitecture } from "../support/own-architecture.ts";

const scratch = scratchFolder("pack");

interface LockedPackage {
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

/** Runs a program that must succeed; its stdout. */
function succeed(program: string, args: readonly string[], cwd: string, env: NodeJS.ProcessEnv = {}): string {
  const { status, stdout, stderr } = spawnSync(program, args, { cwd, encoding: "utf8", env: { ...process.env, ...env } });
  expect(status, `${program} ${args.join(" ")}\n${stdout}${stderr}`).toBe(0);
  return stdout;
}

describe("the lock file", () => {
  const lock = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8"));
  const packages = Object.entries<LockedPackage>(lock.packages);

  it("names the optional packages of every platform, without which npm ci refuses", () => {
    const missing = packages.flatMap(([path, { optionalDependencies = {} }]) =>
      Object.keys(optionalDependencies).filter(
        (name) => !lock.packages[`node_modules/${name}`] && !lock.packages[`${path}/node_modules/${name}`],
      ),
    );
    expect(missing).toEqual([]);
  });

  it("agrees with package.json and names no registry", () => {
    const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    expect(lock.packages[""]).toMatchObject({
      dependencies: manifest.dependencies,
      devDependencies: manifest.devDependencies,
      engines: manifest.engines,
    });
    expect(JSON.stringify(lock)).not.toContain('"resolved"');
  });
});

describe("the packed package", () => {
  it("carries what it needs to build and run, and nothing else", () => {
    const [packed] = JSON.parse(succeed("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], root));
    const files: string[] = packed.files.map((file: { path: string }) => file.path);
    for (const needed of [
      "dist/ingot.js",
      "dist/index.js",
      "dist/compiler.js",
      "dist/models.js",
      "dist/types/models/library.d.ts",
      ".scripts/build-native.mjs",
    ]) {
      expect(files).toContain(needed);
    }
    for (const needed of [
      "native/addon.cpp",
      "templates/prelude.cpu.h",
      "models/pebble/model.safetensors",
      "models/TUTORIAL.md",
      "LICENSE",
    ]) {
      expect(files).toContain(needed);
    }
    const folders = new Set(files.map((file) => file.replace(/\/.*/, "")));
    expect([...folders].filter((f) => ["test", "bench", "node_modules", ".ci", "compiler"].includes(f))).toEqual([]);
    expect(files.filter((file) => /\.(node|o|stamp)$|\.asan\./.test(file))).toEqual([]);
  });

  it.skipIf(!isFullRun)("installs elsewhere, type-checks strictly, builds its addon and runs", { timeout: 300_000 }, () => {
    succeed("npm", ["pack", "--pack-destination", scratch], root);
    writeFileSync(join(scratch, "package.json"), '{"name": "consumer", "version": "1.0.0", "type": "module"}');
    const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    // Without install scripts: the addon is built on first use.
    succeed("npm", ["install", "--ignore-scripts", "--prefer-offline", `./ingot-${version}.tgz`], scratch);
    for (const name of ["@types/node", "undici-types"]) {
      cpSync(join(root, "node_modules", name), join(scratch, "node_modules", name), { recursive: true });
    }
    writeFileSync(
      join(scratch, "use.ts"),
      `import { LLM, type OutputDelta } from "ingot";
       import { type CompileReport, compile, defineArchitecture } from "ingot/compiler";
       import { ARCHITECTURES, findArchitecture } from "ingot/models";
       const model = "node_modules/ingot/models/pebble";
       const report: CompileReport = await compile(model, { output: "engine", maxModelLen: 64 });
       const llm = await LLM.load(report.folder, { kvCacheMemoryBytes: 2 ** 26 });
       const text: string = (await llm.generate("Hello", { temperature: 0, maxTokens: 4 }))[0]!.outputs[0]!.text;
       let streamed = "";
       for await (const delta of llm.stream("Hello", { temperature: 0, maxTokens: 4 })) streamed += (delta satisfies OutputDelta).text;
       const { logits } = await llm.forward([1, 2]);
       const length: number = (logits satisfies Float32Array).length;
       // @ts-expect-error a temperature is a number
       await llm.generate("x", { temperature: "hot" }).catch(() => {});
       console.log(JSON.stringify([text === streamed, length, ARCHITECTURES.includes(findArchitecture({ architectures: ["LlamaForCausalLM"] })), typeof defineArchitecture]));
       await llm.close();`,
    );
    const strict = ["--strict", "--noUncheckedIndexedAccess", "--target", "es2022", "--types", "node", "--skipLibCheck", "false"];
    const tsc = join(root, "node_modules", ".bin", "tsc");
    for (const module of [
      ["--module", "nodenext"],
      ["--module", "esnext", "--moduleResolution", "bundler"],
    ]) {
      succeed(tsc, [...strict, ...module, "use.ts"], scratch);
    }
    const env = { INGOT_CACHE: join(scratch, "cache") };
    expect(JSON.parse(succeed(process.execPath, ["use.js"], scratch, env))).toEqual([true, 2 * 4096, true, "function"]);
    expect(succeed("npx", ["ingot", "run", "engine", "hi", "--max-tokens", "2"], scratch, env)).toMatch(/\w/);
    const own = [
      "compile",
      "node_modules/ingot/models/pebble",
      "--arch",
      ownArchitecture(scratch),
      "--no-build",
      "-o",
      "own-engine",
    ];
    expect(succeed("npx", ["ingot", ...own], scratch, env)).toContain("own-engine");
    ownArchitecture(scratch, ["g.linear(last", "g.lineal(last"]);
    const { stderr } = spawnSync("npx", ["ingot", ...own], { cwd: scratch, encoding: "utf8", env: { ...process.env, ...env } });
    expect(stderr).toMatch(/own\.ts:\d+:19: Property 'lineal' does not exist on type 'Graph'/);
  });
});
