/**
 * The real command line in tests: `dist/ingot.js` as a process of its own, nothing of this process's `INGOT_…` variables.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { afterAll } from "vitest";
import { scratchFolder, testCache } from "./compiled-engine.ts";

/** The repository's folder. */
export const root = join(import.meta.dirname, "../..");
/** The sample model. */
export const pebble = join(root, "models", "pebble");
/** What `bin` in package.json names. */
export const entry = join(root, "dist", "ingot.js");

/** How a run ended. */
export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A run that goes on. */
export interface Started {
  readonly child: ChildProcess;
  /** Settles when the output so far, stdout and stderr together, matches; rejects when the process ends before. */
  until(pattern: RegExp): Promise<RegExpMatchArray>;
  readonly ended: Promise<Ended>;
}

export interface CommandOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** Standard input; without it there is none. */
  readonly input?: string;
}

/** A scratch folder and a command line whose cache it is; built kernels are shared with other tests. */
export function commandLine(name: string) {
  const scratch = scratchFolder(name);
  const cache = join(scratch, "cache");
  mkdirSync(cache);
  mkdirSync(join(testCache, "kernels"), { recursive: true });
  symlinkSync(join(testCache, "kernels"), join(cache, "kernels"));
  const running = new Set<ChildProcess>();
  afterAll(() => {
    for (const child of running) child.kill("SIGKILL");
  });

  /** Starts `ingot ...args`. */
  const start = (args: readonly string[], options: CommandOptions = {}): Started => {
    const inherited = Object.entries(process.env).filter(([key]) => !/^(INGOT_|VITEST|NODE_|CXX$)/.test(key));
    const env = { ...Object.fromEntries(inherited), INGOT_CACHE: cache, ...options.env };
    const child = spawn(process.execPath, [entry, ...args], { cwd: options.cwd ?? root, env, stdio: "pipe" });
    running.add(child);
    child.stdin.on("error", () => {}); // it may end without reading
    child.stdin.end(options.input ?? "");
    let stdout = "";
    let stderr = "";
    let all = "";
    child.stdout.on("data", (piece: Buffer) => {
      stdout += piece;
      all += piece;
      child.emit("output");
    });
    child.stderr.on("data", (piece: Buffer) => {
      stderr += piece;
      all += piece;
      child.emit("output");
    });
    const ended = new Promise<Ended>((resolve) =>
      child.on("close", (code, signal) => {
        running.delete(child);
        resolve({ code, signal, stdout, stderr });
        child.emit("output");
      }),
    );
    const until = (pattern: RegExp) =>
      new Promise<RegExpMatchArray>((resolve, reject) => {
        const look = () => {
          const found = all.match(pattern);
          if (!found && running.has(child)) return;
          child.removeListener("output", look);
          if (found) resolve(found);
          else reject(new Error(`ingot ${args.join(" ")} ended without ${pattern}:\n${all}`));
        };
        child.on("output", look);
        look();
      });
    return { child, until, ended };
  };

  return {
    scratch,
    cache,
    start,
    /** Runs `ingot ...args` to its end. */
    run: (args: readonly string[], options?: CommandOptions): Promise<Ended> => start(args, options).ended,
  };
}
