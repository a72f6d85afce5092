/** Which nvcc is taken, and what is said where there is none or an old one, on machines that keep it anywhere or nowhere. */
import { beforeEach, expect, it, vi } from "vitest";
import { ToolchainError } from "../../../compiler/errors.ts";
import { findNvcc, nvccToolchain } from "../../../compiler/toolchain/nvcc.ts";

/** Releases by the program that says them. */
const machine = vi.hoisted(() => new Map<string, string>());
vi.mock("node:fs", async (original) => ({
  ...(await original<typeof import("node:fs")>()),
  existsSync: (path: string) => machine.has(path),
}));
vi.mock("node:child_process", async (original) => ({
  ...(await original<typeof import("node:child_process")>()),
  spawnSync: (program: string) => {
    const said = machine.get(program);
    if (said === undefined) return { status: null, stdout: null };
    return { status: 0, stdout: `nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release ${said}\nBuild 1\n` };
  },
}));
beforeEach(() => machine.clear());

const INSTALL =
  "Install the CUDA toolkit (12 or later; no GPU is needed to compile) from https://developer.nvidia.com/cuda-downloads, since " +
  "Debian 12 and Ubuntu 22.04 package an older one; or name its compiler in NVCC.";

it("a machine without nvcc is told where it was looked for and what to install", () => {
  for (const said of ["", " "]) {
    expect(findNvcc(said)).toBeNull();
    const find = () => nvccToolchain("sm_80", said);
    expect(find).toThrow(ToolchainError);
    expect(find).toThrow(`no nvcc was found (looked for nvcc, /usr/local/cuda/bin/nvcc, /opt/cuda/bin/nvcc). ${INSTALL}`);
  }
});

it("a compiler named in NVCC that does not run as one is named", () => {
  const find = () => nvccToolchain("sm_80", "/no/such/nvcc");
  expect(find).toThrow(ToolchainError);
  expect(find).toThrow(
    'NVCC is "/no/such/nvcc", which does not run as nvcc; unset it or set it to the compiler of a CUDA toolkit',
  );
});

it("a release before 12 is named with what to install, on the path or in NVCC", () => {
  machine.set("nvcc", "11.8, V11.8.89");
  for (const said of ["", "nvcc"]) {
    const find = () => nvccToolchain("sm_80", said);
    expect(find).toThrow(ToolchainError);
    expect(find).toThrow(`nvcc is nvcc release 11.8, V11.8.89, too old for these kernels. ${INSTALL}`);
  }
});

it("an old one on the path gives way to a newer one where toolkits usually lie", () => {
  machine.set("nvcc", "11.5, V11.5.119").set("/usr/local/cuda/bin/nvcc", "12.0, V12.0.140");
  expect(findNvcc("")).toEqual({ command: ["/usr/local/cuda/bin/nvcc"], version: "nvcc release 12.0, V12.0.140" });
  machine.set("nvcc", "13.0, V13.0.88");
  expect(findNvcc("")).toEqual({ command: ["nvcc"], version: "nvcc release 13.0, V13.0.88" });
});
