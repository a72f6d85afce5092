// Builds the native addon with the system's C++ compiler: dist/ingot.node, or with --sanitize dist/ingot.asan.node.
//
// Headers come from the npm packages node-addon-api and node-api-headers; nothing is downloaded and node-gyp is not used.
// A call with nothing to do reads the sources, compares one hash and returns.
// Exit codes: 1 the build failed, 3 there is no C++ compiler.

import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const JOBS = availableParallelism();

const WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter"];
// A promise settled in an environment that is being torn down can throw into nobody's hands: it is dropped, not the process.
const NO_THROW_AT_EXIT = "-DNODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS";
const COMMON = ["-std=c++20", "-fPIC", "-fvisibility=hidden", "-pthread", "-DNAPI_CPP_EXCEPTIONS", NO_THROW_AT_EXIT, ...WARNINGS];
const VARIANTS = {
  release: { output: "ingot.node", compile: ["-O2", "-DNDEBUG"], link: [] },
  sanitize: {
    output: "ingot.asan.node",
    compile: ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    link: ["-fsanitize=address,undefined"],
  },
};

/** The C++ compiler: `$CXX`, else c++, g++ or clang++ from the path. */
function findCompiler() {
  const candidates = process.env.CXX ? [process.env.CXX] : ["c++", "g++", "clang++"];
  for (const candidate of candidates) {
    const [command, ...args] = candidate.split(" ");
    const found = spawnSync(command, [...args, "--version"], { encoding: "utf8" });
    if (found.status === 0) return { command, args, version: found.stdout.split("\n")[0] };
  }
  return undefined;
}

const INSTALL = {
  linux: "No C++ compiler found. Install one: Debian/Ubuntu: apt install g++; Fedora: dnf install gcc-c++.",
  darwin: "No C++ compiler found. Install one: xcode-select --install.",
};

function listSources(folder) {
  return readdirSync(folder, { withFileTypes: true })
    .flatMap((entry) => (entry.isDirectory() ? listSources(join(folder, entry.name)) : [join(folder, entry.name)]))
    .filter((file) => /\.(cpp|h)$/.test(file))
    .sort();
}

/** Include folders: ours and the two header packages, resolved as Node resolves them. */
function includeFolders() {
  const packageFolder = (name) => {
    for (let folder = root; ; folder = dirname(folder)) {
      const found = join(folder, "node_modules", name);
      if (existsSync(found)) return found;
      if (folder === dirname(folder)) throw new Error(`npm package ${name} is not installed: run npm install`);
    }
  };
  return [packageFolder("node-addon-api"), join(packageFolder("node-api-headers"), "include")];
}

function hashOf(parts) {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part).update("\0");
  return hash.digest("hex");
}

function run(command, args) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"] });
    child.on("error", () => resolve(127));
    child.on("close", (code) => resolve(code ?? 1));
  });
}

/** Runs `tasks` with at most `JOBS` at once; false as soon as one failed. */
async function runAll(tasks) {
  let next = 0;
  let ok = true;
  const worker = async () => {
    while (ok && next < tasks.length) ok = (await tasks[next++]()) === 0 && ok;
  };
  await Promise.all(Array.from({ length: JOBS }, worker));
  return ok;
}

async function main() {
  const sanitize = process.argv.includes("--sanitize");
  const quiet = process.argv.includes("--quiet");
  const variant = sanitize ? VARIANTS.sanitize : VARIANTS.release;
  const dist = join(root, "dist");
  const output = join(dist, variant.output);
  const stampFile = join(dist, `${variant.output}.stamp`);

  const sources = listSources(join(root, "native"));
  const contents = new Map(sources.map((file) => [file, readFileSync(file)]));
  const headers = sources.filter((file) => file.endsWith(".h"));
  const includes = includeFolders();
  // The compiler's version is not asked for here: that alone would take longer than the whole warm call.
  const packages = includes.map((folder) =>
    readFileSync(join(existsSync(join(folder, "package.json")) ? folder : dirname(folder), "package.json")),
  );
  const settings = [
    process.platform,
    process.arch,
    process.env.CXX ?? "",
    ...COMMON,
    ...variant.compile,
    ...variant.link,
    ...packages,
  ];
  const stamp = hashOf([...settings, ...sources.flatMap((file) => [file.slice(root.length), contents.get(file)])]);
  if (existsSync(output) && existsSync(stampFile) && readFileSync(stampFile, "utf8") === stamp) return 0;

  const compiler = findCompiler();
  if (compiler === undefined) {
    console.error(
      process.env.CXX
        ? `The compiler CXX=${process.env.CXX} does not run. Unset CXX or point it at a C++ compiler.`
        : (INSTALL[process.platform] ?? "No C++ compiler found. Install g++ or clang++, or point CXX at one."),
    );
    return 3;
  }
  const started = performance.now();
  const objects = join(dist, "native", sanitize ? "sanitize" : "release");
  mkdirSync(objects, { recursive: true });

  // An object is kept as long as its source, every header and the flags stay the same.
  const shared = [...settings, compiler.version, ...headers.map((file) => contents.get(file))];
  const objectFiles = [];
  const tasks = [];
  for (const source of sources.filter((file) => file.endsWith(".cpp"))) {
    const name = source.slice(join(root, "native").length + 1).replace(/\W/g, "_");
    const object = join(objects, `${name}-${hashOf([...shared, contents.get(source)]).slice(0, 16)}.o`);
    objectFiles.push(object);
    if (existsSync(object)) continue;
    const partial = `${object}.${process.pid}.tmp`;
    // The repository's own path must not reach the binary: the same source gives the same bytes anywhere.
    const args = [...compiler.args, ...COMMON, ...variant.compile, `-ffile-prefix-map=${root}=.`];
    const command = [...args, ...includes.flatMap((folder) => ["-isystem", folder]), "-c", source, "-o", partial];
    tasks.push(async () => {
      const code = await run(compiler.command, command);
      if (code === 0) renameSync(partial, object);
      else rmSync(partial, { force: true });
      return code;
    });
  }
  if (!(await runAll(tasks))) return 1;

  const partial = `${output}.${process.pid}.tmp`;
  const platform = process.platform === "darwin" ? ["-undefined", "dynamic_lookup"] : ["-ldl"];
  const link = [...compiler.args, "-shared", "-pthread", ...variant.link, "-o", partial, ...objectFiles, ...platform];
  if ((await run(compiler.command, link)) !== 0) {
    rmSync(partial, { force: true });
    return 1;
  }
  renameSync(partial, output); // a process that has the old one loaded keeps it
  writeFileSync(stampFile, stamp);
  const kept = new Set(objectFiles.map((file) => basename(file)));
  // Older objects go once nobody can be writing them any more.
  for (const file of readdirSync(objects)) {
    const path = join(objects, file);
    if (!kept.has(file) && Date.now() - statSync(path).mtimeMs > 3_600_000) rmSync(path, { force: true });
  }
  if (!quiet)
    console.error(`built ${variant.output} in ${((performance.now() - started) / 1000).toFixed(1)} s (${compiler.version})`);
  return 0;
}

// npm runs this with --install: in a clone `npm run build` does the work, once the headers' packages are there.
const isClone = existsSync(join(root, ".scripts", "build.mjs"));
if (!(process.argv.includes("--install") && isClone)) process.exitCode = await main();
