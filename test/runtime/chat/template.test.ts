/** Chat templates: the sample model's recorded prompts, what transformers promises templates, and templates that misbehave. */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type ChatMessage, ChatTemplate } from "../../../runtime/chat/template.ts";
import { RequestError } from "../../../runtime/errors.ts";
import { Tokenizer } from "../../../runtime/tokenizer/tokenizer.ts";

const user: ChatMessage = { role: "user", content: "Hi" };
const render = (source: string, request: Partial<Parameters<ChatTemplate["render"]>[0]> = {}): string =>
  new ChatTemplate({ default: source }, { bos_token: "<s>", eos_token: "</s>" }).render({ messages: [user], ...request });
const refusal = (run: () => string): RequestError => {
  try {
    run();
  } catch (error) {
    if (error instanceof RequestError) return error;
    throw error;
  }
  throw new Error("expected a RequestError");
};

describe("the sample model", () => {
  it("has its 12 chats rendered and encoded as recorded", async () => {
    const folder = "../shared/models/pebble";
    const template = (await ChatTemplate.load(folder))!;
    const tokenizer = await Tokenizer.load(folder);
    const { chats } = JSON.parse(await readFile(`${folder}/reference.json`, "utf8"));
    expect(chats).toHaveLength(12);
    for (const chat of chats) {
      const { messages, tools, enable_thinking } = chat;
      const templateKwargs = enable_thinking === undefined ? {} : { enable_thinking };
      const rendered = template.render({ messages, tools, templateKwargs });
      expect(rendered).toBe(chat.rendered);
      expect(tokenizer.encode(rendered, { addSpecialTokens: false })).toEqual(chat.ids);
    }
  });
});

describe("a template", () => {
  it("gets special tokens, messages, and a generation prompt unless told otherwise", () => {
    const source =
      "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m['content'] }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}>{% endif %}";
    expect(render(source)).toBe("<s>user: Hi</s>>");
    expect(render(source, { addGenerationPrompt: false })).toBe("<s>user: Hi</s>");
  });

  it("gets tools and documents as none, not undefined, and further variables by name", () => {
    const source = "{{ tools is none }} {{ documents is none }} {{ enable_thinking is defined }} {{ mood }}";
    expect(render(source, { templateKwargs: { mood: "calm" } })).toBe("true true false calm");
    expect(render(source, { tools: [], templateKwargs: { enable_thinking: false, tools: "mine" } })).toBe("true true true ");
  });

  it("has blocks trimmed as transformers trims them", () => {
    expect(render("  {% if true %}\na\n  {% endif %}\nb\n")).toBe("a\nb");
  });

  it("writes JSON as Python does", () => {
    const tools = [{ name: "f", é: [1, 2.5, true, null, "<a>&'\"\n"] }];
    expect(render("{{ tools[0] | tojson }}", { tools })).toBe('{"name": "f", "é": [1, 2.5, true, null, "<a>&\'\\"\\n"]}');
    expect(render("{{ tools | tojson(indent=2) }}", { tools: [{ a: [1] }] })).toBe('[\n  {\n    "a": [\n      1\n    ]\n  }\n]');
  });

  it("keeps names that objects inherit to itself", () => {
    expect(render("{{ constructor is defined }} {{ messages[0].__proto__ is defined }}")).toBe("false false");
  });

  it("is chosen by name: tool_use when there are tools", () => {
    const template = new ChatTemplate({ default: "plain", tool_use: "tools" });
    expect(template.render({ messages: [user] })).toBe("plain");
    expect(template.render({ messages: [user], tools: [{}] })).toBe("tools");
    expect(new ChatTemplate({ rag: "only" }).render({ messages: [user] })).toBe("only");
    const error = refusal(() => new ChatTemplate({ rag: "a", other: "b" }).render({ messages: [user] }));
    expect(error.message).toMatch(/"rag", "other"; expected one named "default"/);
  });
});

