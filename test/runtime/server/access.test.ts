import { request } from "node:http";
import { describe, expect, it } from "vitest";
import { isLoopbackHost } from "../../../runtime/server/access.ts";
import type { ErrorBody } from "../../../runtime/server/error-body.ts";
import { createServer } from "../../../runtime/server/server.ts";
import { FakeLlm } from "../../support/fake-llm.ts";
import { hello, json, serveFake } from "./serve-fake.ts";

/** A GET with headers that fetch would not send. */
function get(url: string, headers: Record<string, string>): Promise<number> {
  return new Promise((resolve, reject) => {
    request(url, { headers }, (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    })
      .on("error", reject)
      .end();
  });
}

describe("an API key", () => {
  it("is asked for on every route but /health and the page", async () => {
    const { url, post } = await serveFake({}, { apiKey: "secret" });
    for (const path of ["/v1/models", "/v1/models/fake", "/metrics", "/version"]) {
      expect([path, (await fetch(url + path)).status]).toEqual([path, 401]);
    }
    for (const path of ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"]) {
      expect([path, (await post(path, {})).status]).toEqual([path, 401]);
    }
    for (const path of ["/", "/style.css", "/app.js", "/markdown.js", "/health"]) {
      expect([path, (await fetch(url + path)).status]).toEqual([path, 200]);
    }
  });

  it("opens with the right one only", async () => {
    const { url, post } = await serveFake({}, { apiKey: "secret" });
    const status = async (authorization: string) => (await fetch(`${url}/v1/models`, { headers: { authorization } })).status;
    expect(await status("Bearer secret")).toBe(200);
    expect(await status("bearer  secret")).toBe(200);
    for (const wrong of ["Bearer secre", "Bearer secrets", "secret", "Basic secret", "Bearer "])
      expect(await status(wrong)).toBe(401);
    const refused = await post("/v1/completions", {}, { headers: { authorization: "Bearer x" } });
    expect((await json<ErrorBody>(refused)).error).toMatchObject({ code: "invalid_api_key", type: "invalid_request_error" });
  });

  it("is needed to listen beyond this machine, unless that is asked for", () => {
    const options = { port: 0, version: "0" };
    const make = (more: object) => () => createServer(new FakeLlm(), { ...options, host: "0.0.0.0", ...more });
    expect(make({})).toThrow(/refusing to listen on 0\.0\.0\.0 without an API key/);
    expect(make({ apiKey: " " })).toThrow(/the API key is empty/);
    expect(make({ apiKey: "k" })).not.toThrow();
    expect(make({ allowInsecureHost: true })).not.toThrow();
  });

  it("is not needed on loopback addresses", () => {
    for (const host of ["127.0.0.1", "127.9.9.9", "localhost", "LOCALHOST", "::1", "[::1]"])
      expect(isLoopbackHost(host)).toBe(true);
    for (const host of ["0.0.0.0", "::", "10.0.0.1", "127.0.0.1.example.com", "localhost.example.com", ""]) {
      expect(isLoopbackHost(host)).toBe(false);
    }
  });
});

describe("without a key, a browser's page from elsewhere", () => {
  it("does not get in by a name that was rebound to this machine", async () => {
    const { url, port } = await serveFake();
    expect(await get(`${url}/v1/models`, { host: `evil.example:${port}` })).toBe(403);
    expect(await get(`${url}/v1/models`, { host: `localhost:${port}` })).toBe(200);
    expect(await get(`${url}/v1/models`, { host: `[::1]:${port}` })).toBe(200);
  });

  it("may not make requests, unless its origin is allowed", async () => {
    const { url, post } = await serveFake({}, { allowedOrigins: ["https://good.example"] });
    const status = async (origin: string) => (await post("/v1/chat/completions", hello, { headers: { origin } })).status;
    expect(await status("https://evil.example")).toBe(403);
    expect(await status("null")).toBe(403);
    expect(await status(url)).toBe(200); // the web chat itself
    expect(await status("https://good.example")).toBe(200);
  });
});

describe("CORS", () => {
  it("is off by default", async () => {
    const { url } = await serveFake({}, { apiKey: "k" });
    const headers = { origin: "https://good.example", authorization: "Bearer k" };
    const response = await fetch(`${url}/v1/models`, { headers });
    expect(response.headers.get("access-control-allow-origin")).toBeNull();
  });

  it("lets allowed origins ask first and read answers", async () => {
    const { url } = await serveFake({}, { apiKey: "k", allowedOrigins: ["https://good.example"] });
    const origin = "https://good.example";
    const preflight = await fetch(`${url}/v1/models`, {
      method: "OPTIONS",
      headers: { origin, "access-control-request-method": "GET", "access-control-request-headers": "authorization" },
    });
    expect(preflight.status).toBe(204);
    expect(preflight.headers.get("access-control-allow-origin")).toBe(origin);
    expect(preflight.headers.get("access-control-allow-headers")).toBe("authorization");
    const refused = await fetch(`${url}/v1/models`, { headers: { origin } });
    expect([refused.status, refused.headers.get("access-control-allow-origin")]).toEqual([401, origin]); // readable, but no way in
    const other = await fetch(`${url}/v1/models`, { headers: { origin: "https://evil.example", authorization: "Bearer k" } });
    expect(other.headers.get("access-control-allow-origin")).toBeNull();
  });
});

describe("request ids", () => {
  it("are the client's when they are harmless, else fresh ones", async () => {
    const { url } = await serveFake();
    const idOf = async (id: string) =>
      (await fetch(`${url}/health`, { headers: { "x-request-id": id } })).headers.get("x-request-id");
    expect(await idOf("trace-1.a:b_c")).toBe("trace-1.a:b_c");
    for (const bad of ["a b", "<x>", "a".repeat(129)]) expect(await idOf(bad)).toMatch(/^[0-9a-f]{32}$/);
  });

  it("stand beside errors too", async () => {
    const { url } = await serveFake();
    const response = await fetch(`${url}/nowhere`, { headers: { "x-request-id": "e1" } });
    expect([response.status, response.headers.get("x-request-id")]).toEqual([404, "e1"]);
  });
});
