import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { commandLine, pebble } from "../support/ingot-command.ts";

const { run, start, scratch } = commandLine("serve");
const engine = join(scratch, "pebble-engine");
const flags = ["--port", "0", "--kv-cache-memory", "64MiB"];

beforeAll(async () => {
  const { code, stderr } = await run(["compile", pebble, "-o", engine, "--max-model-len", "1024"]);
  expect(code, stderr).toBe(0);
});

async function serve(more: readonly string[] = [], env: NodeJS.ProcessEnv = {}) {
  const server = start(["serve", engine, ...flags, ...more], { env });
  const [url] = await server.until(/http:\/\/127\.0\.0\.1:\d+/);
  return { ...server, url };
}

const story = (stream: boolean, more: object = {}) => ({
  method: "POST",
  headers: { "content-type": "application/json", authorization: "Bearer secret" },
  body: JSON.stringify({ model: "pebble", prompt: "Once upon a time", max_tokens: 900, ignore_eos: true, stream, ...more }),
});

describe("ingot serve", () => {
  it("answers health, the web chat and completions, and ends with 0 on SIGTERM and on SIGINT", async () => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      const { url, child, ended } = await serve();
      expect((await fetch(`${url}/health`)).status).toBe(200);
      expect(await (await fetch(url)).text()).toContain("<!doctype html>");
      const answer = await fetch(`${url}/v1/completions`, story(false, { max_tokens: 4 }));
      expect(await answer.json()).toMatchObject({ model: "pebble", usage: { completion_tokens: 4 } });
      child.kill(signal);
      const { code, stdout, stderr } = await ended;
      expect({ code, stdout: stdout.split("\n").length }).toEqual({ code: 0, stdout: 2 });
      expect(stderr).toBe("draining: running requests finish, new ones are refused …\n");
    }
  });

  it("finishes a running answer after SIGTERM while it refuses new ones", async () => {
    const { url, child, ended, until } = await serve();
    const response = await fetch(`${url}/v1/completions`, story(true));
    child.kill("SIGTERM");
    await until(/draining/);
    const refused = await fetch(`${url}/v1/completions`, story(false)).then(
      (r) => r.status,
      () => "no connection",
    );
    expect([503, "no connection"]).toContain(refused);
    const text = await response.text();
    expect(text.trimEnd().endsWith("data: [DONE]")).toBe(true);
    expect(text).toContain('"finish_reason":"length"');
    expect((await ended).code).toBe(0);
  });

  it("ends at once on the second interrupt", async () => {
    const { url, child, ended, until } = await serve();
    const requests = Array.from({ length: 16 }, () => fetch(`${url}/v1/completions`, story(true)).then((r) => r.text()));
    for (const request of requests) request.catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 100));
    child.kill("SIGINT");
    await until(/draining/);
    child.kill("SIGINT");
    expect([0, 130]).toContain((await ended).code);
    await Promise.allSettled(requests);
  });

  it("says where it listens as one JSON line", async () => {
    const { child, ended } = await serve(["--json"]);
    child.kill("SIGTERM");
    const { stdout } = await ended;
    expect(JSON.parse(stdout)).toMatchObject({ url: expect.stringMatching(/^http/), model: "pebble" });
  });

  it("takes its key and its name from INGOT_… variables", async () => {
    const env = { INGOT_API_KEY: "secret", INGOT_SERVED_MODEL_NAME: "stone" };
    const { url, child, ended } = await serve([], env);
    expect((await fetch(`${url}/v1/models`)).status).toBe(401);
    const models = await fetch(`${url}/v1/models`, { headers: { authorization: "Bearer secret" } });
    expect(await models.json()).toMatchObject({ data: [{ id: "stone" }] });
    child.kill("SIGTERM");
    expect((await ended).code).toBe(0);
  });

  it("names the port that is in use", async () => {
    const first = await serve();
    const port = new URL(first.url).port;
    const { code, stdout, stderr } = await run(["serve", engine, "--port", port, "--kv-cache-memory", "64MiB"]);
    expect({ code, stdout, stderr }).toEqual({
      code: 1,
      stdout: "",
      stderr: `ingot: cannot listen on 127.0.0.1 port ${port}: something else listens there; choose another port\n`,
    });
    first.child.kill("SIGTERM");
    await first.ended;
  });

  it("refuses to listen beyond loopback without a key", async () => {
    const { code, stdout, stderr } = await run(["serve", engine, ...flags, "--host", "0.0.0.0"]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toMatch(/^ingot: --host 0\.0\.0\.0 lets everyone .*--api-key.*--allow-insecure-host/);
  });
});
