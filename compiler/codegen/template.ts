/**
 * Renders the skeletons of `templates/` with nunjucks under tags that still read as C++: `${ }`, block and comment tags in C comments.
 *
 * Every name a template uses must be there: outputs, loops and conditions alike. A model's chat template never comes here.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import nunjucks from "nunjucks";
import { InternalError, invariant } from "../errors.ts";

/** What a template may be given: text, numbers, booleans, and lists of records of them. */
export interface TemplateContext {
  readonly [name: string]: TemplateValue;
}
type TemplateValue = string | number | boolean | readonly TemplateValue[] | TemplateContext;

const options = {
  autoescape: false,
  throwOnUndefined: true,
  trimBlocks: true,
  lstripBlocks: true,
  tags: {
    blockStart: "/*%",
    blockEnd: "%*/",
    variableStart: "$" + "{",
    variableEnd: "}",
    commentStart: "/*#",
    commentEnd: "#*/",
  },
};

/** The folder of templates: beside the sources, and beside the bundle in dist/. */
export function templatesFolder(): string {
  const candidates = ["../../templates", "../templates"].map((p) => fileURLToPath(new URL(p, import.meta.url)));
  const found = candidates.find((folder) => existsSync(join(folder, "prelude.cpu.h")));
  invariant(found, `the templates are not where they were installed: ${candidates.join(", ")}`);
  return found;
}

/** The text of one file of `templates/`. */
export const readTemplate = (file: string): string => readFileSync(join(templatesFolder(), file), "utf8");

/**
 * Renders `templates/<file>`, in which a line `/*% include "part" %*` + `/` stands for the text of that part, as far in.
 * Throws `InternalError` if the template uses a name the context does not have.
 */
export function renderTemplate(file: string, context: TemplateContext): string {
  const text = readTemplate(file).replace(/^( *)\/\*% include "([\w.]+)" %\*\/\n/gm, (_, indent: string, part: string) =>
    readTemplate(part).replace(/^(?=.)/gm, indent),
  );
  return renderText(file, text, context);
}

/** Renders template text; `file` is what errors call it. */
export function renderText(file: string, text: string, context: TemplateContext): string {
  const { names, template } = parsed.get(text) ?? parse(text);
  for (const name of names) {
    if (!Object.hasOwn(context, name)) throw new InternalError(`${file} uses ${name}, which its context does not have`);
  }
  const guarded = Object.fromEntries(Object.entries(context).map(([name, value]) => [name, guard(file, name, value)]));
  return template.render(guarded).replace(/\n{3,}/g, "\n\n");
}

interface Parsed {
  readonly names: ReadonlySet<string>;
  readonly template: nunjucks.Template;
}
/** By text: a model has one skeleton rendered for many kernels. */
const parsed = new Map<string, Parsed>();

function parse(text: string): Parsed {
  const made = { names: freeNames(text), template: new nunjucks.Template(text, new nunjucks.Environment(null, options)) };
  parsed.set(text, made);
  return made;
}

/** A record that throws where a field is missing, even inside a condition. */
function guard(file: string, path: string, value: TemplateValue): unknown {
  if (typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map((item, i) => guard(file, `${path}[${i}]`, item));
  const fields = new Map(
    Object.entries(value as TemplateContext).map(([name, field]) => [name, guard(file, `${path}.${name}`, field)]),
  );
  return new Proxy(Object.fromEntries(fields), {
    get(_, name) {
      if (typeof name === "symbol") return undefined;
      if (!fields.has(name)) throw new InternalError(`${file} uses ${path}.${name}, which its context does not have`);
      return fields.get(name);
    },
  });
}

interface Syntax {
  readonly typename: string;
  readonly value?: unknown;
  readonly name?: Syntax;
  findAll(type: unknown, into?: Syntax[]): Syntax[];
}
interface SyntaxModules {
  readonly parser: { parse(text: string, extensions: readonly unknown[], options: unknown): Syntax };
  readonly nodes: { readonly Symbol: unknown; readonly For: unknown };
}

/** Names a template takes from its context. */
function freeNames(text: string): Set<string> {
  const { parser, nodes } = nunjucks as unknown as SyntaxModules;
  const tree = parser.parse(text, [], options);
  const bound = new Set(["loop", ...tree.findAll(nodes.For).map((loop) => loop.name?.value)]);
  return new Set(
    tree
      .findAll(nodes.Symbol)
      .map((symbol) => String(symbol.value))
      .filter((name) => !bound.has(name)),
  );
}
