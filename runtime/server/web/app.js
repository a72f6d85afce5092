/**
 * The web chat: one conversation in memory, sent whole with every message, answered by a stream of events.
 *
 * No framework and no build step: this file runs in the browser as it stands. Markdown is rendered by markdown.js.
 */
import { renderMarkdown } from "./markdown.js";

const $ = (id) => document.getElementById(id);
const scroller = $("scroller");
const list = $("messages");
const input = $("input");
const settings = $("settings");

/** What has been said, as the API takes it. */
let conversation = [];
/** Stops the answer that is being written; undefined when none is. */
let answering;

const SUGGESTIONS = {
  pebble: ["Tell me a story about a fox", "What is the sea?", "Write a short poem about rain"],
  other: ["Tell me a story about a fox", "Explain how tides work", "Write a haiku about rain"],
};

// Settings: remembered by the browser; the key only until the tab closes.

const FIELDS = [
  { id: "system", store: "localStorage" },
  { id: "temperature", store: "localStorage" },
  { id: "max-tokens", store: "localStorage" },
  { id: "theme", store: "localStorage" },
  { id: "api-key", store: "sessionStorage" },
];

function loadSettings() {
  for (const { id, store } of FIELDS) {
    const field = $(id);
    try {
      field.value = window[store].getItem(`ingot.${id}`) ?? field.value;
    } catch {
      // storage is off in this browser: settings last as long as the page
    }
    field.addEventListener("input", () => {
      try {
        window[store].setItem(`ingot.${id}`, field.value);
      } catch {
        // as above
      }
      if (id === "theme") applyTheme();
    });
  }
  $("api-key").addEventListener("change", loadModel);
  applyTheme();
}

function applyTheme() {
  document.documentElement.dataset.theme = $("theme").value;
}

function headers() {
  const key = $("api-key").value.trim();
  return { "Content-Type": "application/json", ...(key === "" ? {} : { Authorization: `Bearer ${key}` }) };
}

function requestBody() {
  const system = $("system").value.trim();
  const temperature = $("temperature");
  const maxTokens = $("max-tokens");
  return {
    messages: system === "" ? conversation : [{ role: "system", content: system }, ...conversation],
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
    ...(temperature.value === "" ? {} : { temperature: temperature.valueAsNumber }),
    ...(maxTokens.value === "" ? {} : { max_tokens: maxTokens.valueAsNumber }),
  };
}

async function loadModel() {
  let name = "";
  try {
    const response = await fetch("v1/models", { headers: headers() });
    if (response.status === 401) return askForKey();
    name = (await response.json()).data[0].id;
  } catch {
    say("The server does not answer.");
    return;
  }
  $("model").textContent = name;
  document.title = `${name} · Ingot`;
  const isPebble = /pebble/i.test(name);
  $("note").hidden = !isPebble;
  showSuggestions(isPebble ? SUGGESTIONS.pebble : SUGGESTIONS.other);
}

function askForKey() {
  if (!settings.open) settings.showModal();
  $("api-key").focus();
  say("This server asks for an API key.");
}

function showSuggestions(texts) {
  $("suggestions").replaceChildren(
    ...texts.map((text) => {
      const item = document.createElement("li");
      item.append(button(text, () => submit(text)));
      return item;
    }),
  );
}

// The conversation.

function submit(text) {
  if (answering !== undefined || text.trim() === "") return;
  conversation.push({ role: "user", content: text });
  const message = addMessage("user");
  message.textContent = text;
  $("welcome").hidden = true;
  input.value = "";
  onInput();
  scrollDown();
  void answer();
}

