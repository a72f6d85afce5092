/**
 * The little Markdown that models write, as DOM nodes: code, headings, lists, quotes, bold, italics, links.
 *
 * Nodes are made one by one and text is set as text: whatever a model writes, nothing of it is ever parsed as HTML.
 */

/** Replaces what is in `parent` by the rendering of `text`; an unfinished text (a fence not closed yet) is rendered as far as it goes. */
export function renderMarkdown(parent, text) {
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  const nodes = [];
  let i = 0;
  while (i < lines.length) {
    const line = lines[i];
    const fence = /^\s*(```+|~~~+)\s*([\w+#.-]*)/.exec(line);
    if (fence) {
      const code = [];
      for (i++; i < lines.length && !lines[i].trim().startsWith(fence[1]); i++) code.push(lines[i]);
      i++;
      nodes.push(codeBlock(code.join("\n"), fence[2]));
      continue;
    }
    const heading = /^(#{1,6})\s+(.*)$/.exec(line);
    if (heading) {
      nodes.push(element(`h${Math.min(heading[1].length + 2, 5)}`, inline(heading[2])));
      i++;
      continue;
    }
    const item = listItem(line);
    if (item) {
      const list = document.createElement(item.isOrdered ? "ol" : "ul");
      if (item.isOrdered && item.number !== 1) list.start = item.number;
      for (let next = item; next && next.isOrdered === item.isOrdered; next = listItem(lines[i] ?? "")) {
        const content = [next.text];
        for (i++; i < lines.length && /^\s{2,}\S/.test(lines[i]) && !listItem(lines[i]); i++) content.push(lines[i].trim());
        list.append(element("li", inline(content.join("\n"))));
      }
      nodes.push(list);
      continue;
    }
    if (line.startsWith(">")) {
      const quoted = [];
      for (; i < lines.length && lines[i].startsWith(">"); i++) quoted.push(lines[i].replace(/^>\s?/, ""));
      nodes.push(element("blockquote", inline(quoted.join("\n"))));
      continue;
    }
    if (line.trim() === "") {
      i++;
      continue;
    }
    const paragraph = [];
    for (; i < lines.length && lines[i].trim() !== "" && !startsBlock(lines[i], paragraph.length === 0); i++)
      paragraph.push(lines[i]);
    nodes.push(element("p", inline(paragraph.join("\n"))));
  }
  parent.replaceChildren(...nodes);
}

/** Whether a line interrupts a paragraph; its own first line never does. */
function startsBlock(line, isFirst) {
  return (
    !isFirst && (/^\s*(```|~~~)/.test(line) || /^#{1,6}\s/.test(line) || line.startsWith(">") || listItem(line) !== undefined)
  );
}

function listItem(line) {
  const match = /^\s*(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/.exec(line);
  return match ? { isOrdered: match[2] !== undefined, number: Number(match[2]), text: match[3] } : undefined;
}

function codeBlock(code, language) {
  const block = document.createElement("div");
  block.className = "code";
  const pre = element("pre", [element("code", [code])]);
  pre.tabIndex = 0; // wide code scrolls, also by keyboard
  pre.setAttribute("aria-label", language === "" ? "Code" : `Code, ${language}`);
  const head = element("div", [element("span", [language])]);
  head.className = "code-head";
  block.append(head, pre);
  return block;
}

// Each alternative is linear in the text: none may contain its own delimiter.
const INLINE = /(`+)([^`]+)\1|\*\*([^*]+)\*\*|__([^_]+)__|\*([^*\s][^*\n]*)\*|\[([^\][\n]+)\]\((https?:\/\/[^\s()]+)\)/g;

function inline(text) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    nodes.push(text.slice(end, match.index));
    end = match.index + match[0].length;
    const [, , code, bold, boldToo, italic, label, href] = match;
    if (code !== undefined) nodes.push(element("code", [code]));
    else if (bold !== undefined) nodes.push(element("strong", inline(bold)));
    else if (boldToo !== undefined) nodes.push(element("strong", inline(boldToo)));
    else if (italic !== undefined) nodes.push(element("em", inline(italic)));
    else nodes.push(link(label, href));
  }
  nodes.push(text.slice(end));
  return nodes;
}

function link(label, href) {
  const anchor = element("a", [label]);
  anchor.href = href;
  anchor.target = "_blank";
  anchor.rel = "noopener noreferrer";
  return anchor;
}

function element(name, children) {
  const node = document.createElement(name);
  node.append(...children);
  return node;
}
