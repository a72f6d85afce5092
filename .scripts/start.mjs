// `npm start`: installs what running needs, builds, and serves the sample model with its web chat.
import { spawn } from "node:child_process";
import { join } from "node:path";
import { buildAll } from "./build.mjs";
import { ensureDependencies, root } from "./dependencies.mjs";

ensureDependencies({ dev: false });
await buildAll();
const child = spawn(
  process.execPath,
  [join(root, "dist", "ingot.js"), "serve", join(root, "models", "pebble"), ...process.argv.slice(2)],
  {
    stdio: "inherit",
  },
);
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => child.kill(signal));
child.on("exit", (code, signal) => process.exit(signal ? 130 : (code ?? 1)));
