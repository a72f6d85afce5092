import { spawnSync } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { stampWeights } from "../../runtime/engine-files.ts";
import { commandLine, pebble } from "../support/ingot-command.ts";

const { run, start, scratch } = commandLine("bad-engines");
const whole = join(scratch, "whole");
const engine = join(scratch, "engine");
const ask = ["hi", "--temperature", "0", "--max-tokens", "2", "--kv-cache-memory", "64MiB"];
const foreign = process.arch === "arm64" ? "cpu:avx2" : "cpu:neon";

beforeAll(async () => {
  const { code, stderr } = await run(["compile", pebble, "-o", whole]);
  expect(code, stderr).toBe(0);
});

/** The engine with one thing wrong. */
async function damaged(damage: () => void) {
  rmSync(engine, { recursive: true, force: true });
  cpSync(whole, engine, { recursive: true });
  damage();
  const { code, stdout, stderr } = await run(["run", engine, ...ask]);
  expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
  expect(stderr).not.toMatch(/^ {4}at |internal:/m);
  return stderr;
}

const manifest = join(engine, "manifest.json");
const overwriteWeights = () => {
  const file = openSync(join(engine, "weights.bin"), "r+");
  writeSync(file, Buffer.alloc(4096, 0x55), 0, 4096, 4e6);
  closeSync(file);
};
const edit = (change: (json: Record<string, unknown>) => void) => {
  const json = JSON.parse(readFileSync(manifest, "utf8"));
  change(json);
  writeFileSync(manifest, JSON.stringify(json));
};

describe("an engine says what is wrong with it and what repairs it:", () => {
  it("a manifest that is cut off is compiled again", async () => {
    expect(await damaged(() => truncateSync(manifest, 1000))).toMatch(/manifest\.json is not JSON: .*; compile the model again/);
    expect((await run(["compile", pebble, "-o", engine])).code).toBe(0);
    expect((await run(["run", engine, ...ask])).code).toBe(0);
  });

  it("a manifest with a wrong number names field, range and number", async () => {
    const message = await damaged(() => edit((json) => Object.assign(json.kvCache as object, { blockSize: 7_000_000 })));
    expect(message).toContain("kvCache.blockSize: expected a whole number from 16 to 4096, found 7000000");
  });

  it("cut weights are counted, and compiled again", async () => {
    const message = await damaged(() => truncateSync(join(engine, "weights.bin"), 1000));
    expect(message).toMatch(/weights\.bin has 1000 bytes, the manifest says \d+: compile the model again/);
    expect((await run(["compile", pebble, "-o", engine])).code).toBe(0);
  });

  it("overwritten weights are noticed by run, verify and compile, and compiled again", async () => {
    const refusal = /^ingot: .*weights\.bin has sha256 \w{64}, the manifest says \w{64}: compile the model again\n$/m;
    expect(await damaged(overwriteWeights)).toMatch(refusal);
    const verified = await run(["verify", engine, "--tokens", "2"]);
    expect({ code: verified.code, stdout: verified.stdout }).toEqual({ code: 1, stdout: "" });
    expect(verified.stderr).toMatch(refusal);
    const compiled = await run(["compile", pebble, "-o", engine]);
    expect(compiled.stderr).toMatch(/weights\.bin has sha256 \w{64}, the manifest says \w{64}: compiling again\n/);
    expect(compiled.code).toBe(0);
    expect((await run(["verify", engine, "--tokens", "2"])).code).toBe(0);
  });

  it("damage that loading cannot see is seen by verify, and then by compile", async () => {
    rmSync(engine, { recursive: true, force: true });
    cpSync(whole, engine, { recursive: true });
    overwriteWeights();
    stampWeights(engine, "weights.bin", JSON.parse(readFileSync(manifest, "utf8")).weights.sha256);
    expect((await run(["compile", pebble, "-o", engine])).stdout).toContain("is up to date");
    expect((await run(["verify", engine, "--tokens", "2"])).stderr).toMatch(/weights\.bin has sha256/);
    expect((await run(["compile", pebble, "-o", engine])).stderr).toMatch(/weights\.bin has sha256 .*: compiling again/);
    expect((await run(["run", engine, ...ask])).code).toBe(0);
  });

  it("missing weights are compiled again", async () => {
    expect(await damaged(() => rmSync(join(engine, "weights.bin")))).toMatch(/weights\.bin is missing: compile the model again/);
    expect((await run(["compile", pebble, "-o", engine])).code).toBe(0);
    expect((await run(["run", engine, ...ask])).code).toBe(0);
  });

  it("a missing or changed kernel library is built again", async () => {
    for (const damage of [rmSync, (file: string) => appendFileSync(file, "x")]) {
      const message = await damaged(() => damage(join(engine, "build", "kernels.so")));
      expect(message).toContain(`build it with \`npx ingot build ${engine}\``);
      expect((await run(["build", engine])).code).toBe(0);
      expect((await run(["run", engine, ...ask])).code).toBe(0);
    }
  });

  it("one for another processor is compiled again here", async () => {
    const message = await damaged(() => edit((json) => Object.assign(json, { target: foreign, features: ["sve9"] })));
    expect(message).toMatch(new RegExp(`the engine is for ${foreign}, but this machine \\(.*\\) lacks .*--target native`));
  });
});

