/**
 * The routing table: which function answers which path and method.
 */
import { RequestError } from "../errors.ts";
import type { Exchange } from "./exchange.ts";

export interface Route {
  readonly method: "GET" | "POST";
  /** A literal path; one that ends in `/*` matches every longer path. */
  readonly path: string;
  /** Whether it is answered without the API key. */
  readonly isOpen?: boolean;
  handle(exchange: Exchange): void | Promise<void>;
}

/**
 * Finds the route of a request; HEAD is answered as GET.
 * @throws RequestError 404 for an unknown path; 405 with `onMethods` told the methods it has.
 */
export function findRoute(
  routes: readonly Route[],
  method: string,
  path: string,
  onMethods: (methods: readonly string[]) => void,
): Route {
  const matching = routes.filter((route) =>
    route.path.endsWith("/*")
      ? path.startsWith(route.path.slice(0, -1)) && path.length >= route.path.length
      : path === route.path,
  );
  if (matching.length === 0) {
    const known = routes
      .filter((route) => route.path.startsWith("/v1/") && !route.path.endsWith("/*"))
      .map((route) => route.path);
    throw new RequestError(404, `there is nothing at ${path}; the API is at ${known.join(", ")}`, { code: "unknown_url" });
  }
  const wanted = method === "HEAD" ? "GET" : method;
  const route = matching.find((candidate) => candidate.method === wanted);
  if (route !== undefined) return route;
  const methods = matching.flatMap((candidate) => (candidate.method === "GET" ? ["GET", "HEAD"] : [candidate.method]));
  onMethods(methods);
  throw new RequestError(405, `${path} takes ${methods.join(", ")}, not ${method}`, { code: "method_not_allowed" });
}
