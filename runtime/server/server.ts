/**
 * The HTTP server: OpenAI-compatible routes, vLLM's metrics and the web chat over one model. Start here; the routes are a table.
 *
 * No framework: a dozen literal paths need a table, and streaming, backpressure and shutdown need node:http itself anyway.
 */
import { randomUUID } from "node:crypto";
import { createServer as createHttpServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type AddressInfo, Server as NetServer } from "node:net";
import { EngineError } from "../errors.ts";
import { Access, type AccessOptions } from "./access.ts";
import { chatCompletions } from "./chat-completions.ts";
import { completions } from "./completions.ts";
import { type Exchange, sendError } from "./exchange.ts";
import { ClientGone } from "./in-flight.ts";
import { pageRoutes } from "./page.ts";
import { findRoute, type Route } from "./router.ts";
import { ServerContext } from "./server-context.ts";
import type { ServerModel } from "./server-model.ts";
import { health, listModels, metrics, showModel, version } from "./status.ts";
import { detokenize, tokenize } from "./tokenize.ts";

export interface ServerOptions extends AccessOptions {
  /** 0 is any free port. */
  readonly port: number;
  /** What `/version` says. */
  readonly version: string;
  /** The name clients ask for; default: the model's own. */
  readonly servedModelName?: string;
  /** Largest body in bytes; default 1 MiB and 64 bytes for each token of the context, at most 16 MiB. */
  readonly maxBodyBytes?: number;
  /** How long `close` lets running requests go on; default 30 s. */
  readonly drainTimeoutMs?: number;
  /** Told of every failure; requests that were refused, and clients that went away, are none. */
  readonly onError?: (error: unknown, requestId: string) => void;
}

export interface ModelServer {
  /** Starts listening. @throws EngineError when the address cannot be had. */
  listen(): Promise<{ readonly url: string; readonly port: number }>;
  /**
   * Shuts down: new generations and `/health` get 503, running ones go on until they end or the deadline aborts them, then all
   * connections close. Idempotent. The model stays open.
   */
  close(): Promise<void>;
}

/** How long clients get to read the last words, also after the deadline. */
const LAST_WORDS_MS = 1000;

/**
 * Makes a server for `llm`; it listens once `listen` is called.
 * @throws EngineError when the options would let everyone on the network use the model, or the web chat's files are missing.
 */
export function createServer(llm: ServerModel, options: ServerOptions): ModelServer {
  const access = new Access(options);
  const context = new ServerContext(llm, {
    modelName: options.servedModelName ?? llm.modelName,
    version: options.version,
    maxBodyBytes: options.maxBodyBytes ?? Math.min(2 ** 20 + 64 * llm.maxModelLen, 16 * 2 ** 20),
    onError: options.onError ?? (() => {}),
  });
  const routes: readonly Route[] = [
    { method: "POST", path: "/v1/chat/completions", handle: (exchange) => chatCompletions(context, exchange) },
    { method: "POST", path: "/v1/completions", handle: (exchange) => completions(context, exchange) },
    { method: "GET", path: "/v1/models", handle: (exchange) => listModels(context, exchange) },
    { method: "GET", path: "/v1/models/*", handle: (exchange) => showModel(context, exchange) },
    { method: "POST", path: "/tokenize", handle: (exchange) => tokenize(context, exchange) },
    { method: "POST", path: "/detokenize", handle: (exchange) => detokenize(context, exchange) },
    { method: "GET", path: "/health", isOpen: true, handle: (exchange) => health(context, exchange) },
    { method: "GET", path: "/version", handle: (exchange) => version(context, exchange) },
    { method: "GET", path: "/metrics", handle: (exchange) => metrics(context, exchange) },
    ...pageRoutes(),
  ];
  const answers = new Set<ServerResponse>(); // not sent to their end yet
  const http = createHttpServer((req, res) => {
    answers.add(res);
    res.on("close", () => answers.delete(res));
    void handle({ req, res, context, access, routes });
  });
  let closing: Promise<void> | undefined;
  return {
    listen: () => listen(http, options),
    close: () => {
      closing ??= close(http, context, answers, options.drainTimeoutMs ?? 30_000);
      return closing;
    },
  };
}