/** Asks for the next message and shows it as it comes. */
async function answer() {
  list.querySelector(".retry")?.remove();
  const view = answerView();
  const mine = new AbortController();
  answering = mine;
  setBusy(true);
  let text = "";
  let outcome = "Answer complete.";
  try {
    const init = { method: "POST", headers: headers(), body: JSON.stringify(requestBody()), signal: mine.signal };
    view.start();
    const response = await fetch("v1/chat/completions", init);
    if (!response.ok) {
      if (response.status === 401) askForKey();
      throw new Error(
        (await response.json().catch(() => undefined))?.error?.message ?? `The server answered ${response.status}.`,
      );
    }
    let isComplete = false;
    for await (const data of events(response.body)) {
      if (data === "[DONE]") {
        isComplete = true;
        continue;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      text += chunk.choices[0]?.delta.content ?? "";
      view.show(text, chunk.usage?.completion_tokens, chunk.choices[0]?.finish_reason);
    }
    if (!isComplete) throw new Error("The connection ended before the answer was complete.");
  } catch (error) {
    if (mine.signal.aborted) {
      view.stopped();
      outcome = "Stopped.";
    } else {
      outcome = error instanceof TypeError ? "The server does not answer; is it still running?" : error.message;
      view.failed(outcome);
    }
  }
  if (answering !== mine) return; // a new chat has begun meanwhile
  answering = undefined;
  if (text !== "") conversation.push({ role: "assistant", content: text });
  view.finish(text);
  setBusy(false);
  say(outcome);
}

/** The data of server-sent events, one after the other. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    buffer += value;
    for (let end = buffer.indexOf("\n\n"); end >= 0; end = buffer.indexOf("\n\n")) {
      const event = buffer.slice(0, end);
      buffer = buffer.slice(end + 2);
      if (event.startsWith("data: ")) yield event.slice(6);
    }
  }
}

/** One answer on the page: its text, drawn at most once a frame, and the numbers below it. */
function answerView() {
  const message = addMessage("assistant");
  message.classList.add("streaming");
  const body = document.createElement("div");
  body.className = "body";
  const meta = document.createElement("div");
  meta.className = "meta";
  const numbers = document.createElement("span");
  numbers.className = "numbers";
  meta.append(numbers);
  message.append(body, meta);
  let startMs = 0;
  let firstMs;
  let lastMs = 0;
  let tokens = 0;
  let end = "";
  let pending;
  let drawn = 0;

  const draw = (text) => {
    const follows = isAtEnd();
    renderMarkdown(body, text);
    numbers.textContent = describe();
    if (follows) scrollDown();
  };
  const describe = () => {
    if (firstMs === undefined) return end;
    const seconds = (lastMs - firstMs) / 1000;
    const rate = tokens > 1 && seconds > 0 ? `${((tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
    const first = `first token after ${((firstMs - startMs) / 1000).toFixed(2)} s`;
    return [end, rate, `${tokens} ${tokens === 1 ? "token" : "tokens"}`, first].filter((part) => part !== "").join(" · ");
  };
  return {
    start: () => {
      startMs = performance.now();
      scrollDown();
    },
    show: (text, completionTokens = 0, finishReason = null) => {
      if (completionTokens > tokens) {
        lastMs = performance.now();
        firstMs ??= lastMs;
        tokens = completionTokens;
      }
      if (finishReason === "length") end = "cut off at the token limit";
      pending = text;
      drawn ||= requestAnimationFrame(() => {
        drawn = 0;
        draw(pending);
      });
    },
    stopped: () => {
      end = "stopped";
    },
    failed: (why) => {
      const error = document.createElement("p");
      error.className = "error";
      error.setAttribute("role", "alert");
      error.textContent = why;
      meta.before(error);
    },
    finish: (text) => {
      cancelAnimationFrame(drawn);
      message.classList.remove("streaming");
      draw(text);
      if (navigator.clipboard && text !== "") {
        meta.append(copyButton("Copy", () => text));
        for (const block of body.querySelectorAll(".code")) {
          block.firstChild.append(copyButton("Copy code", () => block.querySelector("code").textContent));
        }
      }
      meta.append(button("Try again", () => retry(message), "quiet retry"));
      if (isAtEnd()) scrollDown();
    },
  };
}

function retry(message) {
  if (answering !== undefined) return;
  if (conversation.at(-1)?.role === "assistant") conversation.pop();
  message.remove();
  void answer();
}

function newChat() {
  answering?.abort();
  answering = undefined;
  conversation = [];
  list.replaceChildren();
  $("welcome").hidden = false;
  setBusy(false);
  say("New chat.");
}

// The page.

function addMessage(role) {
  const message = document.createElement("article");
  message.className = `message ${role}`;
  message.setAttribute("aria-label", role === "user" ? "You" : "Model");
  list.append(message);
  return message;
}

function button(text, onClick, className = "") {
  const node = document.createElement("button");
  node.type = "button";
  node.className = className;
  node.textContent = text;
  node.addEventListener("click", onClick);
  return node;
}

function copyButton(label, read) {
  const node = button(
    label,
    async () => {
      await navigator.clipboard.writeText(read());
      node.textContent = "Copied";
      setTimeout(() => {
        node.textContent = label;
      }, 1500);
    },
    "quiet",
  );
  return node;
}

function setBusy(isBusy) {
  $("stop").hidden = !isBusy;
  $("send").hidden = isBusy;
  list.setAttribute("aria-busy", String(isBusy)); // screen readers wait for the whole answer
  onInput();
  if (!isBusy && matchMedia("(hover: hover)").matches && !settings.open) input.focus();
}

function onInput() {
  $("send").disabled = input.value.trim() === "";
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
}

function isAtEnd() {
  return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
}

function scrollDown() {
  scroller.scrollTop = scroller.scrollHeight;
}

/** Tells what happened to those who do not see it. */
function say(text) {
  $("status").textContent = text;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit(input.value);
});
input.addEventListener("input", onInput);
input.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit(input.value);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !settings.open) answering?.abort();
});
$("stop").addEventListener("click", () => answering?.abort());
$("new-chat").addEventListener("click", newChat);
$("open-settings").addEventListener("click", () => settings.showModal());
settings.addEventListener("click", (event) => {
  if (event.target === settings) settings.close(); // a click beside the drawer
});

loadSettings();
setBusy(false);
void loadModel();