describe("a damaged engine in the cache", () => {
  const cached = async () => JSON.parse((await run(["compile", pebble, "--json"])).stdout).folder as string;

  it.each(["tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json", "index.js", "index.d.ts"])(
    "that lost its %s gets it back when its model is run",
    async (name) => {
      const file = join(await cached(), name);
      const content = readFileSync(file);
      rmSync(file);
      const { code, stdout, stderr } = await run(["run", pebble, ...ask]);
      expect(stderr).toContain(`${file} is missing: compiling again\n`);
      expect(code).toBe(0);
      expect(stdout).not.toBe("");
      expect(readFileSync(file).equals(content)).toBe(true);
    },
  );

  it("by edited model files, kernels, library or weights is made again when its model is run", async () => {
    const folder = await cached();
    const kernel = readdirSync(join(folder, "kernels")).find((name) => name.endsWith(".cpp"))!;
    for (const name of ["tokenizer.json", join("kernels", kernel), "kernels/prelude.cpu.h", "build/kernels.so", "weights.bin"]) {
      const content = readFileSync(join(folder, name));
      writeFileSync(join(folder, name), Buffer.concat([content.subarray(1), Buffer.from("\n")]));
      const { code, stderr } = await run(["run", pebble, ...ask]);
      expect(stderr).toMatch(/ has sha256 \w{64}, the manifest says \w{64}: compiling again\n/);
      expect(code).toBe(0);
      expect(readFileSync(join(folder, name)).equals(content), name).toBe(true);
      expect((await run(["compile", pebble])).stdout).toContain("is up to date");
    }
  });
});

describe("a kernel edited by hand", () => {
  it("is built and run, and not replaced before it is deleted", async () => {
    const folder = join(scratch, "tuned");
    cpSync(whole, folder, { recursive: true });
    const name = readdirSync(join(folder, "kernels")).find((n) => n.startsWith("rms_norm"))!;
    const kernel = join(folder, "kernels", name);
    appendFileSync(kernel, "// tuned\n");
    expect((await run(["run", folder, ...ask])).code).toBe(0);
    expect((await run(["build", folder])).code).toBe(0);
    expect((await run(["run", folder, ...ask])).code).toBe(0);
    const refused = await run(["compile", pebble, "-o", folder]);
    expect(refused.stderr).toContain("it was edited or added, and compiling again would lose that; build it with `ingot build ");
    expect({ code: refused.code, stdout: refused.stdout }).toEqual({ code: 1, stdout: "" });
    const other = await run(["compile", pebble, "-o", folder, "--max-num-seqs", "2"]);
    expect(other.code).toBe(1);
    expect(readFileSync(kernel, "utf8")).toMatch(/\/\/ tuned\n$/);
    rmSync(kernel);
    const again = await run(["compile", pebble, "-o", folder]);
    expect(again.stderr).toContain(`${kernel} is missing: compiling again\n`);
    expect(again.code).toBe(0);
    expect(readFileSync(kernel, "utf8")).not.toContain("tuned");
  });
});

