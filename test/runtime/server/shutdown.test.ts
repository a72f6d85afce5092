import { once } from "node:events";
import { connect } from "node:net";
import type { ChatCompletion } from "openai/resources/chat/completions";
import { describe, expect, it } from "vitest";
import type { ErrorBody } from "../../../runtime/server/error-body.ts";
import { hello, json, readEvents, serveFake, until } from "./serve-fake.ts";

const CHAT = "/v1/chat/completions";
const long = { ...hello, max_tokens: 400 };
const endless = { reply: () => "word ".repeat(300), delayMs: 5 };

describe("a client that goes away", () => {
  it.each([true, false])("ends its request in the engine (stream: %s)", async (stream) => {
    const { post, llm, errors } = await serveFake(endless);
    const controller = new AbortController();
    const response = post(CHAT, { ...long, stream }, { signal: controller.signal });
    response.catch(() => {});
    await until(() => llm.numRunning === 1, "the request runs");
    if (stream) await (await response).body!.getReader().read();
    controller.abort();
    await until(() => llm.numRunning === 0, "the request has ended");
    expect(llm.aborted).toHaveLength(1);
    expect(errors).toEqual([]);
  });

  it("counts as aborted, and others go on", async () => {
    const { post, llm, url } = await serveFake({ reply: () => "word ".repeat(20), delayMs: 5 });
    const controller = new AbortController();
    const gone = post(CHAT, long, { signal: controller.signal }).catch(() => "gone");
    const stays = post(CHAT, long);
    await until(() => llm.numRunning === 2, "both run");
    controller.abort();
    expect(await gone).toBe("gone");
    expect((await json<ChatCompletion>(stays)).choices[0]!.finish_reason).toBe("stop");
    const metrics = await (await fetch(`${url}/metrics`)).text();
    expect(metrics).toContain('vllm:request_success_total{model_name="fake",engine="0",finished_reason="abort"} 1');
  });

  it("who reads slowly holds the model back instead of filling memory", async () => {
    const { port, llm } = await serveFake({ reply: () => "w ".repeat(200_000) });
    const body = JSON.stringify({ ...hello, stream: true });
    const socket = connect(port, "127.0.0.1");
    socket.on("error", () => {});
    socket.write(`POST ${CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    socket.pause();
    await until(() => llm.numRunning === 1, "the request runs");
    let before = -1;
    for (let i = 0; i < 40 && before !== llm.stats().generationTokens; i++) {
      before = llm.stats().generationTokens;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(llm.stats().generationTokens).toBe(before); // it waits
    expect(before).toBeLessThan(200_000);
    socket.destroy();
    await until(() => llm.numRunning === 0, "the request has ended");
  });
});

describe("closing the server", () => {
  it("lets running requests finish and refuses new ones meanwhile", async () => {
    const { post, llm, url, server } = await serveFake({ reply: () => "word ".repeat(30), delayMs: 5 }, { drainTimeoutMs: 5000 });
    const running = post(CHAT, { ...long, stream: true });
    await until(() => llm.numRunning === 1, "the request runs");
    const closed = server.close();
    expect(server.close()).toBe(closed);
    const health = await fetch(`${url}/health`);
    expect([health.status, health.headers.get("retry-after")]).toEqual([503, "1"]);
    const refused = await post(CHAT, hello);
    expect(refused.status).toBe(503);
    expect((await json<ErrorBody>(refused)).error).toMatchObject({ code: "shutting_down", type: "server_error" });
    const events = await readEvents(await running);
    expect(events.at(-1)).toBe("[DONE]");
    expect(events.length).toBeGreaterThan(30);
    await closed;
    await expect(fetch(`${url}/health`)).rejects.toThrow();
  });

  it("aborts what is left at the deadline and says so", async () => {
    const { post, llm, server } = await serveFake(endless, { drainTimeoutMs: 50 });
    const streamed = post(CHAT, { ...long, stream: true });
    const whole = post(CHAT, long);
    await until(() => llm.numRunning === 2, "both run");
    await server.close();
    expect((await readEvents(await streamed)).at(-1)).toMatchObject({ error: { code: "shutting_down" } });
    expect((await whole).status).toBe(503);
    expect(llm.aborted).toHaveLength(2);
  });

  it("waits for a reader as long as the drain may take", async () => {
    const { port, server } = await serveFake({ reply: () => `${"w".repeat(250)} `.repeat(500) }, { drainTimeoutMs: 20_000 });
    const body = JSON.stringify({ ...hello, max_tokens: 400, n: 100 });
    const socket = connect(port, "127.0.0.1");
    socket.write(`POST ${CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    socket.pause();
    await new Promise((resolve) => setTimeout(resolve, 100));
    const closed = server.close();
    await new Promise((resolve) => setTimeout(resolve, 1500)); // longer than the last words take
    let text = "";
    socket.on("data", (data) => {
      text += data;
    });
    socket.resume();
    await once(socket, "close");
    await closed;
    const [head, answer] = text.split("\r\n\r\n") as [string, string];
    expect(answer).toHaveLength(Number(/content-length: (\d+)/i.exec(head)![1]));
  });

  it("does not wait for idle connections", async () => {
    const { url, server } = await serveFake();
    await (await fetch(`${url}/health`)).json(); // kept alive by the client
    const began = performance.now();
    await server.close();
    expect(performance.now() - began).toBeLessThan(4_000); // Node keeps them open for five seconds
  });

  it("works before it was ever opened, and twice on one port says whose fault it is", async () => {
    const { port, llm } = await serveFake();
    const { createServer } = await import("../../../runtime/server/server.ts");
    const second = createServer(llm, { host: "127.0.0.1", port, version: "0" });
    await expect(second.listen()).rejects.toThrow(`cannot listen on 127.0.0.1 port ${port}: something else listens there`);
    await second.close();
  });
});
