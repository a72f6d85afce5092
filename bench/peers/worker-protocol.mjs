// A measuring process and its parent: commands with arguments over Node's IPC channel, one at a time, each answered once.

import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";

/** In the worker: answers `{ command, args }` by calling `commands[command](args)`; ends with the channel. */
export function serve(commands) {
  process.on("message", async ({ id, command, args }) => {
    try {
      const cpu = process.cpuUsage();
      const result = await commands[command](args);
      const { user, system } = process.cpuUsage(cpu);
      process.send({ id, result, cpuMs: (user + system) / 1000 });
    } catch (error) {
      process.send({ id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
    }
  });
  process.on("disconnect", () => process.exit(0));
}

/** In the parent: a worker process running `script`. */
export class Worker {
  #child;
  #name;
  #nextId = 0;
  #pending = new Map();

  constructor(name, script) {
    this.#name = name;
    this.#child = fork(fileURLToPath(new URL(script, import.meta.url)), { stdio: ["ignore", "inherit", "inherit", "ipc"] });
    this.#child.on("message", ({ id, result, error, cpuMs }) => {
      const { resolve, reject } = this.#pending.get(id);
      this.#pending.delete(id);
      if (error === undefined) resolve({ ...result, cpuMs });
      else reject(new Error(`${name}: ${error}`));
    });
    this.#child.on("exit", (code, signal) => this.#fail(`ended with ${signal ?? `exit code ${code}`}`));
    this.#child.on("error", (error) => this.#fail(error.message));
  }

  #fail(why) {
    for (const { reject } of this.#pending.values()) reject(new Error(`${this.#name}: ${why}`));
    this.#pending.clear();
  }

  /** Rejects when the command throws in the worker or the worker ends. */
  call(command, args) {
    return new Promise((resolve, reject) => {
      if (!this.#child.connected) return reject(new Error(`${this.#name}: not running`));
      const id = this.#nextId++;
      this.#pending.set(id, { resolve, reject });
      this.#child.send({ id, command, args });
    });
  }

  close() {
    if (this.#child.connected) this.#child.disconnect();
  }
}
