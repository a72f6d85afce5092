// `npm start`: installs what running needs, builds, and serves the sample model with its web chat; flags go to `ingot serve`.
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { buildAll } from "./build.mjs";
import { ensureDependencies, root } from "./dependencies.mjs";

ensureDependencies({ dev: false });
await buildAll();
// In this very process, so that a signal to it reaches the server.
const cli = join(root, "dist", "ingot.js");
process.argv.splice(1, 1, cli, "serve", join(root, "models", "pebble"));
await import(pathToFileURL(cli).href);
