/**
 * A server on a fake model for the tests of this folder, closed when the test ends.
 */
import { onTestFinished } from "vitest";
import { createServer, type ModelServer, type ServerOptions } from "../../../runtime/server/server.ts";
import { FakeLlm, type FakeLlmOptions } from "../../support/fake-llm.ts";

export interface Served {
  readonly llm: FakeLlm;
  readonly url: string;
  readonly port: number;
  readonly server: ModelServer;
  /** What reached `onError`. */
  readonly errors: unknown[];
  post(path: string, body: unknown, init?: RequestInit): Promise<Response>;
}

export async function serveFake(options: FakeLlmOptions = {}, serverOptions: Partial<ServerOptions> = {}): Promise<Served> {
  const llm = new FakeLlm(options);
  const errors: unknown[] = [];
  const onError = (error: unknown) => void errors.push(error);
  const server = createServer(llm, {
    host: "127.0.0.1",
    port: 0,
    version: "1.2.3",
    drainTimeoutMs: 100,
    onError,
    ...serverOptions,
  });
  const { url, port } = await server.listen();
  onTestFinished(() => server.close());
  const post = (path: string, body: unknown, init: RequestInit = {}) =>
    fetch(url + path, {
      method: "POST",
      body: typeof body === "string" ? body : JSON.stringify(body),
      ...init,
      headers: { "Content-Type": "application/json", ...init.headers },
    });
  return { llm, url, port, server, errors, post };
}

export const hello = { messages: [{ role: "user", content: "hello there" }] };

/** The data of every event of a stream, parsed but for `[DONE]`. */
export async function readEvents(response: Response): Promise<unknown[]> {
  const events = (await response.text()).split("\n\n");
  if (events.pop() !== "") throw new Error("the stream does not end with an empty line");
  return events.map((event) => {
    if (!event.startsWith("data: ")) throw new Error(`not an event: ${event}`);
    return event === "data: [DONE]" ? "[DONE]" : JSON.parse(event.slice(6));
  });
}

/** Waits until `holds`, at most ten seconds. */
export async function until(holds: () => boolean, what: string): Promise<void> {
  for (const end = performance.now() + 10_000; !holds(); ) {
    if (performance.now() > end) throw new Error(`waited in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** The body, in the type the test expects of it. */
export async function json<T>(response: Response | Promise<Response>): Promise<T> {
  return (await (await response).json()) as T;
}
