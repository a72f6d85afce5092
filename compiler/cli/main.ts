#!/usr/bin/env node
/**
 * The command line: verbs, their flags, and exit codes. Each verb's work stands in its own file and is loaded when it is used.
 *
 * Results go to stdout, progress and logs to stderr. Exit codes: 0 ok, 1 failure, 2 usage, 3 missing toolchain, 130 interrupted.
 */
import { Command, CommanderError } from "commander";
import { benchCommand } from "./commands/bench.ts";
import { buildCommand, compileCommand } from "./commands/compile.ts";
import { doctorCommand } from "./commands/doctor.ts";
import { listCommand, removeCommand, showCommand } from "./commands/engines.ts";
import { runCommand } from "./commands/run.ts";
import { serveCommand } from "./commands/serve.ts";
import { verifyCommand } from "./commands/verify.ts";
import { EXIT, exitCodeOf, printError } from "./exit.ts";
import { packageVersion } from "./package-root.ts";

function program(): Command {
  const ingot = new Command("ingot")
    .description("Compiles language models to native kernels and runs them.")
    .version(packageVersion(), "-V, --version")
    .showHelpAfterError("(run the command with --help for its flags)")
    .showSuggestionAfterError()
    .exitOverride()
    .configureHelp({ sortSubcommands: false, sortOptions: false });
  for (const command of [
    compileCommand(),
    buildCommand(),
    runCommand(),
    serveCommand(),
    verifyCommand(),
    benchCommand(),
    listCommand(),
    showCommand(),
    removeCommand(),
    doctorCommand(),
  ]) {
    ingot.addCommand(command.exitOverride());
  }
  return ingot;
}

try {
  await program().parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage;
  } else {
    printError(error);
    process.exitCode = exitCodeOf(error);
  }
}