describe("ingot compile", () => {
  it("for another processor needs a compiler for it, but not with --no-build", async () => {
    const folder = join(scratch, "foreign");
    const { code, stderr } = await run(["compile", pebble, "-o", folder, "--target", foreign]);
    expect(stderr).toMatch(new RegExp(`${foreign} needs a compiler for .*set CXX to a cross compiler`));
    expect(code).toBe(3);
    expect(existsSync(folder)).toBe(false);
    expect((await run(["compile", pebble, "-o", folder, "--target", foreign, "--no-build"])).code).toBe(0);
  });

  it("does not replace what is no engine, and keeps it as it is", async () => {
    const folder = join(scratch, "notes");
    cpSync(join(pebble, "README.md"), join(folder, "README.md"));
    const { code, stderr } = await run(["compile", pebble, "-o", folder]);
    expect(stderr).toContain("expected an engine to replace, or nothing: choose another place with -o");
    expect({ code, files: readdirSync(folder) }).toEqual({ code: 1, files: ["README.md"] });
    const inFile = await run(["compile", pebble, "-o", join(folder, "README.md", "engine")]);
    expect(inFile.stderr).toMatch(/cannot be written: .*; choose another place with -o/);
    expect(inFile.code).toBe(1);
  });

  it("says where it may not write", async () => {
    const folder = join(scratch, "locked");
    cpSync(join(pebble, "README.md"), join(folder, "README.md"));
    chmodSync(folder, 0o500);
    const { code, stderr } = await run(["compile", pebble, "-o", join(folder, "engine")]);
    chmodSync(folder, 0o700);
    if (process.getuid?.() === 0)
      expect(code).toBe(0); // root may write everywhere
    else expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining("choose another place with -o") });
  });

  it.each(["SIGINT", "SIGKILL"] as const)(
    "ended by %s leaves an earlier engine whole, and the next one works",
    async (signal) => {
      const place = join(scratch, `ended-${signal}`);
      const folder = join(place, "engine");
      cpSync(whole, folder, { recursive: true });
      const slow = join(scratch, "slow-compiler");
      writeFileSync(slow, '#!/bin/sh\ncase "$*" in *.cpp*) sleep 5;; esac\nexec c++ "$@"\n', { mode: 0o755 });
      // A compiler of its own and a cache of its own: every kernel is built, slowly.
      const env = { CXX: slow, INGOT_CACHE: join(scratch, `cache-${signal}`) };
      const { child, ended } = start(["compile", pebble, "-o", folder, "--max-num-seqs", "2"], { env });
      while (!readdirSync(place).some((name) => name.includes(".tmp-") && existsSync(join(place, name, "kernels")))) {
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      child.kill(signal);
      const { code, signal: by } = await ended;
      expect({ code, by }).toEqual(signal === "SIGINT" ? { code: 130, by: null } : { code: null, by: "SIGKILL" });
      if (signal === "SIGINT") expect(readdirSync(place)).toEqual(["engine"]);
      expect((await run(["run", folder, ...ask])).code).toBe(0);
      expect((await run(["compile", pebble, "-o", folder, "--max-num-seqs", "2"])).code).toBe(0);
      expect(readdirSync(place)).toEqual(["engine"]);
      expect(JSON.parse((await run(["show", folder, "--json"])).stdout).limits.maxNumSeqs).toBe(2);
    },
  );
});

/** A file system of `size`, or undefined where this user may not mount one. */
function smallDisk(name: string, size: string): string | undefined {
  const folder = join(scratch, name);
  mkdirSync(folder);
  const mounted =
    process.platform === "linux" && spawnSync("mount", ["-t", "tmpfs", "-o", `size=${size}`, "tmpfs", folder]).status === 0;
  if (!mounted) return undefined;
  onTestFinished(() => void spawnSync("umount", [folder]));
  return folder;
}

