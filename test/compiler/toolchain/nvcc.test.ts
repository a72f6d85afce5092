/** What is said where there is no CUDA toolkit, wherever this machine keeps one. */
import { afterEach, expect, it, vi } from "vitest";
import { ToolchainError } from "../../../compiler/errors.ts";
import { nvccToolchain } from "../../../compiler/toolchain/nvcc.ts";

vi.mock("node:fs", async (original) => ({ ...(await original<typeof import("node:fs")>()), existsSync: () => false }));
afterEach(() => void vi.unstubAllEnvs());

it("a machine without nvcc is told where it was looked for and what to install", () => {
  vi.stubEnv("PATH", "/no/such/folder");
  for (const said of [undefined, "", " "]) {
    const find = () => nvccToolchain("sm_80", said);
    expect(find).toThrow(ToolchainError);
    expect(find).toThrow(
      "no nvcc was found (looked for nvcc, /usr/local/cuda/bin/nvcc, /opt/cuda/bin/nvcc). Install the CUDA toolkit (12 or later; no GPU " +
        "is needed to compile): https://developer.nvidia.com/cuda-downloads, or apt install nvidia-cuda-toolkit; or name its compiler in NVCC.",
    );
  }
});

it("a compiler named in NVCC that does not run as one is named", () => {
  const find = () => nvccToolchain("sm_80", "/no/such/nvcc");
  expect(find).toThrow(ToolchainError);
  expect(find).toThrow(
    'NVCC is "/no/such/nvcc", which does not run as nvcc; unset it or set it to the compiler of a CUDA toolkit',
  );
});
