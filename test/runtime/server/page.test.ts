import { existsSync } from "node:fs";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import type { FakeLlmOptions } from "../../support/fake-llm.ts";
import { serveFake, until } from "./serve-fake.ts";

const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const hasChromium = existsSync(executablePath);
if (!hasChromium) console.warn(`the web chat is not tested: no Chromium at ${executablePath} (set CHROMIUM to its path)`);

describe.skipIf(!hasChromium)(`the web chat${hasChromium ? "" : " (skipped: no Chromium)"}`, () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
  });
  afterAll(() => browser?.close());

  async function open(options: FakeLlmOptions = {}, serverOptions: { apiKey?: string } = {}) {
    const served = await serveFake(options, serverOptions);
    const page = await browser.newPage({ viewport: { width: 900, height: 700 } });
    page.setDefaultTimeout(20_000);
    const complaints: string[] = [];
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error" && !message.text().includes("Failed to load resource")) complaints.push(message.text());
    });
    onTestFinished(async () => {
      await page.close();
      expect(complaints).toEqual([]); // no script error, nothing the content policy had to block
    });
    await page.goto(served.url);
    return { ...served, page };
  }

  const say = async (page: Page, text: string) => {
    await page.getByLabel("Message").fill(text);
    await page.keyboard.press("Enter");
  };
  const answers = (page: Page) => page.locator(".assistant .body");

  it("shows the stream as it comes, its speed, and sends the conversation on", async () => {
    const { page, llm } = await open({
      reply: (prompt) => `Answer to ${prompt.split("\n").length} lines. ${"word ".repeat(15)}`,
      delayMs: 20,
    });
    await say(page, "hello");
    await page.locator(".assistant.streaming .body", { hasText: "Answer to 2 lines. word" }).waitFor();
    const early = (await answers(page).textContent())!.length;
    await page.getByRole("button", { name: "Try again" }).waitFor();
    expect((await answers(page).textContent())!.length).toBeGreaterThan(early);
    expect(await page.locator(".numbers").textContent()).toMatch(
      /^\d+\.\d tokens\/s · 22 tokens · first token after \d\.\d\d s$/,
    );
    await say(page, "and again");
    await page.getByText("Answer to 4 lines.").waitFor();
    expect(llm.rendered[1]!.messages.map((message) => message.role)).toEqual(["user", "assistant", "user"]);
  });

  it("stops by button and by Escape, and keeps what there is", async () => {
    const { page, llm } = await open({ reply: () => "word ".repeat(300), delayMs: 5 });
    for (const stop of [() => page.getByRole("button", { name: "Stop" }).click(), () => page.keyboard.press("Escape")]) {
      await say(page, "go on");
      await page.locator(".streaming .body", { hasText: "word word" }).waitFor();
      const before = llm.aborted.length;
      await stop();
      await until(() => llm.aborted.length === before + 1, "the request is aborted");
      await page.locator(".numbers", { hasText: "stopped" }).last().waitFor();
    }
    expect(await answers(page).first().textContent()).toMatch(/^word word/);
    expect(llm.rendered[1]!.messages).toHaveLength(3);
  });

  it("renders Markdown without ever parsing HTML", async () => {
    const reply =
      '# Title\n\n**bold** and `code` <img src=x onerror="document.title=1">\n\n- one\n- two\n\n```js\nlet a = "<b>";\n```\n\n[x](javascript:alert(1)) [y](https://example.com/)';
    const { page } = await open({ reply: () => reply, modelName: "pebble" });
    await page.getByText("often wrong").waitFor(); // what a small model is
    await say(page, "x");
    await page.getByRole("button", { name: "Try again" }).waitFor();
    const body = answers(page);
    expect(await body.locator("h3").textContent()).toBe("Title");
    expect(await body.locator("strong").textContent()).toBe("bold");
    expect(await body.locator("li").allTextContents()).toEqual(["one", "two"]);
    expect(await body.locator("pre code").textContent()).toBe('let a = "<b>";');
    expect(await body.locator("img, script").count()).toBe(0);
    expect(await body.locator("a").evaluateAll((links) => links.map((link) => link.getAttribute("href")))).toEqual([
      "https://example.com/",
    ]);
    expect(await page.title()).toBe("pebble · Ingot");
  });

  it("sends the settings, keeps them, and starts anew", async () => {
    const { page, llm } = await open();
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("System prompt").fill("be brief");
    await page.getByLabel("Temperature").fill("0.3");
    await page.getByLabel("Most tokens").fill("7");
    await page.getByRole("button", { name: "Close settings" }).click();
    await page.reload();
    await say(page, "hello");
    await page.getByRole("button", { name: "Try again" }).waitFor();
    expect(llm.rendered[0]!.messages[0]).toEqual({ role: "system", content: "be brief" });
    expect(llm.requests[0]!.params).toMatchObject({ temperature: 0.3, maxTokens: 7 });
    await page.getByRole("button", { name: "New chat" }).click();
    expect(await answers(page).count()).toBe(0);
    await page.getByLabel("Message").fill("one");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("two");
    await page.keyboard.press("Enter");
    await until(() => llm.rendered.length === 2, "the second conversation is sent"); // the page shows it before it sends it
    expect(llm.rendered[1]!.messages.at(-1)).toEqual({ role: "user", content: "one\ntwo" });
  });

  it("asks for the API key and goes on with it", async () => {
    const { page } = await open({}, { apiKey: "secret" });
    await page.getByLabel("API key").fill("secret");
    await page.keyboard.press("Tab");
    await page.locator("#model", { hasText: "fake" }).waitFor();
    await page.keyboard.press("Escape");
    await say(page, "hello");
    await page.getByText("You said: hello").waitFor();
  });

  it("shows what went wrong and tries again", async () => {
    const { page } = await open({ reply: () => "word ".repeat(600) });
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("Most tokens").fill("5000");
    await page.keyboard.press("Escape");
    await say(page, "hello");
    expect(await page.getByRole("alert").textContent()).toMatch(/max_tokens 5000 make/);
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("Most tokens").fill("20");
    await page.keyboard.press("Escape");
    await page.getByRole("button", { name: "Try again" }).click();
    await page.locator(".numbers", { hasText: "cut off at the token limit" }).waitFor();
    expect(await page.getByRole("alert").count()).toBe(0);
  });
});
