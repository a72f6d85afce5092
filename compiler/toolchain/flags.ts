/**
 * Compiler flags of kernels: the same for every kernel of a level, so that results and bytes depend on nothing else.
 */
import { cpuDialects, type Isa } from "../codegen/cpu/dialect.ts";
import { ToolchainError } from "../errors.ts";
import type { Compiler } from "./compiler.ts";

/** Flags to compile one kernel of `isa` to an object. Throws `ToolchainError` if the compiler makes code for another processor family. */
export function compileFlags(compiler: Compiler, isa: Isa): readonly string[] {
  requireFamily(compiler, isa);
  return [
    ...["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti"],
    // Kernels write fused multiply-adds where they mean them; nothing else may be contracted or reordered.
    "-ffp-contract=off",
    ...["-fno-math-errno", "-fno-trapping-math"],
    // Vectors wider than the level's registers are passed between inlined functions only.
    "-Wno-psabi",
    ...cpuDialects[isa].flags,
  ];
}

/** Flags to link objects into a library whose bytes depend on the objects alone. */
export function linkFlags(compiler: Compiler): readonly string[] {
  const apple = compiler.machine.includes("apple");
  return apple
    ? ["-dynamiclib", "-Wl,-install_name,kernels.so"]
    : ["-shared", "-Wl,--build-id=none", "-Wl,-s", "-Wl,-soname,kernels.so"];
}

function requireFamily(compiler: Compiler, isa: Isa): void {
  const wanted = isa === "neon" ? /^(aarch64|arm64)/ : isa === "generic" ? /./ : /^(x86_64|amd64)/;
  if (wanted.test(compiler.machine)) return;
  const family = isa === "neon" ? "64-bit ARM" : "x86-64";
  throw new ToolchainError(
    `cpu:${isa} needs a compiler for ${family}, but ${compiler.command.join(" ")} compiles for ${compiler.machine}; set CXX to a cross compiler or choose another target`,
  );
}
