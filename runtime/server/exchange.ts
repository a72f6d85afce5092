/**
 * One HTTP request and its answer, as a route sees it, and the ways to answer.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { errorAnswer } from "./error-body.ts";

export interface Exchange {
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
  /** The request's path, decoded; without its query. */
  readonly path: string;
  /** The client's X-Request-Id, or a fresh one. */
  readonly requestId: string;
}

/** Answers with `value` as JSON. */
export function sendJson(res: ServerResponse, status: number, value: unknown): void {
  send(res, status, "application/json; charset=utf-8", JSON.stringify(value));
}

/** Answers with a text of the given media type. */
export function send(res: ServerResponse, status: number, contentType: string, text: string): void {
  if (res.headersSent || res.destroyed) return;
  const body = Buffer.from(text, "utf8");
  res.writeHead(status, { "Content-Type": contentType, "Content-Length": body.length }).end(body);
}

/** Answers with an error in OpenAI's shape; a client that is told to come back is told when. */
export function sendError({ res, requestId }: Pick<Exchange, "res" | "requestId">, error: unknown): void {
  const { status, body } = errorAnswer(error, requestId);
  if (!res.headersSent && (status === 503 || status === 429)) res.setHeader("Retry-After", "1");
  sendJson(res, status, body);
}
