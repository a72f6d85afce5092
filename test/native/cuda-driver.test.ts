import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { buildFakeCuda, calls, fakeDeviceEnvironment } from "../support/fake-cuda.ts";
import { testKernelImage } from "./cuda-library.ts";

const here = fileURLToPath(new URL("./", import.meta.url));
const native = fileURLToPath(new URL("../../native/cuda/", import.meta.url));
const { LD_PRELOAD: _, ...environment } = process.env;

const compile = (...args: string[]) => {
  const { status, stderr } = spawnSync(process.env.CXX ?? "c++", ["-std=c++17", "-Wall", "-Wextra", ...args], {
    encoding: "utf8",
    env: environment,
  });
  expect(stderr).toBe("");
  expect(status).toBe(0);
};

describe("the fake driver notices", () => {
  const said = new Map<string, string>();
  let stderr = "";
  const log = join(mkdtempSync(join(tmpdir(), "ingot-cuda-")), "driver.log");

  beforeAll(() => {
    const program = join(dirname(log), "misuse");
    const sources = [join(here, "cuda-misuse.cpp"), join(native, "driver.cpp"), join(native, "device.cpp")];
    compile("-g", ...sources, "-o", program, "-ldl", "-pthread");
    const result = spawnSync(program, [buildFakeCuda(), testKernelImage()], {
      encoding: "utf8",
      env: { ...environment, ...fakeDeviceEnvironment({ devices: 2, log }) },
    });
    expect(result.status).toBe(0);
    stderr = result.stderr;
    for (const line of result.stdout.split("\n")) said.set(line.slice(0, line.indexOf(": ")), line.slice(line.indexOf(": ") + 2));
  });

  it.each([
    ["no context", "CUDA_ERROR_INVALID_CONTEXT (invalid device context: no context is current on this thread"],
    [
      "a stream of another context",
      "CUDA_ERROR_INVALID_CONTEXT (invalid device context: this is one of another context's streams: make that context current first)",
    ],
    ["memory nobody wrote", "-1"],
    ["a read that does not wait", "5 then 0"],
    ["an allocation while capturing", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"],
    ["replays of a graph, its parameter changed meanwhile", "0 then 2"],
    ["a copy that leaves its memory", "8 bytes from here on are not in one allocation of device memory"],
    ["a copy that leaves its pinned block", "a copy of 8 bytes leaves its pinned block of 16"],
    ["freed memory", "not in one allocation of device memory, or it is freed"],
    ["memory freed twice", "this is no allocation of device memory, or it is freed"],
    ["a destroyed event", "CUDA_ERROR_INVALID_HANDLE (invalid resource handle: this is none of the events"],
    ["an event for a stream", "this is none of the streams: it was never created, or is destroyed"],
    ["a missing kernel", "CUDA_ERROR_NOT_FOUND"],
    ["2,048 threads", "a block of 2048 threads, at most 1024 are possible"],
    ["64 KB of shared memory unasked", "65536 bytes of dynamic shared memory, 48128 are allowed"],
    ["1 MB of shared memory", "at most 232448 bytes are possible"],
    ["an attribute nobody knows", "does not know this launch attribute"],
    ["pinned memory freed before its copy", "pinned memory was freed before the copy that reads it ran"],
    ["anything after a failure", "CUDA_ERROR_LAUNCH_FAILED"],
  ])("%s", (what, answer) => {
    expect(said.get(what)).toContain(answer);
  });

  it("what is left when a process ends", () => {
    const left = "leak: 1 streams, 1 modules, 1 allocations of device memory, 1 blocks of pinned memory when the process ended";
    expect(calls(log, "leak: the primary")).toHaveLength(1);
    expect(
      calls(log, "leak: 1")[0]!
        .split(/: |, | when /)
        .sort(),
    ).toEqual(left.split(/: |, | when /).sort());
    expect(stderr).toContain("fake CUDA driver: leak: ");
  });
});

/** Folder of cuda.h: beside the nvcc of the path, or where the toolkit is usually installed. */
function cudaHeaders(): string | undefined {
  const nvcc = (process.env.PATH ?? "").split(delimiter).map((folder) => join(folder, "nvcc"));
  const beside = nvcc.filter((file) => existsSync(file)).map((file) => join(dirname(realpathSync(file)), "..", "include"));
  return [...beside, "/usr/local/cuda/include"].find((folder) => existsSync(join(folder, "cuda.h")));
}

describe("the table of driver functions", () => {
  const header = readFileSync(join(native, "driver.h"), "utf8");
  const entries = [...header.matchAll(/const Entry<(.*)> \w+\{\*this, "(cu\w+)"\};/g)].map(([, params, symbol]) => ({
    params,
    symbol,
  }));

  it("lists each function once", () => {
    expect(entries.length).toBe(header.match(/const Entry</g)!.length - 1); // one is a parameter
    expect(new Set(entries.map(({ symbol }) => symbol)).size).toBe(entries.length);
  });

  it.skipIf(cudaHeaders() === undefined)("agrees with cuda.h, where CUDA is installed", () => {
    const source = join(mkdtempSync(join(tmpdir(), "ingot-cuda-")), "abi.cpp");
    writeFileSync(
      source,
      `#include <cuda.h>
       #include <type_traits>
       #include "${native}driver.h"
       using namespace ingot::cuda;
       template <class Ours, class Theirs>
       constexpr bool alike = sizeof(Ours) == sizeof(Theirs) && std::is_pointer_v<Ours> == std::is_pointer_v<Theirs>;
       template <class... Ours, class... Theirs>
       constexpr bool agrees(const Driver::Entry<Ours...>*, CUresult (*)(Theirs...)) {
         if constexpr (sizeof...(Ours) != sizeof...(Theirs)) return false;
         else return (alike<Ours, Theirs> && ...);
       }
       ${entries.map(({ params, symbol }) => `static_assert(agrees(static_cast<const Driver::Entry<${params}>*>(nullptr), ${symbol}), "${symbol}");`).join("\n")}
       static_assert(sizeof(LaunchConfig) == sizeof(CUlaunchConfig) && offsetof(LaunchConfig, stream) == offsetof(CUlaunchConfig, hStream));
       static_assert(offsetof(LaunchConfig, num_attributes) == offsetof(CUlaunchConfig, numAttrs));
       static_assert(sizeof(LaunchAttribute) == sizeof(CUlaunchAttribute) && offsetof(LaunchAttribute, value) == offsetof(CUlaunchAttribute, value));
       static_assert(LaunchAttribute::kProgrammaticStreamSerialization == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
       static_assert(int(kMultiprocessorCount) == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
       static_assert(int(kComputeCapabilityMajor) == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
       static_assert(int(kComputeCapabilityMinor) == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
       static_assert(int(kMaxSharedMemoryPerBlockOptin) == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
       static_assert(int(kMaxThreadsPerBlock) == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
       static_assert(int(kMaxDynamicSharedSizeBytes) == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
       static_assert(int(kErrorLogBuffer) == CU_JIT_ERROR_LOG_BUFFER && int(kErrorLogBufferSizeBytes) == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES);
       static_assert(kStreamNonBlocking == CU_STREAM_NON_BLOCKING && kCaptureThreadLocal == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
       static_assert(kOutOfMemory == CUDA_ERROR_OUT_OF_MEMORY && kStubLibrary == CUDA_ERROR_STUB_LIBRARY && kNoDevice == CUDA_ERROR_NO_DEVICE);
       static_assert(kNoBinaryForGpu == CUDA_ERROR_NO_BINARY_FOR_GPU && kInvalidPtx == CUDA_ERROR_INVALID_PTX);
       static_assert(kUnsupportedPtxVersion == CUDA_ERROR_UNSUPPORTED_PTX_VERSION && kNotFound == CUDA_ERROR_NOT_FOUND);
       static_assert(kNotReady == CUDA_ERROR_NOT_READY && kDriverMismatch == CUDA_ERROR_SYSTEM_DRIVER_MISMATCH);`,
    );
    compile("-fsyntax-only", "-isystem", cudaHeaders()!, source);
  });
});
