// Runs the addon's tests, and the hand-written and generated kernels they compile, under AddressSanitizer and UBSan; with `--full`
// every generated kernel's tests as well.
//
// Node itself is not instrumented, so the sanitizer's library is preloaded; leaks are not judged (V8 frees little at exit).
// Exit codes: 0 clean or nothing to run here, 1 a finding or a failed test, 3 no C++ compiler.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { isAbsolute, join } from "node:path";
import { root } from "./dependencies.mjs";

const [command, ...compilerArgs] = (process.env.CXX ?? "c++").split(" ");

/** The sanitizer's shared library: GCC's, or clang's where that is the compiler. */
function findRuntime() {
  for (const name of ["libasan.so", `libclang_rt.asan-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so`]) {
    const { stdout } = spawnSync(command, [...compilerArgs, `-print-file-name=${name}`], { encoding: "utf8" });
    const path = stdout?.trim() ?? "";
    if (isAbsolute(path) && existsSync(path)) return path;
  }
  return undefined;
}

const build = spawnSync(process.execPath, [join(root, ".scripts", "build-native.mjs"), "--sanitize"], { stdio: "inherit" });
if (build.status !== 0) process.exit(build.status ?? 1);
const runtime = process.platform === "linux" ? findRuntime() : undefined;
if (runtime === undefined) {
  console.log("sanitizers: skipped, the compiler has no shared AddressSanitizer library");
  process.exit(0);
}
const full = process.argv.includes("--full");
const tests = [
  "test/native/executor.test.ts",
  "test/native/sample.test.ts",
  "test/native/cuda-executor.test.ts",
  "test/native/cuda-errors.test.ts",
  "test/native/cuda-failures.test.ts",
  "test/runtime/engine",
  ...(full ? ["test/templates"] : []),
];
const vitest = join(root, "node_modules", "vitest", "vitest.mjs");
const { status } = spawnSync(
  process.execPath,
  [
    vitest,
    ...["run", "--config", "test/vitest.config.ts", ...tests, ...process.argv.slice(2).filter((a) => a !== "--full")],
    ...(full ? ["--testTimeout=600000"] : []), // plain C++ lanes under sanitizers are slow
  ],
  {
    cwd: root,
    stdio: "inherit",
    env: {
      ...process.env,
      LD_PRELOAD: runtime,
      ASAN_OPTIONS: "detect_leaks=0:abort_on_error=1",
      UBSAN_OPTIONS: "print_stacktrace=1",
      INGOT_TEST_ADDON: "dist/ingot.asan.node",
      INGOT_TEST_CXXFLAGS: "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all",
    },
  },
);
process.exit(status === 0 ? 0 : 1);