interface Incoming {
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
  readonly context: ServerContext;
  readonly access: Access;
  readonly routes: readonly Route[];
}

async function handle({ req, res, context, access, routes }: Incoming): Promise<void> {
  const requestId = requestIdOf(req);
  res.setHeader("X-Request-Id", requestId);
  res.setHeader("X-Content-Type-Options", "nosniff");
  res.on("error", () => {}); // a client that goes away while we write; "close" follows and aborts
  if (context.inFlight.isDraining) res.shouldKeepAlive = false;
  try {
    access.checkSource(req);
    if (access.handleCors(req, res)) return;
    const path = pathOf(req);
    const route = findRoute(routes, req.method ?? "GET", path, (methods) => res.setHeader("Allow", methods.join(", ")));
    if (!route.isOpen) access.checkKey(req);
    const exchange: Exchange = { req, res, path, requestId };
    await route.handle(exchange);
  } catch (error) {
    context.report(error, requestId);
    if (error instanceof ClientGone) return;
    if (!req.complete) res.shouldKeepAlive = false; // the rest of the body will not be read
    if (res.headersSent && !res.writableEnded)
      res.destroy(); // half an answer must not look like a whole one
    else sendError({ res, requestId }, error);
  }
}

/** Letters, digits and a few marks only: the id goes into headers, logs and ids. */
function requestIdOf(req: IncomingMessage): string {
  const given = req.headers["x-request-id"];
  return typeof given === "string" && /^[\w.:-]{1,128}$/.test(given) ? given : randomUUID().replaceAll("-", "");
}

/** The decoded path, or the raw one where it does not decode (nothing is there then). */
function pathOf(req: IncomingMessage): string {
  const raw = (req.url ?? "/").split("?", 1)[0]!;
  try {
    return decodeURIComponent(raw);
  } catch {
    return raw;
  }
}

function listen(http: Server, { host, port }: ServerOptions): Promise<{ url: string; port: number }> {
  return new Promise((resolve, reject) => {
    http.once("error", (cause: NodeJS.ErrnoException) => {
      const why =
        cause.code === "EADDRINUSE"
          ? "something else listens there; choose another port"
          : cause.code === "EACCES"
            ? "this user may not; choose a port of at least 1024"
            : cause.message;
      reject(new EngineError(`cannot listen on ${host} port ${port}: ${why}`, { cause }));
    });
    http.listen(port, host.replace(/^\[|\]$/g, ""), () => {
      const bound = (http.address() as AddressInfo).port;
      resolve({ url: `http://${host.includes(":") && !host.startsWith("[") ? `[${host}]` : host}:${bound}`, port: bound });
    });
  });
}

async function close(
  http: Server,
  context: ServerContext,
  answers: ReadonlySet<ServerResponse>,
  drainTimeoutMs: number,
): Promise<void> {
  const end = performance.now() + drainTimeoutMs;
  // The socket stays open while requests run, so that health checks and new clients are told why instead of being refused.
  await context.inFlight.drain(drainTimeoutMs);
  if (!http.listening) return;
  // http.close would also end every connection whose answer was handed over, read or not; this only stops listening.
  const closed = new Promise<void>((resolve) => NetServer.prototype.close.call(http, () => resolve()));
  const sent = [...answers].map((res) => new Promise((resolve) => res.once("close", resolve)));
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise((resolve) => {
    timer = setTimeout(resolve, Math.max(LAST_WORDS_MS, end - performance.now()));
  });
  await Promise.race([Promise.all(sent), deadline]);
  clearTimeout(timer);
  http.closeAllConnections(); // what is left is idle, or does not read
  await closed;
  http.close(); // no longer listens: only its timers end
}
