/**
 * The web chat at `/`: the files of web/, read once, served with a policy that lets them load nothing from elsewhere.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { EngineError } from "../errors.ts";
import type { Exchange } from "./exchange.ts";
import type { Route } from "./router.ts";

const FILES = [
  { path: "/", file: "index.html", type: "text/html; charset=utf-8" },
  { path: "/style.css", file: "style.css", type: "text/css; charset=utf-8" },
  { path: "/app.js", file: "app.js", type: "text/javascript; charset=utf-8" },
  { path: "/markdown.js", file: "markdown.js", type: "text/javascript; charset=utf-8" },
] as const;

const CONTENT_SECURITY_POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** Routes of the page and its files, answered without a key: the page asks for it. @throws EngineError when the files are not there. */
export function pageRoutes(): readonly Route[] {
  const folder = webFolder();
  return FILES.map(({ path, file, type }) => {
    const body = readFileSync(new URL(file, folder));
    const etag = `"${createHash("sha256").update(body).digest("base64url").slice(0, 22)}"`;
    const headers = {
      "Content-Type": type,
      "Cache-Control": "no-cache",
      "Content-Security-Policy": CONTENT_SECURITY_POLICY,
      "Referrer-Policy": "no-referrer",
      ETag: etag,
    };
    const handle = ({ req, res }: Exchange): void => {
      if (req.headers["if-none-match"] === etag) res.writeHead(304, headers).end();
      else res.writeHead(200, { ...headers, "Content-Length": body.length }).end(body);
    };
    return { method: "GET", path, isOpen: true, handle };
  });
}

/** Sources stand in runtime/server/, the bundle in dist/: the files are beside the one, a folder over from the other. */
function webFolder(): URL {
  const candidates = ["./web/", "../runtime/server/web/"].map((path) => new URL(path, import.meta.url));
  const found = candidates.find((candidate) => existsSync(new URL("index.html", candidate)));
  if (found !== undefined) return found;
  throw new EngineError(`the web chat's files are missing (${fileURLToPath(candidates[0]!)}): install the package again`);
}
