import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, statSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** A tree with the addon's sources and nothing built. */
function freshTree(): string {
  const tree = mkdtempSync(join(tmpdir(), "ingot-build-"));
  mkdirSync(join(tree, ".scripts"));
  cpSync(join(root, ".scripts", "build-native.mjs"), join(tree, ".scripts", "build-native.mjs"));
  cpSync(join(root, "native"), join(tree, "native"), { recursive: true });
  symlinkSync(join(root, "node_modules"), join(tree, "node_modules"));
  return tree;
}

const build = (tree: string, env: NodeJS.ProcessEnv) =>
  spawnSync(process.execPath, [join(tree, ".scripts", "build-native.mjs")], {
    encoding: "utf8",
    env: { ...process.env, ...env },
  });

describe("building the addon", () => {
  it("exits with 3 and says what to install when there is no compiler", () => {
    const { status, stderr } = build(freshTree(), { PATH: "/nonexistent", CXX: "" });
    expect(status).toBe(3);
    if (process.platform === "linux") expect(stderr).toMatch(/Debian\/Ubuntu: apt install g\+\+; Fedora: dnf install gcc-c\+\+/);
    if (process.platform === "darwin") expect(stderr).toMatch(/xcode-select --install/);
  });

  it("exits with 3 and names CXX when that does not run", () => {
    const { status, stderr } = build(freshTree(), { CXX: "no-such-compiler --flag" });
    expect(status).toBe(3);
    expect(stderr).toMatch(/CXX=no-such-compiler --flag does not run/);
  });

  it("does nothing and needs no compiler when everything is built", () => {
    const addon = join(root, "dist", "ingot.node");
    const before = statSync(addon).mtimeMs;
    const { status, stderr } = build(root, { PATH: "/nonexistent" });
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(statSync(addon).mtimeMs).toBe(before);
  });
});
