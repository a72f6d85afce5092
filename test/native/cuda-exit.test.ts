import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { calls, fakeDeviceEnvironment } from "../support/fake-cuda.ts";
import { cudaOptions, step, temporary } from "./cuda-library.ts";

const addon = fileURLToPath(new URL("../../dist/ingot.node", import.meta.url));

let prelude = "";
beforeAll(() => {
  const count = step("count_up", ["T"], ["arena", 0]);
  const options = cudaOptions({ programs: [{ steps: Array.from({ length: 4 }, () => count) }] });
  prelude = `
    const native = require(${JSON.stringify(addon)});
    const options = ${JSON.stringify(options)};
    const executor = native.createCudaExecutor(options);
    const run = (t, on = executor) => on.run(0, Int32Array.of(t, 1, 1, 1), Int32Array.of(t, 1, 1, 1), [], []);
  `;
});

/** Runs `script` in a process of its own and returns how it ended; the driver's leaks are on stderr. */
function node(script: string, flags: string[] = []) {
  const log = join(temporary(), "driver.log");
  const { status, stdout, stderr } = spawnSync(process.execPath, [...flags, "-e", prelude + script], {
    encoding: "utf8",
    timeout: 30_000,
    env: { ...process.env, ...fakeDeviceEnvironment({ log }) },
  });
  return { status, stdout, stderr, log };
}

describe("a process with a CUDA executor ends cleanly, its context released", () => {
  it("when the executor is idle and nobody closed it", () => {
    const ended = node("console.log('idle')");
    expect(ended).toMatchObject({ status: 0, stdout: "idle\n", stderr: "" });
    expect(calls(ended.log, "cuDevicePrimaryCtxRelease")).toHaveLength(1);
  });

  it("after two runs that nobody else waits for", () => {
    expect(node("run(1); run(2).then(() => console.log('ran'))")).toMatchObject({ status: 0, stdout: "ran\n", stderr: "" });
  });

  it("when it exits in the middle of two runs", () => {
    expect(node("run(3000); run(3000); setTimeout(() => process.exit(7), 5)")).toMatchObject({ status: 7, stderr: "" });
  });

  it("when it exits while a close is under way", () => {
    expect(node("run(3000); executor.close(); setTimeout(() => process.exit(7), 5)")).toMatchObject({ status: 7, stderr: "" });
  });

  it("when a worker thread is terminated in the middle of its runs", () => {
    const worker = `const { parentPort } = require("node:worker_threads"); ${prelude}
      parentPort.postMessage(0);
      (async () => {
        for (;;) {
          await Promise.all([run(50), run(1)]);
          await new Promise(setImmediate);
        }
      })();`;
    const script = `
      const { Worker } = require("node:worker_threads");
      const { once } = require("node:events");
      (async () => {
        for (let n = 0; n < 12; n++) {
          const worker = new Worker(${JSON.stringify(worker)}, { eval: true });
          await once(worker, "message");
          await new Promise((resolve) => setTimeout(resolve, n % 6));
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
        for (let n = 0; n < 20; n++) {
          const dropped = native.createCudaExecutor(options);
          const runs = [run(n % 3, dropped), run(1, dropped)];
          if (n % 2) await Promise.all(runs);
          global.gc();
          await new Promise(setImmediate);
          if (!(n % 2)) await Promise.all(runs);
        }
        console.log("dropped");
      })();`;
    expect(node(script, ["--expose-gc"])).toMatchObject({ status: 0, stdout: "dropped\n", stderr: "" });
  });
});
