/**
 * The C++ toolchain: kernels of a CPU become objects, and objects a shared library.
 */
import type { Isa } from "../codegen/cpu/dialect.ts";
import type { Toolchain } from "./build.ts";
import { type Compiler, findCompiler } from "./compiler.ts";
import { compileFlags, linkFlags } from "./flags.ts";

/** Throws `ToolchainError` when there is no compiler, or one for another processor family. */
export function cxxToolchain(isa: Isa, compiler: Compiler = findCompiler()): Toolchain {
  const flags = compileFlags(compiler, isa);
  const linked = linkFlags(compiler);
  return {
    command: compiler.command,
    version: compiler.version,
    identity: [compiler.machine, flags],
    linkIdentity: linked,
    suffix: ".cpp",
    compileArguments: (file, out) => [...flags, "-c", file, "-o", out],
    link: (objects, out, run) => run([...linked, "-o", out, ...objects.map((o) => o.file), "-lm"]),
  };
}