describe("strftime_now", () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["Date"] });
    vi.setSystemTime(new Date(2025, 6, 4, 15, 5, 9));
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it("writes the date in English whatever the locale", () => {
    expect(render("{{ strftime_now('%d %b %Y') }}")).toBe("04 Jul 2025");
    expect(render("{{ strftime_now('%A, %B %-d, %Y %I:%M:%S %p %H %j %y %% %Q') }}")).toBe(
      "Friday, July 4, 2025 03:05:09 PM 15 185 25 % %Q",
    );
  });
});

describe("a template that goes wrong is a 400", () => {
  it("with its own words when it refuses the messages", () => {
    const error = refusal(() => render("{{ raise_exception('Conversation roles must alternate') }}"));
    expect(error.status).toBe(400);
    expect(error.param).toBe("messages");
    expect(error.message).toBe("the model's chat template refuses these messages: Conversation roles must alternate");
  });

  it("with the interpreter's words when it fails", () => {
    expect(refusal(() => render("{{ messages | nosuchfilter }}")).message).toMatch(
      /template fails on these messages: .*nosuchfilter/,
    );
    expect(refusal(() => render("{% for m in messages %}")).message).toMatch(/cannot be parsed: .*Use completions/);
  });

  it("when it would not end or asks for too much", () => {
    const many = "{% for i in range(100000) %}";
    const endless = `${many.repeat(3)}{% endfor %}{% endfor %}{% endfor %}`;
    expect(refusal(() => render(endless)).message).toMatch(/still running after 5000 ms/);
    expect(refusal(() => render("{{ range(1000000000) }}")).message).toMatch(/range\(\) of 1000000000 is too long/);
  }, 20_000);

  it("counts as Python does within the limit", () => {
    expect(render("{% for i in range(3) %}{{ i }}{% endfor %} {% for i in range(5, 0, -2) %}{{ i }}{% endfor %}")).toBe(
      "012 531",
    );
  });
});

describe("a folder", () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "template-"));
  });
  afterEach(() => rm(folder, { recursive: true }));
  const write = (name: string, value: unknown) =>
    writeFile(join(folder, name), typeof value === "string" ? value : JSON.stringify(value));

  it("without a template has none", async () => {
    expect(await ChatTemplate.load(folder)).toBeUndefined();
    await write("tokenizer_config.json", { eos_token: "x", chat_template: null });
    expect(await ChatTemplate.load(folder)).toBeUndefined();
  });

  it("gives chat_template.jinja before tokenizer_config.json, with its special tokens in either spelling", async () => {
    await write("tokenizer_config.json", {
      bos_token: { content: "<b>", lstrip: false, special: true },
      eos_token: "<e>",
      chat_template: "config {{ bos_token }}{{ eos_token }}",
    });
    expect((await ChatTemplate.load(folder))?.render({ messages: [user] })).toBe("config <b><e>");
    await write("chat_template.jinja", "file {{ bos_token }}");
    expect((await ChatTemplate.load(folder))?.render({ messages: [user] })).toBe("file <b>");
  });

  it("may list named templates", async () => {
    await write("tokenizer_config.json", {
      chat_template: [
        { name: "default", template: "d" },
        { name: "tool_use", template: "t" },
      ],
    });
    const template = await ChatTemplate.load(folder);
    expect(template?.render({ messages: [user] })).toBe("d");
    expect(template?.render({ messages: [user], tools: [{ type: "function" }] })).toBe("t");
  });

  it("takes special tokens from special_tokens_map.json where the config has none", async () => {
    await write("special_tokens_map.json", { bos_token: { content: "<m>" } });
    await write("chat_template.jinja", "{{ bos_token }}");
    expect((await ChatTemplate.load(folder))?.render({ messages: [user] })).toBe("<m>");
  });

  it("with a broken tokenizer_config.json is refused by name", async () => {
    await write("tokenizer_config.json", "{");
    await expect(ChatTemplate.load(folder)).rejects.toThrow(/tokenizer_config\.json is not JSON/);
    await write("tokenizer_config.json", { chat_template: 5 });
    await expect(ChatTemplate.load(folder)).rejects.toThrow(/tokenizer_config\.json: chat_template/);
  });
});
