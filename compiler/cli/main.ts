#!/usr/bin/env node
/**
 * The command line: which verbs there are, and how a run ends. A verb's flags and work stand in its own file, loaded when it is used.
 *
 * Results go to stdout, progress and logs to stderr. Exit codes: 0 ok, 1 failure, 2 usage, 3 missing toolchain, 130 interrupted.
 */
import { Command, CommanderError } from "commander";
import { EXIT, exitCodeOf, printError } from "./exit.ts";
import { packageVersion } from "./package-root.ts";

/** In the order that help shows them. */
const VERBS: Readonly<Record<string, () => Promise<Command>>> = {
  compile: async () => (await import("./commands/compile.ts")).compileCommand(),
  build: async () => (await import("./commands/build.ts")).buildCommand(),
  run: async () => (await import("./commands/run.ts")).runCommand(),
  serve: async () => (await import("./commands/serve.ts")).serveCommand(),
  verify: async () => (await import("./commands/verify.ts")).verifyCommand(),
  export: async () => (await import("./commands/export.ts")).exportCommand(),
  bench: async () => (await import("./commands/bench.ts")).benchCommand(),
  list: async () => (await import("./commands/engines.ts")).listCommand(),
  show: async () => (await import("./commands/engines.ts")).showCommand(),
  rm: async () => (await import("./commands/engines.ts")).removeCommand(),
  doctor: async () => (await import("./commands/doctor.ts")).doctorCommand(),
};

/** The program with the verb that `args` start with, or with all of them where help or a suggestion needs them. */
async function program(args: readonly string[]): Promise<Command> {
  const ingot = new Command("ingot")
    .description("Compiles language models to native kernels and runs them.")
    .version(packageVersion(), "-V, --version")
    .showSuggestionAfterError()
    .configureHelp({ sortSubcommands: false, sortOptions: false })
    .configureOutput({ outputError: (message, write) => write(message.replace(/^error: /, "ingot: ")) })
    .exitOverride();
  const asked = Object.hasOwn(VERBS, args[0] ?? "") ? [args[0] as string] : Object.keys(VERBS);
  for (const command of await Promise.all(asked.map((verb) => (VERBS[verb] as () => Promise<Command>)()))) {
    ingot.addCommand(inherit(command, ingot));
  }
  return ingot;
}

/** Verbs are made on their own; ways of ending and printing come from the program. */
function inherit(command: Command, from: Command): Command {
  const path = [from.name() === "ingot" ? "ingot" : `ingot ${from.name()}`, command.name()].join(" ");
  command.copyInheritedSettings(from).showHelpAfterError(`(${path} --help lists its flags)`);
  for (const sub of command.commands) inherit(sub, command);
  return command;
}

// A verb that handles an interrupt itself listens too.
process.on("SIGINT", () => {
  if (process.listenerCount("SIGINT") === 1) process.exit(EXIT.interrupted);
});
// Whoever reads the output may stop doing so: `ingot list | head -1`.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit(EXIT.ok);
});
try {
  const args = process.argv.slice(2);
  await (await program(args)).parseAsync(args, { from: "user" });
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage;
  } else {
    printError(error);
    process.exitCode = exitCodeOf(error);
  }
}
