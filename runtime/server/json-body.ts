/**
 * Reads a request's body as a JSON object, within a limit. Knows nothing of what the object means.
 */
import type { IncomingMessage } from "node:http";
import { RequestError } from "../errors.ts";

/** A body over the limit is read on and thrown away up to this many times the limit, so that the client gets to see the answer. */
const DISCARD_FACTOR = 4;

/** Far more than any request has, and few enough for whatever walks a value. */
const MAX_DEPTH = 100;

const isDeeper = (value: unknown, levels: number): boolean =>
  typeof value === "object" &&
  value !== null &&
  (levels === 0 || Object.values(value).some((inner) => isDeeper(inner, levels - 1)));

/**
 * Reads the whole body and parses it.
 * @throws RequestError 413 over `maxBytes`; 400 when it is not UTF-8, not JSON, nested beyond reason or not an object.
 */
export async function readJsonObject(req: IncomingMessage, maxBytes: number): Promise<Record<string, unknown>> {
  const text = decode(await readBody(req, maxBytes));
  if (text.trim() === "") throw badJson("the body is empty; expected a JSON object");
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw badJson(`the body is not valid JSON: ${cause instanceof Error ? cause.message : String(cause)}`, cause);
  }
  if (isDeeper(value, MAX_DEPTH)) throw badJson(`the body is nested deeper than ${MAX_DEPTH} levels`);
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw badJson(
      `the body must be a JSON object, got ${value === null ? "null" : Array.isArray(value) ? "a list" : typeof value}`,
    );
  }
  return value as Record<string, unknown>;
}

async function readBody(req: IncomingMessage, maxBytes: number): Promise<Buffer> {
  const declared = Number(req.headers["content-length"] ?? 0);
  if (declared > maxBytes * DISCARD_FACTOR) throw tooLarge(maxBytes);
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    for await (const chunk of req as AsyncIterable<Buffer>) {
      length += chunk.length;
      if (length <= maxBytes) chunks.push(chunk);
      else chunks.length = 0;
      if (length > maxBytes * DISCARD_FACTOR) break;
    }
  } catch (cause) {
    throw new RequestError(400, "the request ended before its body was complete", { cause });
  }
  if (length > maxBytes) throw tooLarge(maxBytes);
  return Buffer.concat(chunks);
}

function decode(body: Buffer): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(body);
  } catch (cause) {
    throw badJson("the body is not valid UTF-8", cause);
  }
}

function tooLarge(maxBytes: number): RequestError {
  return new RequestError(413, `the body is larger than this server's limit of ${maxBytes} bytes`, { code: "request_too_large" });
}

function badJson(message: string, cause?: unknown): RequestError {
  return new RequestError(400, message, { code: "invalid_json", cause });
}
