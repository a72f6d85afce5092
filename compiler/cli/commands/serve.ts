/**
 * `ingot serve`: the OpenAI-compatible server over one engine, with the web chat at /.
 */
import { Command } from "commander";
import { isLoopbackHost } from "../../../runtime/server/access.ts";
import { createServer } from "../../../runtime/server/server.ts";
import { engineOf } from "../engine-of.ts";
import { UsageError } from "../exit.ts";
import { loadLlm, readManifest } from "../load.ts";
import {
  addCompileFlags,
  addJsonFlag,
  addLoadFlags,
  type CompileFlags,
  flag,
  integer,
  type LoadFlags,
  toggle,
} from "../options.ts";
import { packageVersion } from "../package-root.ts";
import { log } from "../progress.ts";
import { serverModel } from "../server-model.ts";

type Flags = CompileFlags &
  LoadFlags & {
    host: string;
    port: number;
    apiKey?: string;
    servedModelName?: string;
    allowInsecureHost?: boolean;
    corsOrigin?: string[];
    drainTimeout: number;
    json?: boolean;
  };

export function serveCommand(): Command {
  const command = new Command("serve")
    .description("serve a model over HTTP: OpenAI-compatible, web chat at /")
    .argument("<model>", "an engine folder, a model folder (compiled on first use), or a preset with --weights random")
    .action(serve);
  flag(command, "--host <address>", "address to listen on", undefined, "127.0.0.1");
  flag(command, "--port <n>", "port to listen on; 0 takes a free one", integer(0, 65535), 8000);
  flag(command, "--api-key <key>", "key that every request but /health must bear");
  flag(command, "--served-model-name <name>", "name that clients ask for; default: the model's");
  toggle(command, "--allow-insecure-host", "listen beyond loopback without an API key");
  flag(
    command,
    "--cors-origin <origin>",
    "let pages of this origin call the server; may be repeated",
    (o, all: string[] = []) => [...all, o],
  );
  flag(command, "--drain-timeout <seconds>", "how long running requests may go on after SIGTERM", integer(0), 30);
  addCompileFlags(command);
  addLoadFlags(command);
  return addJsonFlag(command);
}

async function serve(model: string, flags: Flags): Promise<void> {
  if (flags.apiKey === undefined && !flags.allowInsecureHost && !isLoopbackHost(flags.host)) {
    throw new UsageError(
      `--host ${flags.host} lets everyone who reaches it use the model: say --api-key, or --allow-insecure-host if that is meant`,
    );
  }
  if (flags.apiKey === "") throw new UsageError("--api-key is empty: say a key, or leave it out");
  const folder = await engineOf(model, flags);
  const manifest = readManifest(folder);
  const llm = await loadLlm(folder, flags);
  const server = createServer(serverModel(llm, manifest), {
    host: flags.host,
    port: flags.port,
    version: packageVersion(),
    apiKey: flags.apiKey,
    servedModelName: flags.servedModelName,
    allowInsecureHost: flags.allowInsecureHost,
    allowedOrigins: flags.corsOrigin,
    drainTimeoutMs: flags.drainTimeout * 1000,
    onError: (error, requestId) => log(`${requestId}: ${error instanceof Error ? error.stack : String(error)}`),
  });
  try {
    const { url } = await server.listen();
    if (flags.json) console.log(JSON.stringify({ url, model: manifest.name, target: manifest.target }));
    else console.log(`${manifest.name} (${manifest.target}) on ${url}   web chat: ${url}/   API: ${url}/v1`);
    await interrupted();
    log("draining: running requests finish, new ones are refused …");
    await server.close();
  } finally {
    await llm.close();
  }
}

/** Settles on the first SIGINT or SIGTERM; a second one ends the process at once. */
function interrupted(): Promise<void> {
  return new Promise((resolve) => {
    let asked = false;
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      process.on(signal, () => {
        if (asked) process.exit(130);
        asked = true;
        resolve();
      });
    }
  });
}
