/**
 * Who may talk to the server: where it may listen, the API key, and what a browser's page from elsewhere may do.
 *
 * Without a key the server trusts everyone who reaches it, so it must be reached only from this machine: a loopback address, a Host
 * header that names it (a page whose name was rebound to 127.0.0.1 sends its own), and no foreign Origin.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import { EngineError, RequestError } from "../errors.ts";

export interface AccessOptions {
  readonly host: string;
  readonly apiKey?: string;
  /** Origins whose pages may call the API, such as "https://example.com"; "*" is any. Default: none. */
  readonly allowedOrigins?: readonly string[];
  /** Listen beyond this machine without a key. */
  readonly allowInsecureHost?: boolean;
}

/** True for addresses and names that only this machine reaches. */
export function isLoopbackHost(host: string): boolean {
  const name = host.toLowerCase().replace(/^\[|\]$/g, "");
  return name === "localhost" || name.endsWith(".localhost") || name === "::1" || /^127(\.\d{1,3}){3}$/.test(name);
}

export class Access {
  readonly #options: AccessOptions;
  readonly #keyDigest: Buffer | undefined;

  /** @throws EngineError when everyone on the network could use the server, unless that was asked for. */
  constructor(options: AccessOptions) {
    const { host, apiKey, allowInsecureHost = false } = options;
    if (apiKey !== undefined && apiKey.trim() === "") throw new EngineError("the API key is empty; give one or leave it out");
    if (apiKey === undefined && !allowInsecureHost && !isLoopbackHost(host)) {
      throw new EngineError(
        `refusing to listen on ${host} without an API key: everyone who reaches this address could use the model. ` +
          "Set an API key, listen on 127.0.0.1, or allow an insecure host explicitly",
      );
    }
    this.#options = options;
    this.#keyDigest = apiKey === undefined ? undefined : digest(apiKey);
  }

  /** Refuses requests that a browser was tricked into. @throws RequestError 403. */
  checkSource(req: IncomingMessage): void {
    if (this.#keyDigest !== undefined) return; // a stranger's page does not know the key
    const { host: listens } = this.#options;
    const host = req.headers.host;
    if (host !== undefined && isLoopbackHost(listens)) {
      const name = host.replace(/:\d*$/, "");
      if (!isLoopbackHost(name)) {
        throw forbidden(
          `the Host header names ${name}, but this server answers only as localhost; set an API key to use it by other names`,
        );
      }
    }
    const { origin } = req.headers;
    if (origin === undefined || this.#allows(origin)) return;
    if (hostOf(origin) !== host) throw forbidden(`pages from ${origin} may not use this server; allow the origin explicitly`);
  }

  /** Answers a browser's question whether a page may read the answer; true when that was all there was to do. */
  handleCors(req: IncomingMessage, res: ServerResponse): boolean {
    const { origin } = req.headers;
    if (origin === undefined || !this.#allows(origin)) return false;
    res.setHeader("Access-Control-Allow-Origin", origin);
    res.setHeader("Access-Control-Expose-Headers", "X-Request-Id");
    res.setHeader("Vary", "Origin");
    const method = req.headers["access-control-request-method"];
    if (req.method !== "OPTIONS" || method === undefined) return false;
    const headers = req.headers["access-control-request-headers"];
    res.setHeader("Access-Control-Allow-Methods", "GET, POST");
    if (headers !== undefined) res.setHeader("Access-Control-Allow-Headers", headers);
    res.setHeader("Access-Control-Max-Age", "600");
    res.writeHead(204).end();
    return true;
  }

  /** @throws RequestError 401 unless the request carries the key (or none is set). */
  checkKey(req: IncomingMessage): void {
    if (this.#keyDigest === undefined) return;
    const given = /^bearer\s+(.*)$/i.exec(req.headers.authorization ?? "")?.[1]?.trim();
    if (given === undefined || given === "") {
      throw unauthorized("an API key is needed: send it as Authorization: Bearer YOUR_KEY", "missing_api_key");
    }
    // Digests have one length whatever the key's, so the comparison takes the same time for every wrong key.
    if (!timingSafeEqual(digest(given), this.#keyDigest)) throw unauthorized("the API key is not correct", "invalid_api_key");
  }

  #allows(origin: string): boolean {
    const { allowedOrigins = [] } = this.#options;
    return allowedOrigins.includes("*") || allowedOrigins.includes(origin);
  }
}

function digest(text: string): Buffer {
  return createHash("sha256").update(text, "utf8").digest();
}

function hostOf(origin: string): string | undefined {
  try {
    return new URL(origin).host;
  } catch {
    return undefined; // "null", as sandboxed pages send
  }
}

function forbidden(message: string): RequestError {
  return new RequestError(403, message, { code: "forbidden" });
}

function unauthorized(message: string, code: string): RequestError {
  return new RequestError(401, message, { code });
}
