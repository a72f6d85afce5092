/**
 * The fake CUDA driver as a library, built once per content, and its log as something to ask.
 *
 * The driver runs kernels that test/simt/nvcc compiled, on the emulator in test/simt; what it checks is in test/simt/fake_cuda.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { makeOnce, readFiles, simtSources } from "./simt-kernel.ts";

const simt = fileURLToPath(new URL("../simt/", import.meta.url));
const fake = join(simt, "fake_cuda");

/** Path of the library that stands in for libcuda.so.1. */
export function buildFakeCuda(): string {
  const emulator = simtSources();
  const driver = readdirSync(fake).filter((name) => /\.(cpp|h)$/.test(name));
  const sources = [...emulator.map((name) => join(simt, name)), ...driver.map((name) => join(fake, name))];
  return makeOnce([readFiles(simt, emulator), readFiles(fake, driver)], (out) => [
    process.env.CXX ?? "g++",
    ...["-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-fno-optimize-sibling-calls", "-I", simt],
    ...sources.filter((path) => path.endsWith(".cpp")),
    ...["-ldl", "-pthread", "-o", out],
  ]);
}

/** What the fake device is and where its driver writes a line per call; read when the driver is initialized. */
export interface FakeDevice {
  readonly sm?: 80 | 86 | 90;
  readonly memory?: number;
  /** 12040 is 12.4. */
  readonly driver?: number;
  readonly devices?: number;
  readonly log?: string;
  /** "cuMemAlloc_v2 2": the second call of it fails; "* 2": of any function that gives nothing back. */
  readonly fail?: string;
  readonly order?: "forward" | "reverse" | "random" | "greedy";
  readonly seed?: number;
}

const VARIABLES = {
  sm: "INGOT_FAKE_CUDA_SM",
  memory: "INGOT_FAKE_CUDA_MEMORY",
  driver: "INGOT_FAKE_CUDA_DRIVER",
  devices: "INGOT_FAKE_CUDA_DEVICES",
  log: "INGOT_FAKE_CUDA_LOG",
  fail: "INGOT_FAKE_CUDA_FAIL",
  order: "INGOT_SIMT_ORDER",
  seed: "INGOT_SIMT_SEED",
} as const;

/** The environment that describes `device`. */
export function fakeDeviceEnvironment(device: FakeDevice): Record<string, string> {
  const fields = Object.keys(VARIABLES) as (keyof FakeDevice)[];
  return Object.fromEntries(
    fields.filter((key) => device[key] !== undefined).map((key) => [VARIABLES[key], String(device[key])]),
  );
}

/** Sets this process's environment to describe `device` and nothing else. */
export function setFakeDevice(device: FakeDevice): void {
  for (const name of Object.values(VARIABLES)) delete process.env[name];
  Object.assign(process.env, fakeDeviceEnvironment(device));
}

/** The lines of a log that begin with `call`. */
export function calls(log: string, call = ""): string[] {
  return readFileSync(log, "utf8")
    .split("\n")
    .filter((line) => line !== "" && line.startsWith(call));
}
