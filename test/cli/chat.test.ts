import { spawn, spawnSync } from "node:child_process";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { commandLine, entry, pebble } from "../support/ingot-command.ts";

const { run, cache, scratch } = commandLine("chat");
const engine = join(scratch, "pebble-engine");
/** util-linux's `script` gives a process a terminal of its own. */
const hasTerminal = process.platform === "linux" && spawnSync("script", ["--version"]).status === 0;
if (!hasTerminal) console.log("chat in a terminal: skipped, util-linux's `script` is not installed");

/** A chat in a terminal: types and waits for what shows. */
function chat(args: readonly string[]) {
  const command = [process.execPath, entry, "run", engine, "--kv-cache-memory", "64MiB", ...args].map((a) => `'${a}'`).join(" ");
  const env = { ...process.env, INGOT_CACHE: cache, SHELL: "/bin/sh", TERM: "xterm" };
  const child = spawn("script", ["-qefc", command, "/dev/null"], { env, stdio: "pipe" });
  let shown = "";
  let seen = 0;
  child.stdout.on("data", (piece: Buffer) => {
    shown += piece;
    child.emit("output");
  });
  const ended = new Promise<number | null>((resolve) => child.on("close", (code) => resolve(code)));
  /** Waits for text after what earlier calls found. */
  const until = (pattern: RegExp) =>
    new Promise<string>((resolve, reject) => {
      const look = () => {
        const found = pattern.exec(shown.slice(seen));
        if (!found) return;
        const text = shown.slice(seen, seen + found.index + found[0].length);
        seen += found.index + found[0].length;
        child.removeListener("output", look);
        resolve(text);
      };
      child.on("output", look);
      child.once("close", () => reject(new Error(`the chat ended without ${pattern}; it showed:\n${shown}`)));
      look();
    });
  return { until, type: (text: string) => child.stdin.write(text), ended };
}

const CTRL_C = "\x03";
const CTRL_D = "\x04";

beforeAll(async () => {
  const { code, stderr } = await run(["compile", pebble, "-o", engine]);
  expect(code, stderr).toBe(0);
});

describe.skipIf(!hasTerminal)("a chat in the terminal", () => {
  it("answers, starts over with /new, knows no other command, and ends with /exit", async () => {
    const { until, type, ended } = chat(["--temperature", "0"]);
    await until(/chatting with pebble[\s\S]*> /);
    type("What is a seed?\r");
    const first = await until(/\d+ tokens, [\d.]+ tok\/s/);
    expect(first).toMatch(/seed[\s\S]*\w+/);
    await until(/> /);
    type("/new\r");
    await until(/a new conversation[\s\S]*> /);
    type("What is a seed?\r");
    const again = await until(/\d+ tokens, [\d.]+ tok\/s/);
    const answerOf = (text: string) => text.slice(text.indexOf("\n"), text.lastIndexOf("\n")).trim();
    expect(answerOf(again)).toBe(answerOf(first));
    await until(/> /);
    type("/nosuch\r");
    await until(/\/nosuch is not a command: there are \/new and \/exit[\s\S]*> /);
    type("/exit\r");
    expect(await ended).toBe(0);
  });

  it("stops an answer with Ctrl-C and goes on", async () => {
    const { until, type, ended } = chat(["--ignore-eos", "--temperature", "0"]);
    await until(/chatting with pebble[\s\S]*> /);
    type("Tell me a story\r");
    await until(/Tell me a story\s+\w+/);
    type(CTRL_C);
    const stopped = await until(/\d+ tokens, [\d.]+ tok\/s(, stopped)?/);
    expect(stopped).toMatch(/, stopped$/);
    await until(/> /);
    type(CTRL_D);
    expect(await ended).toBe(0);
  });

  it("ends with 130 on Ctrl-C at the prompt", async () => {
    const { until, type, ended } = chat([]);
    await until(/chatting with pebble[\s\S]*> /);
    type(CTRL_C);
    expect(await ended).toBe(130);
  });

  it("needs no terminal for one answer, and refuses --json without a prompt", async () => {
    const { until, ended } = chat(["--json"]);
    await until(/--json needs a prompt/);
    expect(await ended).toBe(2);
  });
});
