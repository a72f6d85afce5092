/**
 * Finds a C++ compiler: `$CXX`, else c++, g++ or clang++ on the path. Nothing is downloaded.
 */
import { spawnSync } from "node:child_process";
import { ToolchainError } from "../errors.ts";

export interface Compiler {
  /** Program and leading arguments. */
  readonly command: readonly string[];
  /** First line of `--version`. */
  readonly version: string;
  /** The machine it compiles for, as `-dumpmachine` says: `x86_64-linux-gnu`. */
  readonly machine: string;
}

/** What to do where there is no compiler, one sentence a system. */
const REMEDIES = [
  "Debian, Ubuntu: apt install g++.",
  "Fedora, RHEL: dnf install gcc-c++.",
  "Alpine: apk add g++.",
  "Arch: pacman -S gcc.",
  "macOS: xcode-select --install.",
  "Windows: use the Linux subsystem (wsl --install) and install g++ there.",
];

/**
 * The first working compiler of `cxx` (may carry arguments, as in make) or the usual names.
 * Throws `ToolchainError` saying what to install, or that `$CXX` does not run.
 */
export function findCompiler(cxx: string | undefined = process.env.CXX): Compiler {
  if (cxx?.trim()) {
    const found = probe(cxx.trim().split(/\s+/));
    if (!found)
      throw new ToolchainError(`CXX is ${JSON.stringify(cxx)}, which does not run as a C++ compiler; unset it or set it to one`);
    return found;
  }
  for (const name of ["c++", "g++", "clang++"]) {
    const found = probe([name]);
    if (found) return found;
  }
  throw new ToolchainError(`no C++ compiler was found (looked for c++, g++, clang++). ${REMEDIES.join(" ")}`);
}

function probe(command: readonly string[]): Compiler | undefined {
  const ask = (...flags: string[]) => {
    const [program = "", ...rest] = command;
    const { status, stdout } = spawnSync(program, [...rest, ...flags], { encoding: "utf8" });
    return status === 0 ? (stdout.split("\n")[0] ?? "").trim() : undefined;
  };
  const version = ask("--version");
  const machine = ask("-dumpmachine");
  return version && machine ? { command, version, machine } : undefined;
}
