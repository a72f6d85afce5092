/**
 * What operators and clients ask about the server itself: models, health, version, metrics.
 */
import { RequestError } from "../errors.ts";
import { type Exchange, send, sendError, sendJson } from "./exchange.ts";
import { checkModel } from "./generation.ts";
import type { ServerContext } from "./server-context.ts";

/** `GET /v1/models`. */
export function listModels(context: ServerContext, { res }: Exchange): void {
  sendJson(res, 200, { object: "list", data: [modelCard(context)] });
}

/** `GET /v1/models/{id}`. @throws RequestError 404. */
export function showModel(context: ServerContext, { res, path }: Exchange): void {
  checkModel(path.slice("/v1/models/".length), context.modelName); // ids may hold slashes
  sendJson(res, 200, modelCard(context));
}

/** `GET /health`: 200 while requests are served, 503 while shutting down or after the engine has stopped. */
export function health(context: ServerContext, exchange: Exchange): void {
  const why = context.inFlight.isDraining ? "the server is shutting down" : context.llm.failure?.message;
  if (why === undefined) sendJson(exchange.res, 200, { status: "ok" });
  else sendError(exchange, new RequestError(503, why, { code: context.inFlight.isDraining ? "shutting_down" : "engine_error" }));
}

/** `GET /version`. */
export function version(context: ServerContext, { res }: Exchange): void {
  sendJson(res, 200, { version: context.version });
}

/** `GET /metrics`. */
export async function metrics(context: ServerContext, { res }: Exchange): Promise<void> {
  send(res, 200, context.metrics.contentType, await context.metrics.text());
}

function modelCard({ modelName, llm, created }: ServerContext): object {
  return {
    id: modelName,
    object: "model",
    created,
    owned_by: "ingot",
    root: llm.modelName,
    parent: null,
    max_model_len: llm.maxModelLen,
  };
}
