/**
 * The native addon, built when it is not there yet: npm may be told to run no install scripts.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { ToolchainError } from "../errors.ts";
import { packageRoot } from "./package-root.ts";

/** Builds `dist/ingot.node` unless it is there. Throws `ToolchainError` when there is no C++ compiler or the build fails. */
export function ensureAddon(): void {
  const root = packageRoot();
  if (existsSync(join(root, "dist", "ingot.node"))) return;
  process.stderr.write("building the native addon, once …\n");
  const { status, stderr } = spawnSync(process.execPath, [join(root, ".scripts", "build-native.mjs"), "--quiet"], {
    encoding: "utf8",
  });
  if (status !== 0) throw new ToolchainError(stderr.trim() || "the native addon could not be built");
}