describe("a full disk", () => {
  it("is seen before anything is written, and the numbers are said", async ({ skip }) => {
    const disk = smallDisk("disk", "6m") ?? skip("this user may not mount a small disk");
    const { code, stdout, stderr } = await run(["compile", pebble, "-o", join(disk, "engine")]);
    expect(stderr).toMatch(/engine needs \d+ MB, but its disk has [\d.]+ MB left: free some, or choose another place with -o/);
    expect({ code, stdout, left: readdirSync(disk) }).toEqual({ code: 1, stdout: "", left: [] });
  });

  it("under the kernel cache leaves no engine and says what is full", async ({ skip }) => {
    const disk = smallDisk("cache-disk", "20k") ?? skip("this user may not mount a small disk");
    const folder = join(scratch, "never");
    const { code, stderr } = await run(["compile", pebble, "-o", folder], { env: { INGOT_CACHE: disk } });
    expect(stderr).toMatch(/^ingot: .*No space left on device/m);
    expect(code).not.toBe(0);
    expect(readdirSync(scratch).filter((name) => name.startsWith("never"))).toEqual([]);
  });
});

describe("without a C++ compiler", () => {
  const env = { PATH: join(scratch, "no-such-folder") };

  it("compile and build end with 3 and say what to install, and no engine is left", async () => {
    const folder = join(scratch, "uncompiled");
    const none =
      /^ingot: no C\+\+ compiler was found \(looked for c\+\+, g\+\+, clang\+\+\)\. Debian, Ubuntu: apt install g\+\+\..*xcode-select/m;
    const compiled = await run(["compile", pebble, "-o", folder], { env });
    expect(compiled.stderr).toMatch(none);
    expect({ code: compiled.code, stdout: compiled.stdout, left: existsSync(folder) }).toEqual({
      code: 3,
      stdout: "",
      left: false,
    });
    const built = await run(["build", whole], { env });
    expect(built.stderr).toMatch(none);
    expect(built.code).toBe(3);
  });

  it("what is compiled already runs", async () => {
    expect((await run(["run", whole, ...ask], { env })).code).toBe(0);
  });

  it("doctor says so and ends with 3", async () => {
    const { code, stdout } = await run(["doctor"], { env });
    expect(stdout).toMatch(/C\+\+ compiler +none/);
    expect(stdout).toMatch(/problems:\n- no C\+\+ compiler was found/);
    expect(code).toBe(3);
  });

  it("a CXX that does not run is named", async () => {
    const { code, stderr } = await run(["compile", pebble, "-o", join(scratch, "x")], { env: { CXX: "/no/such/c++" } });
    expect(stderr).toContain('CXX is "/no/such/c++", which does not run as a C++ compiler; unset it or set it to one');
    expect(code).toBe(3);
  });
});

describe("a kernel that does not compile", () => {
  it("is named, and the compiler's whole output is kept", async () => {
    const broken = join(scratch, "broken-compiler");
    const plant = 'echo "sample.cpp:7:1: error: planted" >&2; echo "more of it" >&2; exit 1';
    writeFileSync(broken, `#!/bin/sh\ncase "$*" in *sample*.cpp*) ${plant};; esac\nexec c++ "$@"\n`, { mode: 0o755 });
    // Another cache: the kernel is in the shared one already.
    const env = { CXX: broken, INGOT_CACHE: join(scratch, "cache-broken") };
    const { code, stderr } = await run(["compile", pebble, "-o", join(scratch, "x")], { env });
    const [, log = ""] =
      /kernel sample_4096 does not compile with .*: sample\.cpp:7:1: error: planted \(whole output: (.*)\)/.exec(stderr) ?? [];
    expect(readFileSync(log, "utf8")).toContain("more of it");
    expect(code).toBe(3);
    expect(existsSync(join(scratch, "x"))).toBe(false);
  });
});
