import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { executorOptions } from "./kernel-library.ts";

const addon = fileURLToPath(new URL("../../dist/ingot.node", import.meta.url));
const step = { kernel: "wait_ms", grid: [2], chunk: 1, serialUnits: 0, args: [] };
const options = executorOptions({ threads: 3, numArrays: 0, programs: [{ steps: Array.from({ length: 50 }, () => step) }] });
const prelude = `
  const native = require(${JSON.stringify(addon)});
  const executor = native.createExecutor(${JSON.stringify(options)});
  const run = (t) => executor.run(0, Int32Array.of(t, 1, 1, 1), [], []);
`;

function node(script: string, flags: string[] = []): { status: number | null; stdout: string; stderr: string; ms: number } {
  const started = performance.now();
  const { status, stdout, stderr } = spawnSync(process.execPath, [...flags, "-e", prelude + script], {
    encoding: "utf8",
    timeout: 20_000,
  });
  return { status, stdout, stderr, ms: performance.now() - started };
}

describe("a process ends cleanly", () => {
  it("with an idle executor that nobody closed", () => {
    expect(node("console.log('idle')")).toMatchObject({ status: 0, stdout: "idle\n", stderr: "" });
  });

  it("after a run that nobody else waits for", () => {
    expect(node("run(1).then(() => console.log('ran'))")).toMatchObject({ status: 0, stdout: "ran\n", stderr: "" });
  });

  it("when it exits in the middle of a run, after the current step", () => {
    const result = node("run(100); setTimeout(() => process.exit(7), 50)"); // the whole program would take 5 s or more
    expect(result).toMatchObject({ status: 7, stderr: "" });
    expect(result.ms).toBeLessThan(3000);
  });

  it("when it exits while a close is under way", () => {
    expect(node("run(10); executor.close(); setTimeout(() => process.exit(7), 20)")).toMatchObject({ status: 7, stderr: "" });
  });

  it("when a worker thread is terminated in the middle of a run", () => {
    const worker = `const { parentPort } = require("node:worker_threads"); ${prelude}
      parentPort.postMessage(0);
      (async () => {
        for (;;) {
          await run(0);
          for (const until = performance.now() + 0.2; performance.now() < until; );
          await new Promise(setImmediate);
        }
      })();`;
    // Many times: the end of a run must now and then meet the end of its thread.
    const script = `
      const { Worker } = require("node:worker_threads");
      const { once } = require("node:events");
      (async () => {
        for (let n = 0; n < 80; n++) {
          const worker = new Worker(${JSON.stringify(worker)}, { eval: true });
          await once(worker, "message");
          await new Promise((resolve) => setTimeout(resolve, (n % 40) / 2));
          await worker.terminate();
        }
        await run(1);
        console.log("still here");
      })();`;
    expect(node(script)).toMatchObject({ status: 0, stdout: "still here\n", stderr: "" });
  });

  it("when executors are dropped without close, idle or running", () => {
    const script = `
      (async () => {
        for (let n = 0; n < 30; n++) {
          const dropped = native.createExecutor(${JSON.stringify(executorOptions({ numArrays: 0, programs: [{ steps: [step] }] }))});
          const running = dropped.run(0, Int32Array.of(n % 3, 1, 1, 1), [], []);
          if (n % 2) await running;
          global.gc();
          await new Promise(setImmediate);
          if (!(n % 2)) await running;
        }
        console.log(require("node:fs").readdirSync("/proc/self/task").filter((t) => require("node:fs").readFileSync("/proc/self/task/" + t + "/comm", "utf8").startsWith("ingot-")).length);
      })();`;
    const result = node(script, ["--expose-gc"]);
    expect(result).toMatchObject({ status: 0, stderr: "" });
    // 3 threads of the one still held, and at most a few that were not collected yet.
    if (process.platform === "linux") expect(Number(result.stdout)).toBeLessThan(12);
  });

  it("and the addon loads twice in one process", () => {
    expect(createRequire(import.meta.url)(addon)).toBe(createRequire(import.meta.url)(addon));
  });
});
